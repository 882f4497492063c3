"""Files over links that are cut, silent, slow or spoilt: they go on where they stopped, and are never taken broken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocketbench.deploy import remote
from pocketbench.errors import DeviceError, DeviceLost, NotReachable
from pocketbench.models import PlacedFile
from pocketbench.transports import Transport
from tests.integration.adb_clients import Daemon
from tests.integration.conftest import wait_until
from tests.peers.faults import Faults, faults
from tests.slow.links import (
    WAYS,
    Far,
    adb_entry,
    check_peers,
    connected,
    far,
    needs_root,
    random_file,
    reached,
    session,
    sha256,
    timed,
)

pytestmark = [needs_root, pytest.mark.timeout(300)]
SIZE = 50_000_000
CUT = SIZE * 6 // 10
HOLE_S = 30.0
# Beyond which a person would not wait for an answer.
DEADLINE_S = 75.0
DELAY_S = 0.04
SLOW_SIZE = 20_000_000
# What may cross a link beside the file: handshakes, acknowledgements, what was under way when it was cut.
BESIDE = 6_000_000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys and configuration of nobody else."""
    check_peers()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(params=WAYS)
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Far, Faults]]:
    """Each way."""
    with far(request.param, tmp_path / "far") as made:
        yield made


def test_a_blob_over_a_link_that_is_cut(link: tuple[Far, Faults], tmp_path: Path) -> None:
    """At 60 %: the rest is sent, and no more than that."""
    to, knobs = link
    blob = random_file(tmp_path / "blob", SIZE)
    with reached(to) as opened:
        knobs.to_target.cut_at = knobs.to_target.passed + CUT
        with pytest.raises(DeviceLost, match="far: the agent or the link to it is gone"):
            opened.put([blob])
        knobs.to_target.cut_at = None
    before = knobs.to_target.passed
    with reached(to) as opened:
        sent = opened.put([blob])
    crossed = knobs.to_target.passed - before
    print(f"sent {sent / 1e6:.1f} MB the second time; {crossed / 1e6:.1f} MB crossed the link")
    assert SIZE - CUT <= sent <= SIZE - CUT + BESIDE
    assert sent <= crossed <= sent + BESIDE
    assert sha256(to.blobs / blob.sha256) == blob.sha256


def test_an_archive_over_a_link_that_is_cut(link: tuple[Far, Faults], tmp_path: Path) -> None:
    """It is not there, or whole; it is sent anew."""
    to, knobs = link
    blob, target = random_file(tmp_path / "blob", SIZE), to.folder / "archive"
    with connected(to) as transport:
        knobs.to_target.cut_at = knobs.to_target.passed + CUT
        with pytest.raises(DeviceError, match=r"^far: "):
            transport.push(blob.path, str(target))
        knobs.to_target.cut_at = None
    with connected(to) as transport:
        transport.push(blob.path, str(target))
    assert sha256(target) == blob.sha256


def test_a_link_that_falls_silent(link: tuple[Far, Faults], tmp_path: Path) -> None:
    """For 30 s, in the middle of a blob and of an archive: both arrive, or end in time with words; then they work."""
    to, knobs = link
    blob, archive = random_file(tmp_path / "blob", SIZE), random_file(tmp_path / "archive", SIZE)
    target = to.folder / "archive"
    ended: dict[str, DeviceError | None] = {}

    def attempt(name: str, work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                work()
                ended[name] = None
            except DeviceError as error:
                ended[name] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    with connected(to) as transport, connected(to) as other, session(to, other) as opened:
        # Slow enough to be in the middle.
        knobs.delay(0.02)
        before = knobs.to_target.passed
        threads = [
            attempt("blob", lambda: opened.put([blob])),
            attempt("archive", lambda: transport.push(archive.path, str(target))),
        ]
        assert wait_until(lambda: knobs.to_target.passed - before > SIZE // 2, 60)
        assert all(thread.is_alive() for thread in threads)
        knobs.hole = True
        threading.Event().wait(HOLE_S)
        knobs.hole = False
        knobs.delay(0.0)
        for thread in threads:
            thread.join(DEADLINE_S - HOLE_S)
            assert not thread.is_alive()
    print({name: str(error) for name, error in ended.items()})
    for error in filter(None, ended.values()):
        assert str(error).startswith("far: ") and len(str(error)) > 20
    with reached(to) as opened:
        opened.put([blob])
    with connected(to) as transport:
        if ended["archive"] is not None:
            transport.push(archive.path, str(target))
    assert (sha256(to.blobs / blob.sha256), sha256(target)) == (blob.sha256, archive.sha256)


def test_a_link_with_a_delay(link: tuple[Far, Faults], tmp_path: Path) -> None:
    """40 ms each way."""
    to, knobs = link
    blob, target = random_file(tmp_path / "blob", SLOW_SIZE), to.folder / "archive"
    knobs.delay(DELAY_S)
    with connected(to) as transport:
        with timed(f"{to.entry.transport} push, 80 ms a round trip", SLOW_SIZE):
            transport.push(blob.path, str(target))
        with session(to, transport) as opened, timed(f"{to.entry.transport} blob, 80 ms a round trip", SLOW_SIZE):
            opened.put([blob])
    assert (sha256(to.blobs / blob.sha256), sha256(target)) == (blob.sha256, blob.sha256)


def the_rest_is_sent_again(to: Far, knobs: Faults, blob: PlacedFile, lost: str | None = None) -> None:
    """A byte in the middle is spoilt, the link ends, and a new one goes on where the old one was."""
    with reached(to) as opened:
        knobs.to_target.flip_at = knobs.to_target.passed + CUT
        with pytest.raises(DeviceLost, match=lost):
            opened.put([blob])
    assert not (to.blobs / blob.sha256).exists()
    before = knobs.to_target.passed
    with reached(to) as opened:
        opened.put([blob])
    assert knobs.to_target.passed - before < SIZE - CUT + BESIDE
    assert sha256(to.blobs / blob.sha256) == blob.sha256


def test_a_byte_that_is_spoilt_over_ssh(tmp_path: Path) -> None:
    """SSH notices, and the link ends; the rest is sent over a new one."""
    blob = random_file(tmp_path / "blob", SIZE)
    with far("ssh", tmp_path / "far") as (to, knobs):
        the_rest_is_sent_again(to, knobs, blob, "far: the agent or the link to it is gone")


def test_a_byte_that_is_spoilt_over_adb(tmp_path: Path) -> None:
    """Our checksums let a device that looks at them notice; the rest is sent over a new link."""
    blob = random_file(tmp_path / "blob", SIZE)
    (tmp_path / "far").mkdir()
    daemon = Daemon(tmp_path / "far" / "root")
    with faults(int(daemon.address.rpartition(":")[2])) as knobs:
        to = Far(adb_entry(f"127.0.0.1:{knobs.port}"), tmp_path / "far")
        the_rest_is_sent_again(to, knobs, blob)
    with pytest.raises(AssertionError, match=r"VIOLATION b'WRTE': wrong checksum"):
        daemon.end()


def test_a_byte_that_nobody_misses_on_the_way(tmp_path: Path) -> None:
    """A device that looks at no checksums: what arrived is not what was sent, is not kept, and is sent again."""
    blob = random_file(tmp_path / "blob", SIZE)
    with far("adb", tmp_path / "far", "--trusting") as (to, knobs), reached(to) as opened:
        knobs.to_target.flip_at = knobs.to_target.passed + CUT
        with pytest.raises(DeviceLost, match=f"what arrived for {blob.sha256[:12]} has another sha256; nothing was"):
            opened.put([blob])
        assert list(to.blobs.iterdir()) == []
        assert opened.put([blob]) == SIZE
        assert sha256(to.blobs / blob.sha256) == blob.sha256


def test_an_agent_that_arrives_spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """It is refused, not started; the next time it is sent anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    said: list[str] = []
    with far("adb", tmp_path / "far", "--trusting") as (to, knobs), connected(to) as transport:
        entry = to.entry.model_copy(update={"workdir": str(tmp_path / "work"), "python": "/usr/bin/python3"})
        # Packed beforehand, so that what crosses the link next is the archive.
        _command(transport, entry.model_copy(update={"workdir": str(tmp_path / "elsewhere")}), said)
        knobs.to_target.flip_at = knobs.to_target.passed + 5_000_000
        with pytest.raises(NotReachable, match="far: the agent cannot be put there: "):
            _command(transport, entry, said)
        assert not list((tmp_path / "work" / "agents").glob("*/complete"))
        agent = _command(transport, entry, said)
        assert len(list((tmp_path / "work" / "agents").glob("*/complete"))) == 1
        assert transport.run([*agent[:-3], "pocketbench_agent", "--help"], 60).code == 0
    # How far each had got, which a slow link has said as well, aside.
    sent = [line.partition(" sending ")[2] for line in said if " sending " in line and line.endswith(", once)")]
    both = ["the agent's packages", "the agent"]
    assert [line.partition(" (")[0] for line in sent] == [*both, "the agent's packages", *both]


def _command(transport: Transport, entry: object, said: list[str]) -> list[str]:
    return list(remote.command_for("far", transport, entry, said.append))  # type: ignore[arg-type]
