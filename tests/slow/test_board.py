"""The emulated board: a real arm64 Linux over SSH, with and without Python."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pocketbench.config.devices import DeviceEntry
from pocketbench.transports.ssh import Ssh
from tests.integration.adb_clients import listens
from tests.integration.conftest import wait_until
from tests.peers.board import Board, board, why_not
from tests.peers.person import as_a_person

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
TIMEOUT_S = 60
NEEDED_KB = 500_000


@contextmanager
def reached(started: Board, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ssh]:
    """Our transport to it, connected."""
    monkeypatch.setenv("HOME", str(home))
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "known_hosts").write_text(started.known_hosts())
    told = {"host": "127.0.0.1", "port": started.port, "user": started.user, "key": str(started.key)}
    ssh = Ssh("board", DeviceEntry.model_validate({"transport": "ssh", **told}))
    ssh.open()
    with closing(ssh):
        yield ssh


def say(ssh: Ssh, script: str) -> str:
    """What it says."""
    return ssh.run(["sh", "-c", script], TIMEOUT_S).stdout.decode().strip()


def test_a_board_with_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with board() as started:
        with reached(started, tmp_path, monkeypatch) as ssh:
            assert say(ssh, "uname -m; uname -s") == "aarch64\nLinux"
            assert say(ssh, "python3 -c 'import platform, ssl; print(*platform.python_version_tuple()[:2])'") == "3 11"
            assert abs(int(say(ssh, "date +%s")) - time.time()) < 10
            assert int(say(ssh, 'df -Pk "$HOME" | tail -n 1 | tr -s " " | cut -d " " -f 4')) > NEEDED_KB
            assert say(ssh, "ls /sys/class/thermal") == ""
            _files(ssh, tmp_path)
            _forwards(ssh)
            boot_id = say(ssh, "cat /proc/sys/kernel/random/boot_id")
        started.reboot()
        with reached(started, tmp_path, monkeypatch) as ssh:
            assert say(ssh, "cat /proc/sys/kernel/random/boot_id") != boot_id


def test_a_board_without_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has what every Debian has, and no trace of Python."""
    with board(python=False) as started, reached(started, tmp_path, monkeypatch) as ssh:
        assert (
            say(ssh, "command -v python3 python python3.11; find / -xdev -path '*/bin/py*' -o -path '*/lib/python*'")
            == ""
        )
        for command in ("awk", "bash", "cut", "df", "find", "grep", "gzip", "ps", "sed", "setsid", "sha256sum", "tar"):
            assert say(ssh, f"command -v {command}"), command
        assert say(ssh, "test -e /lib/ld-linux-aarch64.so.1 && echo glibc") == "glibc"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_person_starts_one(tmp_path: Path, number: signal.Signals) -> None:
    """Its stdout is a devices.yaml; no machine and no file stays."""
    with as_a_person("tests.peers.board", tmp_path, "--without-python") as (started, said):
        assert said.startswith("---\ndevices:\n  board: {transport: ssh, host: 127.0.0.1, port: ")
        port = int(said.partition(" port: ")[2].partition(",")[0])
        started.send_signal(number)
        assert started.stdout is not None and started.stdout.read() == ""
        assert started.wait(TIMEOUT_S) == (0 if number == signal.SIGTERM else -number)
    assert wait_until(lambda: not listens(port), TIMEOUT_S)
    if number == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []


def _files(ssh: Ssh, folder: Path) -> None:
    source = folder / "source"
    source.write_bytes(os.urandom(2_000_000))
    ssh.push(source, "a b")
    assert say(ssh, "sha256sum < 'a b'").split()[0] == hashlib.sha256(source.read_bytes()).hexdigest()


def _forwards(ssh: Ssh) -> None:
    """To the server itself, as the one thing that listens there."""
    host, _, port = ssh.forward(22).rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as link:
        assert link.recv(4) == b"SSH-"
