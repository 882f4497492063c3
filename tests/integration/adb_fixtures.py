"""Fixtures of the ADB tests: a user, private adb servers, a device, and clients to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from pocketbench.transports.adb import Adb
from tests.integration.adb_clients import (
    KINDS,
    AdbServer,
    Client,
    CommandLine,
    Daemon,
    OurTransport,
    daemon,
    debian_adb,
    entry,
    free_port,
    wheel_adb,
)

OURS = ("direct", "server")
# What a person would still call "at once" on a busy machine.
SOON_S = 8.0
MB = 1_000_000

Make = Callable[[Daemon], Client]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a key of its own, shared by every client as on a real machine."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def servers(user: Path) -> Iterator[Callable[[str], AdbServer]]:
    """Private adb servers, started when first asked for, ended at last."""
    running: dict[str, AdbServer] = {}

    def get(kind: str) -> AdbServer:
        program = debian_adb() if kind == "debian-adb" else wheel_adb()
        if program is None:
            pytest.skip("no adb on this system: make peers")
        if kind not in running:
            running[kind] = AdbServer(program, user)
            print(f"{kind}: {running[kind].version()}")
        return running[kind]

    yield get
    for server in running.values():
        server.kill()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The device that most tests use."""
    with daemon(tmp_path_factory.mktemp("device") / "root") as started:
        yield started


@pytest.fixture(autouse=True)
def environment(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's home; a server port where nothing listens, unless a test says otherwise."""
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))


@pytest.fixture(params=KINDS)
def make(
    request: pytest.FixtureRequest, servers: Callable[[str], AdbServer], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Each of the four clients for a device; closed afterwards."""
    with ExitStack() as stack:

        def build(to: Daemon) -> Client:
            client = _client(request.param, to, servers, monkeypatch)
            stack.callback(client.close)
            return client

        yield build


@pytest.fixture(params=OURS)
def ours(
    request: pytest.FixtureRequest, servers: Callable[[str], AdbServer], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Daemon], Adb]:
    """Our two transports; the test closes."""
    way: str = request.param
    if way == "server":
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(servers("wheel-adb").port))
    return lambda to: Adb("phone", entry(to.address, way))


@pytest.fixture
def client(make: Make, device: Daemon) -> Client:
    """A connected client."""
    made = make(device)
    made.connect()
    return made


def _client(kind: str, to: Daemon, servers: Callable[[str], AdbServer], monkeypatch: pytest.MonkeyPatch) -> Client:
    if kind in ("debian-adb", "wheel-adb"):
        return CommandLine(servers(kind), to.address)
    if kind == "server":
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(servers("wheel-adb").port))
    return OurTransport(Adb("phone", entry(to.address, kind)))


@contextmanager
def opened(transport: Adb) -> Iterator[Adb]:
    transport.open()
    with closing(transport):
        yield transport


@contextmanager
def echo(greeting: bytes | None = None) -> Iterator[int]:
    """A server that sends back what it gets, or its greeting."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def one(link: socket.socket) -> None:
        with link:
            try:
                while data := link.recv(65536):
                    link.sendall(data if greeting is None else greeting)
            except OSError:
                pass

    def accept() -> None:
        while not stop.is_set():
            try:
                link, _ = listener.accept()
            except TimeoutError:
                continue
            link.settimeout(20)
            threads.append(threading.Thread(target=one, args=(link,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            accepting.join()
            for thread in threads:
                thread.join(20)
