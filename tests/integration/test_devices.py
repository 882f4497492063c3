"""`bench devices` over SSH and on this machine: every state with its remedy, adding, checking, a shell, logs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketbench.cli import devices as commands
from pocketbench.config import devices as config
from pocketbench.config import edit
from pocketbench.store import lease as leases
from pocketbench.store.store import Store
from tests.integration.agents import agent, session, stub
from tests.integration.conftest import Bench
from tests.peers.sshd import SSHD, Sshd, sshd

needs_sshd = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="needs root and Debian's openssh-server: apt-get install openssh-server"
)
PYTHON = shutil.which("python3", path="/usr/bin") or "python3"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for the file."""
    with sshd(tmp_path_factory.mktemp("ssh") / "server") as started:
        yield started


@pytest.fixture
def known(server: Sshd, bench: Bench) -> Path:
    """The bench's known_hosts has the server."""
    return _known(bench, server.known_hosts())


def _known(bench: Bench, text: str) -> Path:
    path = bench.home / ".ssh" / "known_hosts"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)
    return path


def board(server: Sshd, **more: object) -> str:
    """The server as an entry of devices.yaml."""
    told = {"host": "127.0.0.1", "port": server.port, "user": server.user, "key": str(server.key), **more}
    return "{transport: ssh, " + ", ".join(f"{key}: {json.dumps(value)}" for key, value in told.items()) + "}"


def write(bench: Bench, **entries: str) -> Path:
    """The home's devices.yaml."""
    path = bench.home / "devices.yaml"
    path.write_text("devices:\n" + "".join(f"  {name}: {entry}\n" for name, entry in entries.items()))
    return path


def states(bench: Bench) -> dict[str, tuple[str, str]]:
    """State and remedy of every device; listing itself never fails."""
    ended = bench("devices", "--format", "json")
    assert ended.code == 0, ended.stderr
    return {row["name"]: (row["state"], row["remedy"]) for row in ended.doc}


def test_this_machine_needs_no_file(bench: Bench) -> None:
    ended = bench("devices")
    assert ended.code == 0, ended.stderr
    heading, _, row = ended.stdout.splitlines()
    assert heading.split() == (
        ["name", "reached", "by", "state", "model", "SoC", "OS", "arch", "runtimes", "delegates", "sensors"]
    )
    assert row.split()[:3] == ["local", "local", "ready"]
    assert not list(bench.home.rglob("agent.log")), "nothing is started by a list"


@needs_sshd
def test_every_state_over_ssh_has_its_remedy(server: Sshd, known: Path, bench: Bench) -> None:
    """One device that is away, locked or hung harms no other, and costs no more than a list may take."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        small = bench.home / "small"
        write(
            bench,
            good=board(server),
            gone=board(server, port=1),
            silent=board(server, port=hung.getsockname()[1]),
            locked=board(server, key=str(server.host_key)),
            stranger=board(server, host="localhost"),
            nohost="{transport: ssh}",
            file=board(server, workdir=str(small)),
        )
        small.write_text("not a folder")
        begin = time.monotonic()
        found = states(bench)
        assert time.monotonic() - begin < 30
    assert found["local"] == found["good"] == ("ready", "")
    assert found["gone"][0] == found["silent"][0] == found["nohost"][0] == "unreachable"
    assert "127.0.0.1:1 cannot be reached" in found["gone"][1]
    assert "needs 'host' in devices.yaml" in found["nohost"][1]
    assert found["locked"][0] == "unauthorized"
    assert "ssh-copy-id" in found["locked"][1]
    assert found["stranger"][0] == "unknown host key"
    assert f"ssh -p {server.port} {server.user}@localhost" in found["stranger"][1]
    assert all(remedy.startswith(f"{name}: ") for name, (_, remedy) in found.items() if remedy)
    table = bench("devices").stdout
    assert "\n\ngone: " in table
    kind, data = server.key.with_suffix(".pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{server.port} {kind} {data}\n")
    write(bench, changed=board(server))
    state, remedy = states(bench)["changed"]
    assert state == "host key changed"
    assert "ssh-keygen -R" in remedy


@needs_sshd
def test_busy_says_by_whom(server: Sshd, known: Path, bench: Bench) -> None:
    """By this store's leases, or by the device's own, which another host holds."""
    theirs, free = bench.home / "theirs", bench.home / "free"
    for workdir, until in ((theirs, time.time() + 60), (free, time.time() - 1)):
        (workdir / "home").mkdir(parents=True)
        lease = {"epoch": 4, "owner": "ann@other (process 9)", "until_unix_s": until}
        (workdir / "home" / "lease.json").write_text(json.dumps(lease))
    write(
        bench,
        mine=board(server, workdir=str(bench.home / "mine")),
        theirs=board(server, workdir=str(theirs)),
        free=board(server, workdir=str(free)),
    )
    url = str(bench.home / "results.db")
    store = Store(url)
    with leases.kept(store, "mine", lambda: None):
        ended = bench("devices", "--format", "json", "--store", url)
        assert bench("devices", "check", "mine", "--store", url).code == 3
        checked = bench("devices", "check", "mine", "--store", url).stdout
    store.close()
    found = {row["name"]: (row["state"], row["remedy"]) for row in ended.doc}
    assert found["free"] == ("ready", "")
    assert found["theirs"][0] == found["mine"][0] == "busy"
    assert "ann@other (process 9) for" in found["theirs"][1]
    assert f"(process {os.getpid()}) until " in found["mine"][1]
    assert "mine: failed   lease      in use by " in checked


@needs_sshd
def test_a_board_is_added_once(server: Sshd, bench: Bench) -> None:
    """Its unknown host key is refused, then accepted and pinned; the file's own text stays."""
    _known(bench, "")
    path = bench.home / "devices.yaml"
    text = f"# mine\ndefaults: {{key: {json.dumps(str(server.key))}}}\ndevices: {{}}  # none yet\n"
    path.write_text(text)
    what = f"{server.user}@127.0.0.1:{server.port}"
    refused = bench("devices", "add", what, "--name", "board")
    assert refused.code == 2
    assert "is unknown (ssh-ed25519 SHA256:" in refused.stderr
    assert "--accept-host-key" in refused.stderr
    assert path.read_text() == text
    added = bench("devices", "add", what, "--name", "board", "--accept-host-key")
    assert added.code == 0, added.stderr
    kind, data = server.host_key.with_suffix(".pub").read_text().split()[:2]
    line = (
        f"board: {{transport: ssh, host: 127.0.0.1, port: {server.port}, user: {server.user}, host_key: {kind} {data}}}"
    )
    assert path.read_text() == text.replace("{}  #", " #") + f"  {line}\n"
    assert states(bench)["board"] == ("ready", "")
    for name in ("other", "board", "all"):
        again = bench("devices", "add", what, "--name", name, "--accept-host-key")
        assert again.code == 2
    assert bench("devices", "add", what, "--name", "other").stderr.endswith("is registered already, as board\n")
    # A pinned key holds whatever known_hosts says, and another one is refused.
    other = server.key.with_suffix(".pub").read_text().split()[1]
    path.write_text(path.read_text().replace(data, other))
    assert states(bench)["board"][0] == "host key changed"


@needs_sshd
def test_a_key_is_accepted_at_the_terminal(
    server: Sshd, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(config.VARIABLE, raising=False)
    monkeypatch.setattr(commands, "at_terminal", lambda: True)
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    (ssh / "config").write_text(
        f"Host lab\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n  IdentityFile {server.key}\n"
    )
    no = CliRunner().invoke(commands.devices, ["add", "lab"], input="n\n")
    assert no.exception is not None
    assert not Path("devices.yaml").exists()
    yes = CliRunner().invoke(commands.devices, ["add", "lab"], input="y\n")
    assert yes.exception is None, yes.output
    found = config.load(Path("devices.yaml"))
    assert len(found) == 2
    name = next(name for name in found if name != "local")
    assert (found[name].host, found[name].port, found[name].user) == ("lab", None, None)
    assert found[name].host_key is not None
    by_address = CliRunner().invoke(commands.devices, ["add", f"{server.user}@127.0.0.1:{server.port}"])
    assert f"registered already, as {name}" in str(by_address.exception)


HOSTILE = {
    "-rf": "no serial, host",
    "a b": "no serial, host",
    "": "no serial, host",
    "two\nlines": "no serial, host",
    "x: {transport: local}": "no serial, host",
    "$(touch boom)@host": "no user's name",
    "-oProxyCommand=touch boom@host": "no user's name",
    "user@-oProxyCommand=x": "no serial, host",
    "host:99999": "no port",
    "ünï": "no serial, host",
    "no-such-serial": "the adb server sees no such serial",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_device_is_refused(bench: Bench, what: str) -> None:
    ended = bench("devices", "add", "--", what, ANDROID_ADB_SERVER_PORT="1")
    assert (ended.code, HOSTILE[what] in ended.stderr) == (2, True), ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert [path.name for path in bench.home.iterdir() if path.name in ("devices.yaml", "boom")] == []


@pytest.mark.parametrize("name", ["-rf", "a b", "all", "local", "ü", "two\nlines", "a: {}"])
def test_a_hostile_name_is_refused_before_anything_is_contacted(bench: Bench, name: str) -> None:
    ended = bench("devices", "add", "pi@192.0.2.1", f"--name={name}")
    assert ended.code == 2
    assert ended.stderr.startswith("Error: --name ")


def test_nothing_to_ask_and_nobody_to_ask(bench: Bench) -> None:
    ended = bench("devices", "add", ANDROID_ADB_SERVER_PORT="1")
    assert ended.code == 2
    assert "no adb server runs" in ended.stderr
    assert "USER@HOST" in ended.stderr


def test_many_who_add_at_once_lose_nothing(bench: Bench) -> None:
    path = write(bench, a="{transport: local}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: edit.add(path, f"d{n}", {"transport": "adb", "serial": f"s{n}"}), range(24)))
    assert set(config.load(path)) == {"local", "a", *(f"d{number}" for number in range(24))}


def test_a_check_of_this_machine(bench: Bench) -> None:
    ended = bench("devices", "check", "local")
    assert ended.code == 0, ended.stdout + ended.stderr
    lines = [line.split(maxsplit=3) for line in ended.stdout.splitlines()]
    found = {check: (verdict, text) for _, verdict, check, text in lines}
    names = "reach system room exec seccomp clock lease agent timing litert heat frequency load"
    assert list(found) == names.split()
    assert found["timing"][1].startswith("a model that sleeps 10 ms took 1")
    assert found["litert"] == ("ok", "a known model gives the known answer")
    log = bench("devices", "log", "local")
    assert log.code == 0
    assert all(line.startswith("local: ") for line in log.stdout.splitlines())
    assert log.stdout.splitlines()[-1].endswith("ended")
    assert len(bench("devices", "log", "local", "--lines", "1").stdout.splitlines()) == 1


def test_a_device_that_another_host_holds(bench: Bench) -> None:
    """Its store does not know of ours: the agent's own lease refuses the check, and says who has it."""
    home = bench.home / "xdg_cache_home" / "pocketbench" / "agent"
    with agent(home) as running, session(running, "ann@other (process 9)"):
        ended = bench("devices", "check", "local")
    assert ended.code == 3
    assert re.fullmatch(
        r"local: failed   lease      in use by ann@other \(process 9\) for \d+ s more \(it may renew\)",
        ended.stdout.splitlines()[-1],
    )


@needs_sshd
def test_a_check_of_a_board(server: Sshd, known: Path, bench: Bench) -> None:
    """Agent and runtime are put there; afterwards the lease is free and the agent gone."""
    workdir = bench.home / "a board"
    write(bench, board=board(server, workdir=str(workdir), python=PYTHON))
    missing = bench("devices", "log", "board", "local")
    assert missing.code == 3
    assert f"no log at {workdir}/home/agent.log" in missing.stderr
    assert "bench devices check board" in missing.stderr
    ended = bench("devices", "check", "board")
    if "cannot be installed" in ended.stdout:
        pytest.skip(f"no package index here: {ended.stdout}")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "board: ok       litert     a known model gives the known answer" in ended.stdout
    assert states(bench)["board"] == ("ready", "")
    assert bench("devices", "log", "board").stdout.startswith("board: ")


@needs_sshd
def test_a_workdir_that_runs_nothing(server: Sshd, known: Path, bench: Bench) -> None:
    mount = bench.home / "no exec"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,size=1g", "tmpfs", mount], capture_output=True)
    if done.returncode:
        pytest.skip(f"no mount allowed here: {done.stderr.decode().strip()}")
    try:
        write(bench, board=board(server, workdir=f"{mount}/w"))
        ended = bench("devices", "check", "board")
    finally:
        subprocess.run(["umount", mount], check=True)
    assert ended.code == 3
    failed = [line for line in ended.stdout.splitlines() if " failed " in line]
    assert len(failed) == 1
    assert f"nothing runs from {mount}/w: {mount} is mounted noexec: name another folder" in failed[0]
    assert "agent" not in ended.stdout.replace("agents", ""), "what would build upon it is not tried"


@needs_sshd
def test_a_command_there(server: Sshd, known: Path, bench: Bench) -> None:
    """Exit code, streams and bytes are the command's; one word is a line, several are a program with arguments."""
    write(bench, board=board(server))
    for name in ("board", "local"):
        line = subprocess.run(
            bench.command("devices", "shell", name, r"printf 'a\0\377\n'; echo err >&2; exit 7"),
            capture_output=True,
            cwd=bench.home,
            env=bench.env(),
            timeout=60,
        )
        assert (line.returncode, line.stdout, line.stderr) == (7, b"a\0\xff\n", b"err\n")
        words = bench("devices", "shell", name, "--", "printf", "%s|", "-rf", "a b", "$HOME", "--debug")
        assert (words.code, words.stdout) == (0, "-rf|a b|$HOME|--debug|")
    assert bench("devices", "shell", "local", "kill -9 $$").code == 137
    by_hand = bench("devices", "shell", "board")
    assert by_hand.stdout == f"ssh -p {server.port} -i {server.key} {server.user}@127.0.0.1\n"
    assert bench("devices", "shell", "gone", "true").code == 2
    assert "needs one device" in bench("devices", "shell", "all", "true").stderr


def test_what_opens_a_shell_on_a_phone(bench: Bench) -> None:
    write(bench, usb="{transport: adb, serial: 'R5 CT'}", wifi='{transport: adb, address: "192.168.1.17:5555"}')
    assert bench("devices", "shell", "usb").stdout == "adb -s 'R5 CT' shell\n"
    line = "adb connect 192.168.1.17:5555 && adb -s 192.168.1.17:5555 shell\n"
    assert bench("devices", "shell", "wifi").stdout == line


def test_no_token_is_ever_in_a_file_of_the_agent(tmp_path: Path) -> None:
    """Neither the session's nor one that a stranger tried."""
    import grpc

    from pocketbench_agent.rpc import agent_pb2 as pb

    with agent(tmp_path / "home") as running:
        with session(running) as opened:
            opened.observe(0.0)
        with stub(running) as calls, pytest.raises(grpc.RpcError):
            calls.Hello(pb.HelloRequest(), metadata=(("token", "a-wrong-token"),), timeout=10)
        token = running.token.encode()
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert "agent.log" in [path.name for path in files]
    assert [path.name for path in files if token in path.read_bytes() or b"a-wrong-token" in path.read_bytes()] == []
