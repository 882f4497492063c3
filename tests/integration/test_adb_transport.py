"""Our two ADB transports: deadlines, lost links, processes, remedies, and an agent behind them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pocketbench import transports
from pocketbench.deploy.agent import start
from pocketbench.errors import DeviceLost, NotReachable
from pocketbench.models import open_model
from pocketbench.plan import Case, Plan, RuntimeChoice
from pocketbench.session.session import Session
from pocketbench.session.wire import JobFiles
from pocketbench.transports import adb_direct, adb_process, adb_server, adb_services, create
from pocketbench.transports.adb import Adb
from tests.integration.adb_clients import (
    AdbServer,
    Daemon,
    adb_of_its_own,
    daemon,
    entry,
    free_port,
    listens,
)
from tests.integration.adb_fixtures import MB, SOON_S, device, echo, environment, opened, ours, servers, user
from tests.integration.conftest import command_lines, wait_until

QUICK = Plan(processes=1, min_time_s=0.05, max_time_s=0.2, warm_up_min_time_s=0.05)


def test_a_command_that_takes_too_long(ours: Callable[[Daemon], Adb], device: Daemon) -> None:
    with opened(ours(device)) as transport:
        begin = time.monotonic()
        with pytest.raises(NotReachable, match=r"^phone: sleep 30: it did not end within 0\.5 s; is it awake"):
            transport.run(["sleep", "30"], 0.5)
        assert time.monotonic() - begin < SOON_S
        assert transport.run(["echo", "usable"], 5).stdout == b"usable\n"


def test_what_prints_without_end_is_ended(
    ours: Callable[[Daemon], Adb], device: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "MOST_OUTPUT_BYTES", 1_000_000)
    with opened(ours(device)) as transport:
        with pytest.raises(NotReachable, match="phone: cat /dev/zero: it prints without end"):
            transport.run(["cat", "/dev/zero"], 30)
        assert transport.run(["echo", "usable"], 5).stdout == b"usable\n"


def test_a_link_that_is_cut_in_the_middle_of_a_push(ours: Callable[[Daemon], Adb], tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(30 * MB))
    with daemon(tmp_path / "root", "--cut-after", str(5 * MB)) as one, opened(ours(one)) as transport:
        begin = time.monotonic()
        with pytest.raises(DeviceLost, match="phone: copying source"):
            transport.push(tmp_path / "source", "copy")
        assert time.monotonic() - begin < SOON_S


def test_a_device_that_reads_no_more(
    ours: Callable[[Daemon], Adb], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_services, "STALL_S", 1.0)
    (tmp_path / "source").write_bytes(bytes(100 * MB))
    with daemon(tmp_path / "root", "--hole-after", str(5 * MB)) as one:
        transport = ours(one)
        with opened(transport):
            begin = time.monotonic()
            with pytest.raises(NotReachable, match="phone: copying source: nothing moved for 1 s"):
                transport.push(tmp_path / "source", "copy")
            with pytest.raises(NotReachable):
                transport.run(["true"], 1)
            assert time.monotonic() - begin < SOON_S


def test_a_process_keeps_its_stdin_and_ends(ours: Callable[[Daemon], Adb], device: Daemon) -> None:
    with opened(ours(device)) as transport:
        process = transport.spawn(["sh", "-c", 'while read -r line; do echo "<$line>"; done; echo bye >&2'], "first")
        assert process.read_line(5) == "<first>\n"
        with pytest.raises(NotReachable, match="phone: the agent said nothing"):
            process.read_line(0.3)
        process.end()
        assert process.read_line(1) == ""
        assert process.log_tail() == "bye"


def test_a_process_that_will_not_end_is_killed(
    ours: Callable[[Daemon], Adb], device: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_process, "END_WAIT_S", 0.3)
    script = "trap '' TERM HUP; read -r token; echo $$; while :; do sleep 0.1; done"
    with opened(ours(device)) as transport:
        process = transport.spawn(["sh", "-c", script], "token")
        pid = int(process.read_line(5))
        process.end()
        assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5)


def test_a_process_does_not_outlive_the_link(ours: Callable[[Daemon], Adb], tmp_path: Path) -> None:
    with daemon(tmp_path / "root") as one, opened(ours(one)) as transport:
        process = transport.spawn(["sh", "-c", "read -r token; echo $$; sleep 30"], "token")
        assert process.read_line(5).strip().isdecimal()
        one.process.kill()
        assert process.read_line(SOON_S) == ""
        assert process.log_tail()


@pytest.mark.parametrize("ends_with_stdin", [True, False])
def test_an_agent_behind_adb(
    ours: Callable[[Daemon], Adb],
    device: Daemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends_with_stdin: bool,
) -> None:
    monkeypatch.setattr(adb_process, "END_WAIT_S", 1.0)
    home = tmp_path / "a home"
    command = [sys.executable, "-m", "pocketbench_agent", "--home", str(home)]
    with opened(ours(device)) as transport:
        running = start("phone", transport, [*command, *(["--end-with-stdin"] if ends_with_stdin else [])])
        assert not [line for line in command_lines() if running.token in line]
        session = Session("phone", running, "test")
        session.open()
        with closing(session):
            path = tmp_path / "m.null"
            path.write_text(json.dumps({"sleep_ms": 1}))
            case = Case("phone", open_model(path), RuntimeChoice("null"))
            measured = session.measure(case, QUICK, JobFiles(), 0, "job")
            assert len(measured.run_ns) >= 10
        running.process.end()
    assert not [line for line in command_lines() if str(home) in line]


def test_many_forwards_and_shells_leave_nothing_behind(device: Daemon) -> None:
    before = set(threading.enumerate())
    transport = Adb("phone", entry(device.address, "direct"))
    with echo() as port, opened(transport):
        host, _, local = transport.forward(port).rpartition(":")
        for _ in range(20):
            with socket.create_connection((host, int(local)), 5) as link:
                link.sendall(b"x")
                assert link.recv(1) == b"x"
    assert wait_until(lambda: set(threading.enumerate()) <= before, 5)


def test_the_key_is_made_once_and_private(device: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):
        with opened(Adb("phone", entry(device.address, "direct"))):
            pass
    key = tmp_path / ".android" / "adbkey"
    assert key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in key.parent.iterdir()) == ["adbkey", "adbkey.pub"]


def test_without_a_server_an_address_is_reached_directly(device: Daemon) -> None:
    transport = create("phone", entry(device.address, "direct").model_copy(update={"adb": None}))
    transport.open()
    assert transport.run(["echo", "hi"], 5).stdout == b"hi\n"
    transport.close()


def test_what_cannot_be_reached_says_what_to_do(
    servers: Callable[[str], AdbServer], device: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usb = entry(device.address, "direct").model_copy(update={"adb": None, "address": None, "serial": "S3R1AL"})
    nothing = f"127.0.0.1:{free_port()}"
    cases = [
        (usb, r"^phone: (a device on USB needs an adb server \(.*adb start-server|no \S+ is seen on USB: plug it in)"),
        (usb.model_copy(update={"adb": "server"}), r"^phone: no adb server runs at 127\.0\.0\.1:\d+; start one"),
        (entry(nothing, "direct"), r"^phone: 127\.0\.0\.1:\d+: Connection refused: is debugging over TCP on"),
        (entry("a:b:c", "direct"), r"^phone: 'address: a:b:c' in devices\.yaml is not host:port"),
    ]
    for told, message in cases:
        with pytest.raises(NotReachable, match=message):
            Adb("phone", told).open()
    port = servers("wheel-adb").port
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    monkeypatch.setattr(adb_server, "CONNECT_S", 1.0)
    for told, message in (
        (usb, r"^phone: the adb server does not see S3R1AL: plug it in with USB debugging on; it sees: none$"),
        (entry(nothing, "server"), r"^phone: the adb server cannot connect to 127\.0\.0\.1:\d+: is the device on"),
    ):
        with pytest.raises(NotReachable, match=message):
            Adb("phone", told).open()
    assert listens(port)


def test_a_server_that_ends_is_not_started_again(user: Path, device: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    with adb_of_its_own(user) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        with opened(Adb("phone", entry(device.address, "server"))) as transport:
            server.kill()
            with pytest.raises(DeviceLost, match="phone: true: it is gone"):
                transport.run(["true"], 5)
        assert not listens(server.port)


def test_a_server_that_hangs(user: Path, device: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_server, "ANSWER_S", 1.0)
    with adb_of_its_own(user) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        with opened(Adb("phone", entry(device.address, "server"))) as transport, _stopped(server.pid()):
            for call in (lambda: transport.run(["true"], 1), lambda: transport.forward(1)):
                begin = time.monotonic()
                with pytest.raises(NotReachable, match=r"^phone: .*: no answer in time; is it awake"):
                    call()
                assert time.monotonic() - begin < SOON_S


def test_a_command_that_cannot_start_says_why(ours: Callable[[Daemon], Adb], device: Daemon) -> None:
    with opened(ours(device)) as transport:
        for _ in range(20):
            process = transport.spawn(["no-such-command"], "token")
            assert process.read_line(5) == ""
            assert "no-such-command" in process.log_tail()
            with pytest.raises(NotReachable, match=r"^phone: the agent did not start: .*no-such-command"):
                start("phone", transport, ["no-such-command"])


def test_a_device_without_the_shell_protocol(ours: Callable[[Daemon], Adb], tmp_path: Path) -> None:
    with (
        daemon(tmp_path / "root", "--features", "cmd") as one,
        pytest.raises(NotReachable, match="older than Android 7"),
    ):
        ours(one).open()


def test_what_speaks_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_direct, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(adb_direct, "CONNECT_S", 1.0)
    with echo(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port, pytest.raises(NotReachable, match="not speak ADB"):
        Adb("phone", entry(f"127.0.0.1:{port}", "direct")).open()


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
