"""What a device answers before anything of ours is on it, and what follows from it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import bundle, probe, remote
from pocketbench.deploy.runtimes import pack
from pocketbench.errors import DeviceBusy, NotReachable
from pocketbench.transports import Completed, Sent, unheard

DF = "/dev/root 30000000 1000000 {} 4% /"
PHONE = ["arch=aarch64", "system=Linux", "workdir=/data/local/tmp/pocketbench", "android=14", "free=" + DF, "now=1000"]
BOARD = ["arch=aarch64", "system=Linux", "workdir=/w", "python=python3 3.13.1 True", "free=" + DF, "now=1000"]


def parse(lines: list[str], free_kb: int = 29_000_000, stderr: bytes = b"", **keys: Any) -> probe.Probed:
    told = "\n".join(lines).replace("{}", str(free_kb)) + "\n"
    entry = DeviceEntry.model_validate({"transport": "ssh", "host": "h", **keys})
    return probe.parse("pi5", entry, Completed(0, told.encode(), stderr))


def test_a_board_with_python_uses_it() -> None:
    found = parse([*BOARD, "have.agents/abc/complete=1", "have.pythons/x y/complete=1"])
    assert (found.arch, found.python, found.version, found.android) == ("aarch64", "python3", (3, 13, 1), False)
    assert (found.workdir, found.free_bytes, found.holder) == ("/w", 29_000_000 * 1024, "")
    assert found.has("/w/agents/abc") and found.has("/w/pythons/x y") and not found.has("/w/agents/ab")


def test_a_phone_gets_the_bundle() -> None:
    found = parse(PHONE)
    assert (found.python, found.android) == ("", True)


def test_an_old_python_is_none_unless_it_was_asked_for() -> None:
    old = [line.replace("3.13.1", "3.9.2") for line in BOARD]
    assert parse(old).python == ""
    with pytest.raises(
        NotReachable, match=r"pi5: 'python: system' needs .*\(python3 is Python 3\.9\).*'python: bundle'"
    ):
        parse(old, python="system")
    with pytest.raises(NotReachable, match=r"needs a Python 3\.10 or newer there \(there is none\)"):
        parse(PHONE, python="/opt/python3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("arch=aarch64", "arch=armv7l"), r"is a 32-bit system \(armv7l\).* with 'python: host'"),
        (("True", "False"), "is a 32-bit system"),
        (("system=Linux", "system=Darwin"), "is no Linux that answers"),
        (("free=", "fee="), "/w cannot be made there: name another with 'workdir'"),
    ],
)
def test_what_cannot_be_used(change: tuple[str, str], message: str) -> None:
    with pytest.raises(NotReachable, match=f"pi5: {message}"):
        parse([line.replace(*change) for line in BOARD])


@given(st.binary(max_size=400), st.binary(max_size=100))
def test_any_answer_is_one_or_an_error(stdout: bytes, stderr: bytes) -> None:
    try:
        probe.parse("pi5", DeviceEntry(transport="ssh", host="h"), Completed(0, stdout, stderr))
    except NotReachable:
        return


def test_a_python_without_its_library_is_none() -> None:
    """Debian's python3-minimal."""
    minimal = [line.replace("True", "True False") for line in BOARD]
    assert parse(minimal).python == ""
    assert parse([line.replace("True", "True True") for line in BOARD]).python == "python3"
    with pytest.raises(NotReachable, match=r"python3 is Python 3\.13 without its standard library: apt-get install"):
        parse(minimal, python="system")


def test_a_file_system_that_tells_no_share() -> None:
    """As some that are no disks do; and a device's name may be so long that df begins a line for the numbers."""
    for line in ("free=overlay 100 50 {} - /w", "free= 100 50 {} 50% /w"):
        assert parse([*BOARD[:4], line], free_kb=7).free_bytes == 7 * 1024


def test_who_has_it() -> None:
    lease = '{"epoch": 3, "owner": "ann@lab (process 7)", "until_unix_s": 1060}'
    assert parse([*BOARD, f"lease={lease}"]).holder == "ann@lab (process 7) for 60 s more (it may renew)"
    clock_was_set = lease.replace("1060", "1700000000")
    for other in (clock_was_set, lease.replace("1060", "999"), lease.replace("ann@lab (process 7)", ""), "{", "7", ""):
        assert parse([*BOARD, f"lease={other}"]).holder == ""


class Shell:
    """A transport to a shell on this machine that notes what was pushed."""

    def __init__(self) -> None:
        self.pushed: list[str] = []

    def run(self, command: list[str], timeout_s: float) -> Completed:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)

    def push(self, source: Path, target: str, sent: Sent = unheard) -> None:
        Path(target).write_bytes(source.read_bytes())
        self.pushed.append(target)


def test_the_script_is_understood_by_a_shell(tmp_path: Path) -> None:
    workdir = tmp_path / "a b 'ü' $(touch boom)"
    (workdir / "agents" / "x").mkdir(parents=True)
    (workdir / "agents" / "x" / "complete").touch()
    entry = DeviceEntry(transport="ssh", host="h", workdir=str(workdir))
    found = probe.probe("here", Shell(), entry)  # type: ignore[arg-type]
    assert found.workdir == str(workdir) and found.has(f"{workdir}/agents/x") and found.free_bytes > 0
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("given", ["~/a=b", "x/../a=b", None])
def test_workdirs_that_a_shell_would_read_otherwise(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home, a relative one, an equals sign: what is there is found again, and all paths are whole ones."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    entry = DeviceEntry(transport="ssh", host="h", workdir=given or f"{tmp_path}/a=b")
    found = probe.probe("here", Shell(), entry)  # type: ignore[arg-type]
    assert found.workdir.startswith(f"{tmp_path}/")
    (tmp_path / "a=b" / "agents" / "x").mkdir(parents=True)
    (tmp_path / "a=b" / "agents" / "x" / "complete").touch()
    (tmp_path / "x").mkdir(exist_ok=True)
    found = probe.probe("here", Shell(), entry)  # type: ignore[arg-type]
    assert found.has(f"{found.workdir}/agents/x")


def put(folder: Path, source: Path) -> Completed:
    script, shell = remote.UNPACK_ZIP, Shell()
    say: list[str] = []
    return remote._put("pi5", shell, "sending", source, str(folder), script, say.append, python=sys.executable)  # type: ignore[arg-type]


def test_two_hosts_put_the_same_there_at_once(tmp_path: Path) -> None:
    """Neither sees, or unpacks over, what the other has not finished; nothing is left beside it."""
    packages, packed = tmp_path / "packages", tmp_path / "agent.zip"
    packages.mkdir()
    for number in range(200):
        (packages / f"m{number}.py").write_text(f"x = {number}\n" * 100)
    pack(packages, packed)
    (tmp_path / "agents").mkdir()
    folder = tmp_path / "agents" / "a b"
    for _ in range(3):
        with ThreadPoolExecutor(4) as hosts:
            ended = list(hosts.map(lambda _: put(folder, packed), range(4)))
        assert [(done.code, done.stderr) for done in ended] == [(0, b"")] * 4
        assert len(list(folder.glob("*.py"))) == 200 and (folder / "complete").is_file()
        assert [path.name for path in (tmp_path / "agents").iterdir()] == ["a b"]


def test_what_was_broken_off_is_replaced(tmp_path: Path) -> None:
    """A folder without its mark, a broken archive, and what is left of either."""
    packages, packed = tmp_path / "packages", tmp_path / "agent.zip"
    packages.mkdir()
    (packages / "m.py").write_text("x = 1\n")
    pack(packages, packed)
    folder = tmp_path / "agents" / "a"
    (folder / "old").mkdir(parents=True)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(packed.read_bytes()[:-40])
    assert put(folder, broken).code
    assert put(folder, packed).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["complete", "m.py"]
    left = folder.with_name("b.new-1")
    left.mkdir()
    os.utime(left, (0, 0))
    folder.with_name("b.new-2").mkdir()
    done = Shell().run(["sh", "-c", remote.MAKE_FOLDERS, "sh", str(tmp_path)], 10)
    assert (done.code, sorted(path.name for path in folder.parent.iterdir())) == (0, ["a", "b.new-2"])


def test_what_runs_stays(tmp_path: Path) -> None:
    """Whatever the lease says: a clock that was set makes it look ended."""
    for name in ("agents/used", "agents/old"):
        (tmp_path / name).mkdir(parents=True)
    running = {**os.environ, "PYTHONPATH": f"{tmp_path}/agents/used"}
    with subprocess.Popen(["sleep", "60"], env=running) as sleeping:
        probed = parse([line.replace("/w", str(tmp_path)) for line in BOARD], free_kb=10)
        remote._make_room("pi5", Shell(), probed, [], 20_000)  # type: ignore[arg-type]
        sleeping.kill()
    assert [path.name for path in (tmp_path / "agents").iterdir()] == ["used"]


def test_old_agents_go_when_space_is_short(tmp_path: Path) -> None:
    for name in ("agents/old", "agents/new", "pythons/old", "pythons/new", "home/blobs"):
        (tmp_path / name).mkdir(parents=True)
    told = [line.replace("/w", str(tmp_path)) for line in BOARD]
    probed = parse(told, free_kb=10)
    kept = [f"{tmp_path}/agents/new", f"{tmp_path}/pythons/new"]
    remote._make_room("pi5", Shell(), probed, kept, 20_000)  # type: ignore[arg-type]
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert left == ["agents/new", "home/blobs", "pythons/new"]
    with pytest.raises(NotReachable, match=r"MB are free in .*; make room there, or name another .*'python: host'"):
        remote._make_room("pi5", Shell(), probed, kept, 10**18)  # type: ignore[arg-type]


def test_nothing_goes_while_somebody_measures(tmp_path: Path) -> None:
    lease = '{"epoch": 3, "owner": "ann", "until_unix_s": 1060}'
    probed = parse([*BOARD, f"lease={lease}"], free_kb=10)
    with pytest.raises(DeviceBusy, match="pi5: in use by ann for 60 s more") as caught:
        remote._make_room("pi5", Shell(), probed, [], 10**9)  # type: ignore[arg-type]
    assert caught.value.holder == "ann"


def test_a_bundle_that_is_not_installed() -> None:
    with pytest.raises(NotReachable, match=r"pi5: has no Python 3\.10.*there is one for aarch64 only"):
        bundle.find("pi5", "riscv64")
    with pytest.raises(NotReachable):
        bundle.find("pi5", "../../x")
