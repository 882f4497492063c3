"""Jobs: paths that cannot leave their folder, and what an agent finds of the one before it. No worker is started."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench_agent.cache import BlobCache
from pocketbench_agent.framing import frame
from pocketbench_agent.job_files import JobError, prepare_files, release_files, runtime_folder
from pocketbench_agent.jobs import Jobs
from pocketbench_agent.rpc import agent_pb2 as pb

MODEL = b"model"
SHA = hashlib.sha256(MODEL).digest()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def blobs(home: Path) -> BlobCache:
    made = BlobCache(home / "blobs")
    made.put(SHA, 0, len(MODEL), iter([MODEL]))
    return made


@pytest.fixture
def jobs(home: Path, blobs: BlobCache) -> Iterator[Jobs]:
    made = Jobs(home, blobs)
    yield made
    made.close()


def job(*paths: str, inputs: pb.File | None = None, runtime_archive: pb.File | None = None) -> pb.Job:
    program = pb.Program(inputs=inputs, runtime_archive=runtime_archive)
    return pb.Job(job_id="j1", files=[pb.File(path=path, sha256=SHA) for path in paths], program=program)


@pytest.mark.parametrize("path", ["m.tflite", "weights/deep/w.bin", "..m", "a..b", "ünï", "a\nb"])
def test_a_plain_path_is_laid_out(home: Path, blobs: BlobCache, path: str) -> None:
    prepare_files(job(path), home / "files", blobs, home)
    assert (home / "files" / path).read_bytes() == MODEL


HOSTILE = ["", ".", "./", "..", "../m", "a/../../m", "a/..", "/etc/passwd", "//m", "a\0b", "\0"]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_is_not_plain_is_refused(home: Path, blobs: BlobCache, path: str) -> None:
    with pytest.raises(JobError, match="is not a plain relative path"):
        prepare_files(job("m", path), home / "files", blobs, home)


@given(st.text(st.sampled_from("./a\0~\\"), max_size=8))
def test_whatever_the_path_nothing_lands_outside(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    home = tmp_path_factory.mktemp("home")
    blobs = BlobCache(home / "blobs")
    blobs.put(SHA, 0, len(MODEL), iter([MODEL]))
    with contextlib.suppress(JobError):
        prepare_files(job(path), home / "in" / "files", blobs, home)
    outside = [p for p in home.rglob("*") if p.is_file() and not p.is_relative_to(home / "in" / "files")]
    assert [p.parent.name for p in outside] == ["blobs"]


def test_hostile_inputs_are_refused_too(home: Path, blobs: BlobCache) -> None:
    with pytest.raises(JobError, match="plain relative path"):
        prepare_files(job("m", inputs=pb.File(path="../i", sha256=SHA)), home / "files", blobs, home)


def test_a_job_without_files_or_with_a_missing_one_is_refused(home: Path, blobs: BlobCache) -> None:
    with pytest.raises(JobError, match="needs a model file"):
        prepare_files(job(), home / "files", blobs, home)
    absent = pb.Job(files=[pb.File(path="m", sha256=bytes(32))])
    with pytest.raises(JobError, match="'m' is not in the cache"):
        prepare_files(absent, home / "files", blobs, home)


def test_files_of_a_job_are_pinned_until_it_lets_go(
    home: Path, blobs: BlobCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job("m", inputs=pb.File(path="i", sha256=SHA))
    prepare_files(wanted, home / "files", blobs, home)
    monkeypatch.setattr(BlobCache, "_free", lambda _: 0)
    for _ in range(2):
        with pytest.raises(Exception, match="are needed"):
            blobs.put(bytes(32), 0, 10, iter([]))
        assert blobs.path(SHA) is not None
        release_files(wanted, blobs)
        prepare_files(job("m"), home / "files", blobs, home)
    release_files(job("m"), blobs)
    release_files(job("m"), blobs)
    with pytest.raises(Exception, match="are needed"):
        blobs.put(bytes(32), 0, 10, iter([]))
    assert blobs.path(SHA) is None


def test_a_runtime_is_unpacked_once(home: Path, blobs: BlobCache) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("package/__init__.py", "x = 1")
        archive.writestr("../../escaped.py", "x = 2")
    data = stream.getvalue()
    file = pb.File(path="runtime.zip", sha256=hashlib.sha256(data).digest())
    with pytest.raises(JobError, match=r"'runtime\.zip' is not in the cache"):
        prepare_files(job("m", runtime_archive=file), home / "files", blobs, home)
    blobs.put(file.sha256, 0, len(data), iter([data]))
    left = runtime_folder(file, home).with_suffix(".999999999")
    left.mkdir(parents=True)
    for _ in range(2):
        prepare_files(job("m", runtime_archive=file), home / "files", blobs, home)
        assert (runtime_folder(file, home) / "package" / "__init__.py").read_text() == "x = 1"
    assert [p for p in home.parent.rglob("escaped.py") if not p.is_relative_to(home / "runtimes")] == []
    assert [p.name for p in (home / "runtimes").iterdir()] == [file.sha256.hex()[:32]]


def test_a_runtime_of_which_a_part_went_is_not_taken_for_a_whole_one(
    home: Path, blobs: BlobCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another agent of the same home, that is just ending, is not cleaned up after; and what is unpacked counts."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("first", "second"):
            archive.writestr(f"{name}/__init__.py", "x = 1")
    data = stream.getvalue()
    file = pb.File(path="runtime.zip", sha256=hashlib.sha256(data).digest())
    blobs.put(file.sha256, 0, len(data), iter([data]))
    theirs = runtime_folder(file, home).with_suffix(f".{os.getppid()}")
    theirs.mkdir(parents=True)
    extract = zipfile.ZipFile.extractall

    def disturbed(self: zipfile.ZipFile, target: Path) -> None:
        extract(self, target)
        shutil.rmtree(target / "first")

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "extractall", disturbed)
        with pytest.raises(JobError, match="was removed while it was unpacked"):
            prepare_files(job("m", runtime_archive=file), home / "files", blobs, home)
    assert not runtime_folder(file, home).exists() and theirs.exists()
    prepare_files(job("m", runtime_archive=file), home / "files", blobs, home)
    assert (runtime_folder(file, home) / "first" / "__init__.py").exists() and theirs.exists()


def test_a_runtime_that_is_no_archive_is_refused(home: Path, blobs: BlobCache) -> None:
    with pytest.raises(JobError, match="is not a zip archive"):
        prepare_files(job("m", runtime_archive=pb.File(path="r.zip", sha256=SHA)), home / "files", blobs, home)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "-a", ".a", "a\n", "a\0", "ä", "x" * 101])
def test_a_hostile_job_id_is_refused(jobs: Jobs, home: Path, name: str) -> None:
    wanted = job("m")
    wanted.job_id = name
    with pytest.raises(JobError, match="a job id has"):
        jobs.start(wanted)
    assert list((home / "jobs").iterdir()) == []
    assert jobs.state(name).s == pb.JobState.UNKNOWN


def event(seq: int, log: pb.LogLine | None = None, ended: pb.Ended | None = None) -> pb.Event:
    return pb.Event(seq=seq, log=log, ended=ended)


def left_behind(home: Path, name: str, *events: pb.Event, tail: bytes = b"") -> Path:
    """The folder of a job of an agent that is gone."""
    folder = home / "jobs" / name
    (folder / "files").mkdir(parents=True)
    (folder / "job").write_bytes(frame(pb.Job(job_id=name)))
    (folder / "events").write_bytes(b"".join(map(frame, events)) + tail)
    return folder


LOG = pb.LogLine(text="hello")
DONE = pb.Ended(how=pb.Ended.OK)


def test_a_finished_job_is_still_there_after_a_restart(home: Path, blobs: BlobCache) -> None:
    events = [event(1, log=LOG), event(2, log=LOG), event(3, ended=DONE)]
    folder = left_behind(home, "old", *events)
    jobs = Jobs(home, blobs)
    assert (jobs.state("old").s, jobs.state("old").last_seq) == (pb.JobState.DONE, 3)
    assert [state.job_id for state in jobs.unacknowledged()] == ["old"]
    assert list(jobs.watch("old", 1)) == events
    assert list(jobs.watch("old", 3)) == events[2:]
    assert list(jobs.watch("old", 0)) == events
    assert list(jobs.watch("old", 9)) == []
    assert not jobs.busy()
    assert jobs.acknowledge("old").s == pb.JobState.DONE
    assert jobs.state("old").s == pb.JobState.UNKNOWN
    assert not folder.exists()
    assert list(jobs.watch("old", 1)) == []
    jobs.close()


@pytest.mark.parametrize("tail", [b"", b"\x05\x01", b"\xff\xff\xff\xff\xff\xff\xff", b"\x02\xff\xff"])
def test_a_job_that_an_agent_died_in_says_so(home: Path, blobs: BlobCache, tail: bytes) -> None:
    left_behind(home, "cut", event(1, log=LOG), tail=tail)
    for _ in range(2):
        jobs = Jobs(home, blobs)
        events = list(jobs.watch("cut", 1))
        assert [e.seq for e in events] == [1, 2]
        assert events[1].ended.how == pb.Ended.NO_OUTPUT
        assert "agent ended" in events[1].ended.message
        jobs.close()


def test_what_is_no_job_is_swept_away(home: Path, blobs: BlobCache) -> None:
    left_behind(home, "good", event(1, ended=DONE))
    (left_behind(home, "torn") / "job").write_bytes(b"\x7f")
    (left_behind(home, "none") / "job").unlink()
    jobs = Jobs(home, blobs)
    assert [state.job_id for state in jobs.unacknowledged()] == ["good"]
    assert [p.name for p in (home / "jobs").iterdir()] == ["good"]
    jobs.close()


def test_a_job_that_nobody_knows(jobs: Jobs) -> None:
    assert jobs.state("x").s == jobs.cancel("x").s == jobs.acknowledge("x").s == pb.JobState.UNKNOWN
    assert list(jobs.watch("x", 1)) == []
