"""Four ways to the same ADB daemon: two releases of Google's client, and our two transports."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pocketbench.config.devices import DeviceEntry
from pocketbench.transports import Completed
from pocketbench.transports.adb import Adb
from tests.integration.conftest import ROOT, wait_until

TIMEOUT_S = 20.0
# A server of a test must see neither USB nor the network around it.
QUIET = {"ADB_MDNS": "0", "ADB_EMU": "0", "ADB_USB": "0"}
KINDS = ("debian-adb", "wheel-adb", "direct", "server")
DAEMON_FOLDERS = os.pathsep.join(str(ROOT / name) for name in ("agent", "host"))


class Client(Protocol):
    """What the conformance list asks of each."""

    def connect(self) -> None:
        """Reach the device, or raise."""

    def run(self, command: Sequence[str], timeout_s: float = TIMEOUT_S) -> Completed:
        """A command to its end."""

    def push(self, source: Path, target: str) -> None:
        """Copy a file."""

    def feed(self, command: Sequence[str], line: str) -> str:
        """Give a command one line of stdin; its first line."""

    def forward(self, port: int) -> tuple[str, int]:
        """A local address of the device's port."""

    def close(self) -> None:
        """Hang up."""


class CommandLine:
    """`adb`, as a person uses it."""

    def __init__(self, server: AdbServer, address: str) -> None:
        self._server, self._address = server, address

    def connect(self) -> None:
        self._server("connect", self._address)
        state = ""

        def ready() -> bool:
            nonlocal state
            told = self._adb("get-state")
            state = (told.stdout + told.stderr).decode(errors="replace")
            return told.code == 0 and told.stdout.strip() == b"device"

        if not wait_until(ready, 3):
            raise ConnectionError(state)

    def run(self, command: Sequence[str], timeout_s: float = TIMEOUT_S) -> Completed:
        return self._adb("shell", shlex.join(command), timeout_s=timeout_s)

    def push(self, source: Path, target: str) -> None:
        done = self._adb("push", str(source), target)
        if done.code:
            raise OSError((done.stdout + done.stderr).decode(errors="replace"))

    def feed(self, command: Sequence[str], line: str) -> str:
        done = self._adb("shell", shlex.join(command), stdin=f"{line}\n".encode())
        return done.stdout.decode().splitlines()[0]

    def forward(self, port: int) -> tuple[str, int]:
        return "127.0.0.1", int(self._adb("forward", "tcp:0", f"tcp:{port}").stdout)

    def close(self) -> None:
        self._adb("forward", "--remove-all")
        self._server("disconnect", self._address)

    def _adb(self, *words: str, timeout_s: float = TIMEOUT_S, stdin: bytes = b"") -> Completed:
        return self._server("-s", self._address, *words, timeout_s=timeout_s, stdin=stdin)


class OurTransport:
    """`transports.adb`, either way."""

    def __init__(self, transport: Adb) -> None:
        self.transport = transport

    def connect(self) -> None:
        self.transport.open()

    def run(self, command: Sequence[str], timeout_s: float = TIMEOUT_S) -> Completed:
        return self.transport.run(command, timeout_s)

    def push(self, source: Path, target: str) -> None:
        self.transport.push(source, target)

    def feed(self, command: Sequence[str], line: str) -> str:
        process = self.transport.spawn(command, line)
        said = process.read_line(TIMEOUT_S).rstrip("\n")
        process.end()
        return said

    def forward(self, port: int) -> tuple[str, int]:
        host, _, local = self.transport.forward(port).rpartition(":")
        return host, int(local)

    def close(self) -> None:
        self.transport.close()


class AdbServer:
    """A private adb server of one `adb`, and commands to it."""

    def __init__(self, program: Path, home: Path, **environment: str) -> None:
        self.port = free_port()
        self._program = program
        told = {"HOME": str(home), "ANDROID_ADB_SERVER_PORT": str(self.port)}
        self._environment = {**os.environ, **QUIET, **told, **environment}
        self._environment.pop("ANDROID_SERIAL", None)
        self("start-server")

    def __call__(self, *words: str, timeout_s: float = TIMEOUT_S, stdin: bytes = b"") -> Completed:
        done = subprocess.run(
            [str(self._program), *words],
            input=stdin,
            capture_output=True,
            env=self._environment,
            timeout=timeout_s,
            check=False,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    def version(self) -> str:
        """As it tells it."""
        return self("version").stdout.decode().splitlines()[1]

    def pid(self) -> int:
        """Of the server, which is no child of ours."""
        words = f"tcp:{self.port}".encode()
        found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if words in _words(path)]
        assert len(found) == 1, found
        return int(found[0].parent.name)

    def kill(self) -> None:
        """And wait until it is gone."""
        self("kill-server")
        assert wait_until(lambda: not listens(self.port), 5), "the adb server did not end"


@contextlib.contextmanager
def adb_of_its_own(home: Path, **environment: str) -> Iterator[AdbServer]:
    """A server for one test, of the wheel's adb."""
    server = AdbServer(wheel_adb(), home, **environment)
    try:
        yield server
    finally:
        server.kill()


class Daemon:
    """The device."""

    def __init__(self, root: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        path = os.pathsep.join(filter(None, (DAEMON_FOLDERS, os.environ.get("PYTHONPATH"))))
        words = [f"--env={name}={value}" for name, value in {"PYTHONPATH": path, **(environment or {})}.items()]
        self._log = (root.parent / f"{root.name}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.peers.adbd", "--root", str(root), *words, *options],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        word, port = self.process.stdout.readline().split()
        assert word == "PORT"
        self.address = f"127.0.0.1:{port}"

    def log(self) -> str:
        """What it complained about."""
        self._log.seek(0)
        return self._log.read()

    def end(self) -> None:
        """Also where it was killed already."""
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        told = self.log()
        self._log.close()
        assert "VIOLATION" not in told and "Traceback" not in told, told


@contextlib.contextmanager
def daemon(root: Path, *options: str, **environment: str) -> Iterator[Daemon]:
    """A device of its own."""
    started = Daemon(root, *options, environment=environment)
    try:
        yield started
    finally:
        started.end()


def entry(address: str, way: str) -> DeviceEntry:
    """A device as devices.yaml would have it."""
    return DeviceEntry.model_validate({"transport": "adb", "address": address, "adb": way})


def wheel_adb() -> Path:
    """The adb inside adbutils' wheel."""
    import adbutils

    return Path(adbutils.__file__).parent / "binaries" / "adb"


def debian_adb() -> Path | None:
    """The system's."""
    found = shutil.which("adb")
    return Path(found) if found else None


def listens(port: int) -> bool:
    """Does something?"""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _words(path: Path) -> list[bytes]:
    try:
        words = path.read_bytes().split(b"\0")
    except OSError:
        return []
    return words if b"fork-server" in words else []
