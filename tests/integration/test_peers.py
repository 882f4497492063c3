"""The peers themselves: an emulated phone that is one in what counts, links that break as told, a real network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pocketbench.config.devices import DeviceEntry, load
from pocketbench.transports.adb import Adb
from pocketbench.transports.ssh import Ssh
from tests.integration.adb_clients import AdbServer, CommandLine, entry
from tests.integration.adb_fixtures import echo, environment, opened, servers, user
from tests.integration.conftest import ROOT, wait_until
from tests.peers import netns
from tests.peers.faults import Faults, faults
from tests.peers.person import as_a_person
from tests.peers.phone import Phone, phone, why_not
from tests.peers.sshd import SSHD, sshd

needs_phone = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
needs_cable = pytest.mark.skipif(netns.why_not() is not None, reason=str(netns.why_not()))
TIMEOUT_S = 20
TMP = "/data/local/tmp"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """The phone that most tests use."""
    log = tmp_path_factory.mktemp("phone") / "log"
    with phone(log=log) as started:
        yield started
    assert log.read_text() == ""


@pytest.fixture
def adb(emulated: Phone) -> Iterator[Adb]:
    """Our transport to it, connected."""
    with opened(Adb("phone", entry(emulated.address, "direct"))) as transport:
        yield transport


def shell(adb: Adb, script: str) -> tuple[int, str]:
    """Run it there: its exit code and what it said."""
    done = adb.run(["sh", "-c", f"{{ {script}; }} 2>&1"], TIMEOUT_S)
    return done.code, done.stdout.decode()


@needs_phone
def test_real_adb_sees_a_phone(emulated: Phone, servers: Callable[[str], AdbServer]) -> None:
    client = CommandLine(servers("debian-adb"), emulated.address)
    client.connect()
    with closing(client):
        assert client.run(["uname", "-m"]).stdout == b"aarch64\n"
        assert client.run(["getprop", "ro.product.model"]).stdout == b"Emulated phone\n"
        assert "model:Emulated_phone" in servers("debian-adb")("devices", "-l").stdout.decode()


@needs_phone
def test_what_android_has(adb: Adb) -> None:
    assert shell(adb, "uname -m; uname -s; id -u; pwd; echo $HOME $TMPDIR $USER") == (
        0,
        f"aarch64\nLinux\n2000\n/\n/ {TMP} shell\n",
    )
    assert shell(adb, "getprop ro.product.cpu.abi; getprop ro.build.version.sdk; getprop no.such") == (
        0,
        "arm64-v8a\n34\n\n",
    )
    code, said = shell(adb, f"df -Pk {TMP} | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4")
    assert code == 0 and int(said) > 0
    assert adb.run(["sh", "-c", "exit 7"], TIMEOUT_S).code == 7
    assert adb.run(["sh", "-c", "kill -9 $$"], TIMEOUT_S).code == 137


@needs_phone
@pytest.mark.parametrize("name", ["/sys", "/tmp", "/lib", "/usr", "/etc/passwd", "/etc/resolv.conf", "/dev/shm"])
def test_what_android_has_not(adb: Adb, name: str) -> None:
    assert shell(adb, f"test -e {name}")[0] == 1


@needs_phone
@pytest.mark.parametrize("command", ["python3", "python", "awk", "perl", "bash", "apt-get"])
def test_commands_that_are_not_there(adb: Adb, command: str) -> None:
    code, said = shell(adb, command)
    assert code == 127 and command in said


@needs_phone
def test_only_data_can_be_written(adb: Adb, emulated: Phone) -> None:
    for name in ("/x", "/system/x", "/proc/sys/kernel/core_uses_pid"):
        assert shell(adb, f"true > {name}")[0] != 0
    assert shell(adb, f"mkdir {TMP}/made && chmod 000 {TMP}/made && touch {TMP}/made/x")[0] != 0
    assert shell(adb, f"rmdir {TMP}/made; echo x > {TMP}/x; rm {TMP}/x; ls {TMP}") == (0, "")
    assert list((emulated.data / "local" / "tmp").iterdir()) == []


@needs_phone
def test_a_pushed_script_runs(adb: Adb, emulated: Phone, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/system/bin/sh\necho "$0" "$@" "$(uname -m)"\nexit 3\n')
    script.chmod(0o755)
    adb.push(script, f"{TMP}/a b")
    assert (emulated.data / "local" / "tmp" / "a b").read_bytes() == script.read_bytes()
    assert adb.run(["cat", f"{TMP}/a b"], TIMEOUT_S).stdout == script.read_bytes()
    done = adb.run([f"{TMP}/a b", "c d"], TIMEOUT_S)
    assert (done.code, done.stdout) == (3, f"{TMP}/a b c d aarch64\n".encode())
    adb.run(["rm", f"{TMP}/a b"], TIMEOUT_S)


@needs_phone
def test_loopback_is_shared(adb: Adb) -> None:
    """What listens inside is reached by a forward."""
    with echo() as port:
        host, _, local = adb.forward(port).rpartition(":")
        with socket.create_connection((host, int(local)), TIMEOUT_S) as link:
            link.sendall(b"hello")
            assert link.recv(5) == b"hello"


@needs_phone
def test_a_reboot(tmp_path: Path) -> None:
    """Another boot id, no process from before, the same files and address."""
    boot_id = ["cat", "/proc/sys/kernel/random/boot_id"]
    with phone() as started, opened(Adb("phone", entry(started.address, "direct"))) as adb:
        before = adb.run(boot_id, TIMEOUT_S).stdout
        assert len(before) == 37 and before == adb.run(boot_id, TIMEOUT_S).stdout
        shell(adb, f"setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo kept > {TMP}/kept")
        assert "sleep" in shell(adb, "ps -A -o ARGS")[1]
        address = started.address
        started.reboot()
        with opened(Adb("phone", entry(started.address, "direct"))) as again:
            assert started.address == address
            assert again.run(boot_id, TIMEOUT_S).stdout != before
            assert "sleep" not in shell(again, "ps -A -o ARGS")[1]
            assert again.run(["cat", f"{TMP}/kept"], TIMEOUT_S).stdout == b"kept\n"


@needs_phone
def test_two_phones_and_a_full_one(adb: Adb, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    with phone(data_bytes=2_000_000) as small, opened(Adb("small", entry(small.address, "direct"))) as other:
        with pytest.raises(Exception, match="No space left"):
            other.push(source, f"{TMP}/source")
        shell(other, f"rm -f {TMP}/*; echo other > {TMP}/mine")
        assert (small.data / "local" / "tmp" / "mine").read_text() == "other\n"
        assert shell(adb, f"ls {TMP}/mine")[0] == 1
        small.reboot()
        assert (small.data / "local" / "tmp" / "mine").read_text() == "other\n"


@needs_phone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_person_starts_one(tmp_path: Path, number: signal.Signals) -> None:
    """Its stdout is a devices.yaml and comes at once; nothing is left of it, whatever ended it."""
    with as_a_person("tests.peers.phone", tmp_path) as (started, said):
        (tmp_path / "devices.yaml").write_text(said)
        device = load(tmp_path / "devices.yaml")["phone"]
        with opened(Adb("phone", device)) as adb:
            assert shell(adb, "uname -m") == (0, "aarch64\n")
        inside = _below(started.pid)
        assert len(inside) >= 4
        started.send_signal(number)
        assert started.stdout is not None and started.stdout.read() == ""
        assert started.wait(TIMEOUT_S) == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inside), TIMEOUT_S)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["devices.yaml"]


def _below(pid: int) -> set[int]:
    """What that process started, and what those did."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    found, waiting = set(), [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting += children
    return found


@contextmanager
def spoilt_link() -> Iterator[tuple[Faults, socket.socket]]:
    """A connection through the proxy to a server that sends everything back."""
    with (
        echo() as port,
        faults(port) as knobs,
        socket.create_connection(("127.0.0.1", knobs.port), TIMEOUT_S) as link,
    ):
        yield knobs, link


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


def test_a_link_without_faults() -> None:
    content = os.urandom(5_000_000)
    with spoilt_link() as (knobs, link):
        for start in range(0, len(content), 100_000):
            link.sendall(content[start : start + 100_000])
            assert _exactly(link, 100_000) == content[start : start + 100_000]
        assert wait_until(lambda: knobs.to_target.passed == knobs.from_target.passed == len(content), TIMEOUT_S)
        link.shutdown(socket.SHUT_WR)
        assert link.recv(1) == b""


def test_cut_after_bytes_and_now() -> None:
    with spoilt_link() as (knobs, link):
        knobs.to_target.cut_at = 1000
        link.sendall(bytes(1001))
        with pytest.raises(ConnectionResetError):
            _exactly(link, 1001)
        assert knobs.to_target.passed == 1000
        knobs.to_target.cut_at = None
        with socket.create_connection(("127.0.0.1", knobs.port), TIMEOUT_S) as again:
            again.sendall(b"x")
            assert again.recv(1) == b"x"
            knobs.cut()
            with pytest.raises(ConnectionResetError):
                again.recv(1)


def test_a_hole_swallows_until_it_is_gone() -> None:
    with spoilt_link() as (knobs, link):
        knobs.hole = True
        link.sendall(b"x")
        link.settimeout(0.3)
        with pytest.raises(TimeoutError):
            link.recv(1)
        knobs.hole = False
        link.settimeout(TIMEOUT_S)
        assert link.recv(1) == b"x"


def test_a_delay_each_way() -> None:
    with spoilt_link() as (knobs, link):
        knobs.delay(0.2)
        start = time.monotonic()
        link.sendall(b"x")
        assert link.recv(1) == b"x"
        assert time.monotonic() - start >= 0.4


def test_one_byte_flips() -> None:
    with spoilt_link() as (knobs, link):
        knobs.from_target.flip_at = 3
        link.sendall(bytes(8))
        assert _exactly(link, 8) == b"\0\0\0\1\0\0\0\0"


@needs_cable
def test_daemons_at_the_far_end_of_a_cable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB over packets of Ethernet's size, to the ADB daemon and to sshd; nothing of the cable stays."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20_000_000))
    monkeypatch.setenv("HOME", str(tmp_path))
    with netns.cable() as cable:
        words = ["--host", cable.address, "--root", str(tmp_path)]
        command = cable.command([sys.executable, "-m", "tests.peers.adbd", *words])
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as daemon:
            assert daemon.stdout is not None
            address = f"{cable.address}:{daemon.stdout.readline().split()[1]}"
            with opened(Adb("far", entry(address, "direct"))) as adb:
                adb.push(source, "by-adb")
            daemon.terminate()
        assert (tmp_path / "by-adb").read_bytes() == source.read_bytes()
        if SSHD is not None:
            with sshd(tmp_path / "sshd", cable.address, cable.command([])) as server:
                _push_by_ssh(server.address, server.port, server.key, server.known_hosts(), source, tmp_path)
        name = cable.near_address
    assert name not in subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout


def _push_by_ssh(host: str, port: int, key: Path, known: str, source: Path, home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "known_hosts").write_text(known)
    told = {"transport": "ssh", "host": host, "port": port, "user": "root", "key": str(key)}
    ssh = Ssh("far", DeviceEntry.model_validate(told))
    ssh.open()
    with closing(ssh):
        ssh.push(source, str(home / "by-ssh"))
    assert (home / "by-ssh").read_bytes() == source.read_bytes()
