"""The files of a job: laid out under their names from the blob cache, its runtime unpacked."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from pocketbench_agent.cache import BlobCache
from pocketbench_agent.rpc import agent_pb2 as pb


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
    folder = runtime_folder(archive, home)
    if folder.is_dir():
        return
    source = cache.path(archive.sha256)
    if source is None:
        raise JobError(f"the runtime {archive.path!r} is not in the cache")
    for left in folder.parent.glob(f"{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_suffix(f".{os.getpid()}")
    try:
        with zipfile.ZipFile(source) as packed:
            packed.extractall(partial)
    except zipfile.BadZipFile as error:
        raise JobError(f"the runtime {archive.path!r} is not a zip archive: {error}") from error
    # The folder stands for a whole runtime from now on, and must do so after a power cut too.
    os.sync()
    partial.replace(folder)


def runtime_folder(archive: pb.File, home: Path) -> Path:
    """Where a runtime of its own lives: one folder a content."""
    return home / "runtimes" / archive.sha256.hex()[:32]
