"""ADB: one conformance list, four clients, one daemon that really runs commands; then what is ours alone."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from pocketbench.deploy.agent import start
from pocketbench.errors import DeviceError, DeviceLost, NotReachable
from pocketbench.models import open_model
from pocketbench.plan import Case, Plan, RuntimeChoice
from pocketbench.session import JobFiles, Session
from pocketbench.transports import adb_direct, adb_process, adb_server, adb_services, create
from pocketbench.transports.adb import Adb
from tests.integration.adb_clients import (
    KINDS,
    AdbServer,
    Client,
    CommandLine,
    Daemon,
    OurTransport,
    adb_of_its_own,
    daemon,
    debian_adb,
    entry,
    free_port,
    listens,
    wheel_adb,
)
from tests.integration.conftest import wait_until

OURS = ("direct", "server")
NAMES = (
    "a b",
    "ünï-日本",
    "it's",
    'say "x"',
    "-rf",
    "$(touch boom)",
    "two\nlines",
    "`touch boom`",
    "a;b&c|d",
    "*",
    "~",
)
MB = 1_000_000
QUICK = Plan(processes=1, min_time_s=0.05, max_time_s=0.2, warm_up_min_time_s=0.05)
# What a person would still call "at once" on a busy machine.
SOON_S = 8.0

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
def _environment(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# The conformance list.


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_exit_codes(client: Client, code: int) -> None:
    done = client.run(["sh", "-c", f"exit {code}"])
    assert (done.code, done.stdout, done.stderr) == (code, b"", b"")


def test_a_command_that_is_not_there_and_one_that_a_signal_ends(client: Client) -> None:
    missing = client.run(["no-such-command"])
    assert missing.code == 127
    assert b"no-such-command" in missing.stderr
    assert client.run(["sh", "-c", "kill -9 $$"]).code == 137


def test_stderr_stays_apart(client: Client) -> None:
    done = client.run(["sh", "-c", "echo out; echo err >&2; echo out; exit 3"])
    assert (done.code, done.stdout, done.stderr) == (3, b"out\nout\n", b"err\n")


def test_binary_output_is_unharmed(client: Client, device: Daemon) -> None:
    content = os.urandom(1_000_000) + bytes(range(256)) + b"\r\n\n\r"
    (device.root / "binary").write_bytes(content)
    assert client.run(["cat", "binary"]).stdout == content


def test_a_large_push(client: Client, device: Daemon, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20 * MB))
    source.chmod(0o755)
    os.utime(source, (1_600_000_000, 1_600_000_000))
    client.push(source, "folder/large")
    copy = device.root / "folder" / "large"
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    assert (copy.stat().st_mode & 0o777, int(copy.stat().st_mtime)) == (0o755, 1_600_000_000)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 15 * 64 * 1024])
def test_a_push_of_every_shape(client: Client, device: Daemon, tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(os.urandom(size))
    client.push(tmp_path / "source", "shape")
    assert (device.root / "shape").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_push_that_the_device_refuses_says_why(client: Client, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(3 * MB))
    with pytest.raises((DeviceError, OSError), match="couldn't create file"):
        client.push(tmp_path / "source", "/proc/no/such/file")
    assert client.run(["echo", "usable"]).stdout == b"usable\n"


@pytest.mark.parametrize("name", NAMES)
def test_names_are_data(client: Client, device: Daemon, tmp_path: Path, name: str) -> None:
    (tmp_path / "source").write_text(name)
    client.push(tmp_path / "source", f"names/{name}")
    assert (device.root / "names" / name).read_text() == name
    assert client.run(["cat", f"names/{name}"]).stdout == name.encode()
    assert client.run(["printf", "%s", name, name]).stdout == 2 * name.encode()
    assert not list(device.root.rglob("boom"))


def test_stdin(client: Client) -> None:
    assert client.feed(["sh", "-c", "read line; echo got $line"], "a 'token'") == "got a 'token'"


def test_a_forward_carries_both_ways_at_once_while_a_shell_runs(client: Client) -> None:
    with _echo() as port, ThreadPoolExecutor(3) as pool:
        shell = pool.submit(client.run, ["sh", "-c", "sleep 0.3; echo done"])
        data = os.urandom(10 * MB)
        with socket.create_connection(client.forward(port), 10) as link:
            sent = pool.submit(link.sendall, data)
            assert hashlib.sha256(_receive(link, len(data))).digest() == hashlib.sha256(data).digest()
            sent.result(10)
        assert shell.result(10).stdout == b"done\n"


def test_a_forward_to_nothing_ends_at_once(client: Client) -> None:
    with socket.create_connection(client.forward(free_port()), 10) as link:
        link.settimeout(SOON_S)
        with suppress(ConnectionResetError):
            assert link.recv(1) == b""


def test_streams_side_by_side(client: Client) -> None:
    def one(index: int) -> bytes:
        return client.run(["sh", "-c", f"head -c {index * 10_000} /dev/zero; echo {index}"]).stdout

    with ThreadPoolExecutor(8) as pool:
        for index, output in enumerate(pool.map(one, range(24))):
            assert output == bytes(index * 10_000) + f"{index}\n".encode()


def test_many_streams_one_after_the_other(client: Client) -> None:
    for index in range(200 if isinstance(client, OurTransport) else 20):
        assert client.run(["echo", str(index)]).stdout == f"{index}\n".encode()


def test_a_device_that_goes_ends_the_command(make: Make, tmp_path: Path) -> None:
    with daemon(tmp_path / "root") as one:
        client = make(one)
        client.connect()
        threading.Timer(0.5, one.process.kill).start()
        begin = time.monotonic()
        if isinstance(client, CommandLine):
            # Its exit code says nothing: adb 29.0.6 returns 0.
            client.run(["sleep", "30"])
        else:
            with pytest.raises(DeviceLost, match=r"^phone: sleep 30: "):
                client.run(["sleep", "30"])
        assert time.monotonic() - begin < SOON_S


def test_an_unknown_key_is_not_let_in(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_direct, "ALLOW_S", 1.0)
    monkeypatch.setattr(adb_server, "CONNECT_S", 2.0)
    (tmp_path / "keys").mkdir()
    refused = pytest.raises((NotReachable, ConnectionError), match="unauthorized")
    with daemon(tmp_path / "root", "--auth", str(tmp_path / "keys")) as one, refused:
        make(one).connect()


def test_a_key_that_is_accepted_is_known_the_next_time(make: Make, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    with daemon(tmp_path / "root", "--auth", str(keys), "--accept-new") as one:
        client = make(one)
        client.connect()
        assert client.run(["echo", "in"]).stdout == b"in\n"
        client.close()
    assert len(list(keys.iterdir())) == 1
    with daemon(tmp_path / "root", "--auth", str(keys)) as one:
        client = make(one)
        client.connect()
        assert client.run(["echo", "again"]).stdout == b"again\n"


def test_a_device_with_small_packets_and_checksums(make: Make, tmp_path: Path) -> None:
    with daemon(tmp_path / "root", "--maxdata", "4096", "--protocol", "0x01000000") as one:
        client = make(one)
        client.connect()
        (tmp_path / "source").write_bytes(os.urandom(300_000))
        client.push(tmp_path / "source", "copy")
        assert client.run(["cat", "copy"]).stdout == (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("kind", ["debian-adb", "wheel-adb"])
def test_what_only_the_command_lines_do(
    kind: str, servers: Callable[[str], AdbServer], device: Daemon, tmp_path: Path
) -> None:
    """Folders (LIST, LIS2), pulls (RECV, RCV2) and symbolic links: the daemon has them for whoever tries it."""
    server, root = servers(kind), device.root / kind
    (tmp_path / "tree" / "a b").mkdir(parents=True)
    (tmp_path / "tree" / "a b" / "ü").write_bytes(os.urandom(MB))
    (tmp_path / "tree" / "link").symlink_to("a b/ü")
    with closing(CommandLine(server, device.address)) as client:
        client.connect()
        assert server("-s", device.address, "push", str(tmp_path / "tree"), str(root)).code == 0
        assert server("-s", device.address, "pull", str(root), str(tmp_path / "back")).code == 0
        listed = server("-s", device.address, "ls", str(root)).stdout.decode()
        raw = server("-s", device.address, "exec-out", f"cat '{kind}/a b/ü'").stdout
    content = (tmp_path / "tree" / "a b" / "ü").read_bytes()
    assert (tmp_path / "back" / "a b" / "ü").read_bytes() == content == raw
    assert {line.split(maxsplit=3)[3] for line in listed.splitlines()} == {"a b", "link"}


def test_delayed_acknowledgements(user: Path, device: Daemon, tmp_path: Path) -> None:
    """adb 36 sends ahead of the acknowledgements when it is told to."""
    (tmp_path / "source").write_bytes(os.urandom(40 * MB))
    with adb_of_its_own(user, ADB_BURST_MODE="1") as server, closing(CommandLine(server, device.address)) as client:
        client.connect()
        client.push(tmp_path / "source", "ahead")
        assert client.run(["cat", "ahead"]).stdout == (tmp_path / "source").read_bytes()


def test_a_wrapper_and_a_root_of_the_daemon(make: Make, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("x")
    options = ("--exec-prefix", "env WRAPPED='a b'", "--sync-root", str(tmp_path / "below"))
    with daemon(tmp_path / "root", *options) as one:
        client = make(one)
        client.connect()
        assert client.run(["sh", "-c", "echo $WRAPPED; pwd"]).stdout.decode() == f"a b\n{one.root}\n"
        client.push(tmp_path / "source", "/data/local/tmp/x")
    assert (tmp_path / "below" / "data" / "local" / "tmp" / "x").read_text() == "x"


# What is ours alone.


def test_a_command_that_takes_too_long(ours: Callable[[Daemon], Adb], device: Daemon) -> None:
    with _opened(ours(device)) as transport:
        begin = time.monotonic()
        with pytest.raises(NotReachable, match=r"^phone: sleep 30"):
            transport.run(["sleep", "30"], 0.5)
        assert time.monotonic() - begin < SOON_S
        assert transport.run(["echo", "usable"], 5).stdout == b"usable\n"


def test_a_link_that_is_cut_in_the_middle_of_a_push(ours: Callable[[Daemon], Adb], tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(30 * MB))
    with daemon(tmp_path / "root", "--cut-after", str(5 * MB)) as one, _opened(ours(one)) as transport:
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
        with _opened(transport):
            begin = time.monotonic()
            with pytest.raises(NotReachable, match="phone: copying source: nothing moved for 1 s"):
                transport.push(tmp_path / "source", "copy")
            with pytest.raises(NotReachable):
                transport.run(["true"], 1)
            assert time.monotonic() - begin < SOON_S


def test_a_process_keeps_its_stdin_and_ends(ours: Callable[[Daemon], Adb], device: Daemon) -> None:
    with _opened(ours(device)) as transport:
        process = transport.spawn(["sh", "-c", 'while read -r line; do echo "<$line>"; done; echo bye >&2'], "first")
        assert process.read_line(5) == "<first>"
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
    with _opened(ours(device)) as transport:
        process = transport.spawn(["sh", "-c", script], "token")
        pid = int(process.read_line(5))
        process.end()
        assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5)


def test_a_process_does_not_outlive_the_link(ours: Callable[[Daemon], Adb], tmp_path: Path) -> None:
    with daemon(tmp_path / "root") as one, _opened(ours(one)) as transport:
        process = transport.spawn(["sh", "-c", "read -r token; echo $$; sleep 30"], "token")
        assert process.read_line(5).isdecimal()
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
    with _opened(ours(device)) as transport:
        running = start("phone", transport, [*command, *(["--end-with-stdin"] if ends_with_stdin else [])])
        assert not [line for line in _command_lines() if running.token in line]
        session = Session("phone", running, "test")
        session.open()
        with closing(session):
            path = tmp_path / "m.null"
            path.write_text(json.dumps({"sleep_ms": 1}))
            case = Case("phone", open_model(path), RuntimeChoice("null"))
            measured = session.measure(case, QUICK, JobFiles(), 0, "job")
            assert len(measured.run_ns) >= 10
        running.process.end()
    assert not [line for line in _command_lines() if str(home) in line]


def test_many_forwards_and_shells_leave_nothing_behind(device: Daemon) -> None:
    before = set(threading.enumerate())
    transport = Adb("phone", entry(device.address, "direct"))
    with _echo() as port, _opened(transport):
        host, _, local = transport.forward(port).rpartition(":")
        for _ in range(20):
            with socket.create_connection((host, int(local)), 5) as link:
                link.sendall(b"x")
                assert link.recv(1) == b"x"
    assert wait_until(lambda: set(threading.enumerate()) <= before, 5)


def test_the_key_is_made_once_and_private(device: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):
        with _opened(Adb("phone", entry(device.address, "direct"))):
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
        (usb, r"^phone: a device on USB needs an adb server; start one with `.*adb start-server`"),
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
        with _opened(Adb("phone", entry(device.address, "server"))) as transport:
            server.kill()
            with pytest.raises(DeviceLost, match="phone: true: it is gone"):
                transport.run(["true"], 5)
        assert not listens(server.port)


def test_a_server_that_hangs(user: Path, device: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_server, "ANSWER_S", 1.0)
    with adb_of_its_own(user) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        with _opened(Adb("phone", entry(device.address, "server"))) as transport, _stopped(server.pid()):
            for call in (lambda: transport.run(["true"], 1), lambda: transport.forward(1)):
                begin = time.monotonic()
                with pytest.raises(NotReachable, match=r"^phone: .*: no answer in time; is it awake"):
                    call()
                assert time.monotonic() - begin < SOON_S


def test_a_command_that_cannot_start_says_why(ours: Callable[[Daemon], Adb], device: Daemon) -> None:
    with _opened(ours(device)) as transport:
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
    with _echo(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port, pytest.raises(NotReachable, match="not speak ADB"):
        Adb("phone", entry(f"127.0.0.1:{port}", "direct")).open()


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _opened(transport: Adb) -> Iterator[Adb]:
    transport.open()
    with closing(transport):
        yield transport


@contextmanager
def _echo(greeting: bytes | None = None) -> Iterator[int]:
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


def _receive(link: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = link.recv(262144)
        if not data:
            raise EOFError(len(received))
        received += data
    return bytes(received)


def _command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
