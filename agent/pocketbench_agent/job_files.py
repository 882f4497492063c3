"""The files of a job: laid out under their names from the blob cache, its runtime unpacked."""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
from pathlib import Path, PurePosixPath

from pocketbench_agent.cache import BlobCache
from pocketbench_agent.rpc import agent_pb2 as pb

_unpacking = threading.Lock()


class JobError(Exception):
    """A job cannot be accepted; the message says why."""


def prepare_files(job: pb.Job, folder: Path, cache: BlobCache, home: Path) -> None:
    """Lay the job's files out under their names, and unpack its runtime. JobError names what is missing or unsafe."""
    wanted = _wanted(job)
    if not job.files:
        raise JobError("a job needs a model file")
    folder.mkdir(parents=True, exist_ok=True)
    for file in wanted:
        target = folder / _safe(file.path)
        source = cache.path(file.sha256)
        if source is None:
            raise JobError(f"the file for {file.path!r} is not in the cache")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            target.symlink_to(source)
    archive = job.program.runtime_archive
    if archive.path:
        _unpack(archive, cache, home)
    for file in wanted:
        cache.pin(file.sha256)


def release_files(job: pb.Job, cache: BlobCache) -> None:
    """The job needs its blobs no more."""
    for file in _wanted(job):
        cache.unpin(file.sha256)


def _wanted(job: pb.Job) -> list[pb.File]:
    program = job.program
    single = (file for file in (program.inputs, program.pipeline, program.items) if file.path)
    return [*job.files, *program.delegate_files, *program.tool.files, *single]


def _safe(path: str) -> PurePosixPath:
    pure = PurePosixPath(path)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise JobError(f"{path!r} is not a plain relative path")
    return pure


def _unpack(archive: pb.File, cache: BlobCache, home: Path) -> None:
    # A job and a scoring call may want the same one at once.
    with _unpacking:
        if not runtime_folder(archive, home).is_dir():
            _unpack_anew(archive, cache, home)


def _unpack_anew(archive: pb.File, cache: BlobCache, home: Path) -> None:
    folder = runtime_folder(archive, home)
    source = cache.path(archive.sha256)
    if source is None:
        raise JobError(f"the runtime {archive.path!r} is not in the cache")
    # An agent that ends may still be unpacking; what it has so far is its own.
    for left in folder.parent.glob(f"{folder.name}.*"):
        if not _is_alive(left.suffix[1:]):
            shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_suffix(f".{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(source) as packed:
            packed.extractall(partial)
            files = {entry.filename for entry in packed.infolist() if not entry.is_dir()}
    except zipfile.BadZipFile as error:
        raise JobError(f"the runtime {archive.path!r} is not a zip archive: {error}") from error
    if sum(path.is_file() for path in partial.rglob("*")) < len(files):
        raise JobError(f"the runtime {archive.path!r} was removed while it was unpacked: try again")
    # The folder stands for a whole runtime from now on, and must do so after a power cut too.
    os.sync()
    try:
        partial.replace(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(partial, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    if not pid.isdigit() or pid == str(os.getpid()):
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def runtime_folder(archive: pb.File, home: Path) -> Path:
    """Where a runtime of its own lives: one folder a content."""
    return home / "runtimes" / archive.sha256.hex()[:32]
