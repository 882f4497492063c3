"""ADB: one conformance list, four clients, one daemon that really runs commands."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pocketbench.errors import DeviceError, DeviceLost, NotReachable
from pocketbench.transports import adb_direct, adb_server
from tests.integration.adb_clients import (
    AdbServer,
    Client,
    CommandLine,
    Daemon,
    OurTransport,
    adb_of_its_own,
    daemon,
    free_port,
)
from tests.integration.adb_fixtures import MB, SOON_S, Make, client, device, echo, environment, make, servers, user

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
    with echo() as port, ThreadPoolExecutor(3) as pool:
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


def _receive(link: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = link.recv(262144)
        if not data:
            raise EOFError(len(received))
        received += data
    return bytes(received)
