"""Boards over SSH, against a real OpenSSH server: nothing of ours is on the other side beforehand."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketbench import transports
from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import NotReachable
from pocketbench.transports.ssh import Ssh
from tests.integration.conftest import DIGITS, QUICK, Bench, wait_until
from tests.peers.sshd import SSHD, Sshd, sshd

pytestmark = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="needs root and Debian's openssh-server: apt-get install openssh-server"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for the file."""
    with sshd(tmp_path_factory.mktemp("ssh") / "server") as started:
        yield started


@pytest.fixture
def known(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose known_hosts has the server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "known_hosts").write_text(server.known_hosts())
    return folder


def entry(server: Sshd, **more: object) -> DeviceEntry:
    """The server as a device."""
    told = {"host": "127.0.0.1", "port": server.port, "user": server.user, "key": str(server.key), **more}
    return DeviceEntry.model_validate({"transport": "ssh", **told})


@pytest.fixture
def ssh(server: Sshd, known: Path) -> Iterator[Ssh]:
    """An open transport."""
    opened = Ssh("board", entry(server))
    opened.open()
    yield opened
    opened.close()


def test_commands_keep_exit_code_streams_and_words(ssh: Ssh) -> None:
    """Every word is one word over there, whatever is in it."""
    words = ["a b", "-rf", "$(touch pwned)", "it's", 'say "x"', "ü\n;", "*"]
    done = ssh.run(["python3", "-c", "import sys; print(sys.argv[1:])", *words], 20)
    assert (done.code, done.stdout.decode().strip(), done.stderr) == (0, repr(words), b"")
    done = ssh.run(["sh", "-c", "echo out; echo err >&2; exit 7"], 20)
    assert (done.code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    big = ssh.run(["sh", "-c", "head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2"], 30)
    assert (len(big.stdout), len(big.stderr)) == (3_000_000, 2_000_000)
    with pytest.raises(NotReachable, match="sleep did not end in time"):
        ssh.run(["sleep", "30"], 0.5)


def test_what_prints_without_end_is_ended(ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "MOST_OUTPUT_BYTES", 1_000_000)
    with pytest.raises(NotReachable, match="board: sh prints without end"):
        ssh.run(["sh", "-c", "cat /dev/zero"], 30)
    assert ssh.run(["echo", "usable"], 5).stdout == b"usable\n"


def test_files_arrive_whole(ssh: Ssh, tmp_path: Path) -> None:
    """A name with everything in it, and 20 MB."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20_000_000))
    target = tmp_path / "a b 'ü' -rf"
    ssh.push(source, str(target))
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()


def test_an_unknown_host_key_is_refused(server: Sshd, known: Path) -> None:
    """With its fingerprint and what accepts it."""
    (known / "known_hosts").write_text("")
    with pytest.raises(
        NotReachable, match=rf"is unknown \(ssh-ed25519 SHA256:.*ssh -p {server.port} {server.user}@127.0.0.1"
    ):
        Ssh("board", entry(server)).open()


def test_a_changed_host_key_is_refused(server: Sshd, known: Path) -> None:
    """It says that somebody may be in between."""
    other = server.key.with_suffix(".pub").read_text().split()
    (known / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {other[0]} {other[1]}\n")
    with pytest.raises(NotReachable, match=r"somebody may be in between.*ssh-keygen -R"):
        Ssh("board", entry(server)).open()


def test_a_pinned_host_key_stands_for_known_hosts(server: Sshd, known: Path) -> None:
    """It and no other: neither what known_hosts says nor another key is taken."""
    host, other = (path.with_suffix(".pub").read_text().strip() for path in (server.host_key, server.key))
    (known / "known_hosts").write_text("")
    pinned = Ssh("board", entry(server, host_key=host))
    pinned.open()
    assert pinned.run(["echo", "in"], 20).stdout == b"in\n"
    pinned.close()
    (known / "known_hosts").write_text(server.known_hosts())
    with pytest.raises(NotReachable, match=r"not the one that devices.yaml has.*'host_key'"):
        Ssh("board", entry(server, host_key=other)).open()
    with pytest.raises(NotReachable, match="is not a line like"):
        Ssh("board", entry(server, host_key="nonsense")).open()


def test_a_key_that_is_not_accepted(server: Sshd, known: Path) -> None:
    """And how to make one accepted."""
    with pytest.raises(NotReachable, match="ssh-copy-id"):
        Ssh("board", entry(server, key=str(server.host_key))).open()


def test_no_key_at_all(server: Sshd, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not the network's fault; a key that is named and not there is said so."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(NotReachable, match="accepts no key of yours: ssh-copy-id") as refused:
        Ssh("board", entry(server, key=None)).open()
    assert refused.value.state == "unauthorized"
    with pytest.raises(NotReachable, match="'key' /no/such in"):
        Ssh("board", entry(server, key="/no/such")).open()


def test_nobody_listens(server: Sshd, known: Path) -> None:
    """An address without a server."""
    with pytest.raises(NotReachable, match=r"127\.0\.0\.1:1 cannot be reached: Unable to connect"):
        Ssh("board", entry(server, port=1)).open()


def test_an_alias_and_a_jump_of_the_users_config(server: Sshd, known: Path) -> None:
    """HostName, Port, User, IdentityFile and ProxyJump come from ~/.ssh/config."""
    common = f"  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n  IdentityFile {server.key}\n"
    (known / "config").write_text(f"Host gate\n{common}Host inner\n{common}  ProxyJump gate\n")
    opened = Ssh("board", DeviceEntry(transport="ssh", host="inner"))
    opened.open()
    assert opened.run(["echo", "through"], 20).stdout == b"through\n"
    opened.close()


def test_a_board_is_measured(server: Sshd, bench: Bench) -> None:
    """From nothing to a table; the second run sends nothing but the handshake; outputs agree with the host's."""
    ssh_folder = bench.home / ".ssh"
    ssh_folder.mkdir(mode=0o700)
    (ssh_folder / "known_hosts").write_text(server.known_hosts())
    workdir = bench.home / "board"
    (bench.home / "devices.yaml").write_text(
        f"devices:\n  board:\n    transport: ssh\n    host: 127.0.0.1\n    port: {server.port}\n"
        f"    user: {server.user}\n    key: {server.key}\n    workdir: {workdir}\n"
        f"    python: {shutil.which('python3', path='/usr/bin') or 'python3'}\n"
    )
    models = ("--model", DIGITS / "digits-int8.tflite", "--model", DIGITS / "digits-float.onnx")
    first = bench("--device", "board", *models, *QUICK, "--format", "json")
    if "cannot be installed" in first.stderr:
        pytest.skip(f"no package index here: {first.stderr.splitlines()[0]}")
    assert first.code == 0, first.stderr
    assert [r["transport"] for r in first.results] == ["ssh", "ssh"]
    assert all(f["max_abs"] <= f["tolerance"] for r in first.results for f in r["fidelity"])
    agents = sorted(p.name for p in (workdir / "agents").iterdir())
    blobs = {p.name: p.stat().st_mtime_ns for p in (workdir / "home" / "blobs").iterdir()}
    second = bench("--device", "board", "--device", "local", *models, *QUICK, "--format", "json")
    assert second.code == 0, second.stderr
    assert [r["device"] for r in second.results] == ["board", "board", "local", "local"]
    assert sorted(p.name for p in (workdir / "agents").iterdir()) == agents
    assert {p.name: p.stat().st_mtime_ns for p in (workdir / "home" / "blobs").iterdir()} == blobs
    assert wait_until(lambda: not [p for p in bench.agents()], 15), "a released agent ends by itself"
    log = (workdir / "home" / "agent.log").read_text()
    assert json.dumps("token") not in log
