"""Links to devices that are cut, silent, slow or spoilt, and servers in between that die."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import DEADLINE_S, LONG, OK, QUICK, Lab, wait_until
from tests.integration.adb_clients import adb_of_its_own, daemon, free_port, listens
from tests.peers.faults import Faults, faults
from tests.peers.sshd import SSHD, sshd

PYTHON = "/usr/bin/python3"
needs_sshd = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="needs root and Debian's openssh-server: apt-get install openssh-server"
)
# A model of so many bytes, to be in the middle of sending it.
LARGE_BYTES = 20_000_000


@pytest.fixture(autouse=True)
def _alone(lab: Lab) -> None:
    """No server of the user's is asked."""
    lab.bench.environment["ANDROID_ADB_SERVER_PORT"] = str(free_port())


def large(lab: Lab) -> Path:
    """A model that takes a while to be sent."""
    path = lab.bench.null("m", sleep_ms=5)
    path.write_bytes(path.read_bytes() + os.urandom(LARGE_BYTES // 2).hex().encode().translate(bytes([32] * 256)))
    return path


@contextmanager
def board(lab: Lab, **more: object) -> Iterator[Faults]:
    """Devices `a`, over SSH behind a proxy that can spoil its link, and `b`, this machine."""
    with sshd(lab.home / "server") as server, faults(server.port) as knobs:
        key = server.host_key.with_suffix(".pub").read_text().strip()
        told = {"transport": "ssh", "host": "127.0.0.1", "port": knobs.port, "user": server.user}
        told |= {"key": str(server.key), "host_key": key, "python": PYTHON, "env": {"HOME": str(lab.home)}, **more}
        lab.devices(a=told, b={})
        yield knobs


@contextmanager
def phone(lab: Lab, *options: str, way: str = "direct") -> Iterator[Faults]:
    """Devices `a`, over ADB behind such a proxy, and `b`."""
    with daemon(lab.home / "phone", *options) as one, faults(int(one.address.rpartition(":")[2])) as knobs:
        told = {"transport": "adb", "address": f"127.0.0.1:{knobs.port}", "adb": way, "python": PYTHON}
        lab.devices(a={**told, "env": {"HOME": str(lab.home)}}, b={})
        yield knobs


def test_a_link_that_is_cut_while_a_model_is_sent(lab: Lab) -> None:
    """At 60 %: the rest is sent over a new link, and what arrives is whole."""
    with phone(lab) as knobs:
        lab.check(lab.start("--device", "a", "--model", lab.bench.null("first", sleep_ms=1), *QUICK), 0, {"first": OK})
        before = knobs.to_target.passed
        knobs.to_target.cut_at = before + LARGE_BYTES * 6 // 10
        running = lab.start("--device", "a", "--device", "b", "--model", large(lab), *QUICK)
        assert wait_until(lambda: knobs.to_target.passed >= before + LARGE_BYTES * 6 // 10, DEADLINE_S)
        knobs.to_target.cut_at = None
        lab.check(running, 0, {"a/m": OK, "b/m": OK})
        assert knobs.to_target.passed - before < LARGE_BYTES * 1.5, "it was sent anew"


def test_a_byte_that_is_spoilt_on_the_way(lab: Lab) -> None:
    """To a device that checks no sums: the model arrives with another hash, is not kept, and is sent again."""
    with phone(lab, "--trusting") as knobs:
        lab.check(lab.start("--device", "a", "--model", lab.bench.null("first", sleep_ms=1), *QUICK), 0, {"first": OK})
        before = knobs.to_target.passed
        knobs.to_target.flip_at = before + LARGE_BYTES * 6 // 10
        running = lab.start("--device", "a", "--model", large(lab), *QUICK)
        lab.check(running, 0, {"m": OK})
        assert knobs.to_target.passed - before > LARGE_BYTES * 1.5, "it was not sent again"


@needs_sshd
def test_a_link_that_is_cut_while_it_measures(lab: Lab) -> None:
    """The job runs on, and is collected over a new link; the device beside it is not delayed."""
    with board(lab) as knobs:
        running = lab.start("--device", "a", "--device", "b", "--model", lab.bench.null("m", sleep_ms=10), *LONG)
        assert wait_until(lambda: lab.log("a").in_the_middle(1), DEADLINE_S)
        knobs.cut()
        ended = lab.check(running, 0, {"a/m": OK, "b/m": OK}, beside="b")
        assert {result["attempt"] for result in ended.results} == {1}
        assert set(lab.log("a").begun().values()) == {1}


@needs_sshd
def test_a_link_that_is_silent_for_a_moment(lab: Lab) -> None:
    """Eight seconds without a byte: nothing is lost, nothing measured twice."""
    with board(lab) as knobs:
        running = lab.start("--device", "a", "--model", lab.bench.null("m", sleep_ms=10), *LONG)
        assert wait_until(lambda: lab.log("a").in_the_middle(1), DEADLINE_S)
        knobs.hole = True
        time.sleep(8)
        knobs.hole = False
        lab.check(running, 0, {"m": OK})
        assert set(lab.log("a").begun().values()) == {1} and len(lab.log("a").begun()) == 6


@needs_sshd
def test_an_ssh_server_that_changed_its_key(lab: Lab) -> None:
    """Refused before anything is sent; the device beside it is measured."""
    with board(lab, host_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1Ygl0p0CkRJ8Mqfl9bJmkPrxYb2HEbKkRXlTp9xkQz"):
        running = lab.start("--device", "a", "--device", "b", "--model", lab.bench.null("m", sleep_ms=5), *QUICK)
        lab.check(running, 3, {"a/m": ("SKIPPED", "not_available"), "b/m": OK})


def test_an_adb_server_that_is_restarted(lab: Lab) -> None:
    """In the middle, as a tool of another version does it: its forwards are gone, and are made anew."""
    user = lab.home / "user"
    user.mkdir()
    with adb_of_its_own(user) as server, phone(lab, way="server"):
        lab.bench.environment["ANDROID_ADB_SERVER_PORT"] = str(server.port)
        running = lab.start("--device", "a", "--device", "b", "--model", lab.bench.null("m", sleep_ms=10), *LONG)
        assert wait_until(lambda: lab.log("a").in_the_middle(1), DEADLINE_S)
        os.kill(server.pid(), signal.SIGKILL)
        # Started while the old one still dies, it would find it, and start nothing.
        assert wait_until(lambda: not listens(server.port), 10)
        server("start-server")
        assert listens(server.port)
        ended = lab.check(running, 0, {"a/m": OK, "b/m": OK}, beside="b")
        assert set(lab.log("a").begun().values()) == {1}, ended.stderr


@contextmanager
def adb_server(answer: bytes | None) -> Iterator[int]:
    """What listens where an adb server would, and answers every request so, or never."""
    stop = threading.Event()
    links: list[socket.socket] = []

    def serve() -> None:
        while not stop.is_set():
            try:
                link, _ = listener.accept()
            except TimeoutError:
                continue
            links.append(link)
            link.settimeout(0.5)
            if answer is not None:
                try:
                    link.recv(1000)
                    link.sendall(answer)
                except OSError:
                    pass
                link.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()
            for link in links:
                link.close()


def devices_answer(state: str) -> bytes:
    """To `host:devices`."""
    listed = f"emulator-5554\t{state}\n".encode()
    return b"OKAY" + b"%04x" % len(listed) + listed


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        pytest.param(None, "no answer in time", id="never"),
        pytest.param(b"", "the adb server", id="hangs up"),
        pytest.param(b"OKAYffff" + b"x" * 100, "the adb server", id="breaks off"),
        pytest.param(b"\xff\x00" * 5000, "the adb server", id="garbage"),
        pytest.param(devices_answer("unauthorized"), "tap Allow", id="unauthorized"),
        pytest.param(devices_answer("offline"), "adb reconnect", id="offline"),
        pytest.param(devices_answer("no permissions"), "udev", id="no permissions"),
    ],
)
def test_an_adb_server_that_is_no_help(lab: Lab, answer: bytes | None, word: str) -> None:
    """SKIPPED, exit code 3 and not 1, with what to do; the device beside it is measured."""
    with adb_server(answer) as port:
        lab.bench.environment["ANDROID_ADB_SERVER_PORT"] = str(port)
        lab.devices(a={"transport": "adb", "serial": "emulator-5554", "adb": "server"}, b={})
        running = lab.start("--device", "a", "--device", "b", "--model", lab.bench.null("m", sleep_ms=5), *QUICK)
        ended = lab.check(running, 3, {"a/m": ("SKIPPED", "not_available"), "b/m": OK})
        assert word in ended.stderr


def test_a_phone_that_does_not_know_this_computer(lab: Lab) -> None:
    """Without a server in between: it has to be unlocked and tapped."""
    (lab.home / "keys").mkdir()
    soon = "import pocketbench.transports.adb_direct as direct\ndirect.ALLOW_S = 3.0\n"
    lab.bench.environment.update(lab.lying(soon, "pocketbench"))
    with phone(lab, "--auth", str(lab.home / "keys")):
        running = lab.start("--device", "a", "--device", "b", "--model", lab.bench.null("m", sleep_ms=5), *QUICK)
        ended = lab.check(running, 3, {"a/m": ("SKIPPED", "not_available"), "b/m": OK})
        assert "unlock the device" in ended.stderr


def test_two_devices_that_are_not_there(lab: Lab) -> None:
    """Nobody listens at their addresses: SKIPPED side by side, and the third is measured at once."""
    gone = {"transport": "ssh", "host": "127.0.0.1", "port": free_port(), "user": "nobody"}
    lab.devices(a=gone, c={"transport": "adb", "address": f"127.0.0.1:{free_port()}", "adb": "direct"}, b={})
    names = [word for name in "acb" for word in ("--device", name)]
    running = lab.start(*names, "--model", lab.bench.null("m", sleep_ms=5), *QUICK)
    away = ("SKIPPED", "not_available")
    lab.check(running, 3, {"a/m": away, "c/m": away, "b/m": OK})
