"""A model beyond 4 GiB, where lengths of 32 bits end: it arrives whole, and neither side holds it in memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketbench.models import PlacedFile, place
from pocketbench.session.session import Session
from tests.integration import agents
from tests.slow.links import check_peers, far, random_file, reached, timed

SIZE = 4 * 1024**3 + 1
# The file itself is sparse; its copy on the device is not.
ROOM_GB = 10
ORDINARY = 64 * 1024**2
GROWTH_KB = 96 * 1024
FREE_GB = shutil.disk_usage("/tmp").free / 1e9
pytestmark = [
    pytest.mark.skipif(FREE_GB < ROOM_GB, reason=f"{FREE_GB:.0f} GB are free here, {ROOM_GB} are needed"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlacedFile]:
    """Zeros, with something at both ends and on both sides of 4 GiB."""
    path = tmp_path_factory.mktemp("large") / "model.tflite"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset in (0, SIZE // 2, SIZE - 2):
            file.seek(offset)
            file.write(b"\1\2")
    yield place(path, path.name, "--model")
    path.unlink()


def peak_kb(pid: int | str) -> int:
    """The most memory that process has had since `forget`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def forget(pid: int | str) -> int:
    """From here on; what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_kb(pid)


def agent_of(home: Path) -> int:
    """Its process id."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pocketbench_agent" in words and str(home).encode() in words and words[0] != b"env":
            return int(path.parent.name)
    raise AssertionError("no agent runs there")


def arrives(opened: Session, home: Path, model: PlacedFile, what: str) -> None:
    """It does, and takes no more memory than one of ordinary size did before it."""
    agent = agent_of(home)
    opened.put([random_file(home.parent / "ordinary", ORDINARY)])
    before = {pid: forget(pid) for pid in (os.getpid(), agent)}
    with timed(what, SIZE):
        assert opened.put([model]) == SIZE
    grown = {pid: peak_kb(pid) - before[pid] for pid in before}
    print(f"host +{grown[os.getpid()]} kB, agent +{grown[agent]} kB")
    assert max(grown.values()) < GROWTH_KB
    blob = home / "blobs" / model.sha256
    assert blob.stat().st_size == SIZE
    # The agent has compared the hash itself; the last bytes show that it was of this file.
    with blob.open("rb") as file:
        file.seek(SIZE - 2)
        assert file.read() == b"\1\2"
    blob.unlink()


def test_on_this_machine(model: PlacedFile, tmp_path: Path) -> None:
    with agents.agent(tmp_path / "home") as running, agents.session(running) as opened:
        arrives(opened, tmp_path / "home", model, "4 GiB to the local agent")


@pytest.mark.skipif(os.geteuid() != 0, reason="sshd takes root")
def test_over_ssh(model: PlacedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_peers()
    monkeypatch.setenv("HOME", str(tmp_path))
    with far("ssh", tmp_path / "far") as (to, _), reached(to) as opened:
        arrives(opened, tmp_path / "far" / "home", model, "4 GiB over SSH")
