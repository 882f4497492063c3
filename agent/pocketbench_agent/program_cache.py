"""Where drivers and runtimes keep the programs that they compiled: a folder of each case's own.

It is emptied before the first process of a case, so that this one's load is that of the first start ever, and the load
of those that follow is that with the cache filled. What is kept elsewhere (a vendor's daemon, Android's blob cache) is
out of reach.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from pocketbench_agent.rpc import agent_pb2 as pb

# Ours, Mesa's, NVIDIA's for Vulkan and for CUDA, Intel's, and PoCL's.
VARIABLES = (
    *("POCKETBENCH_PROGRAM_CACHE", "MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH", "CUDA_CACHE_PATH"),
    *("NEO_CACHE_DIR", "POCL_CACHE_DIR"),
)
# In an option of a delegate: the folder's path, for what has to be told where it may keep its programs.
PLACE = "{program_cache}"


def folder(job: pb.Job, home: Path) -> Path | None:
    """The folder of this job's case; None for the CPU, which compiles nothing that lasts."""
    program = job.program
    if program.delegate in ("", "cpu"):
        return None
    parts = [f"{program.runtime} {program.delegate} {sorted(program.options.items())} {program.tool.path}".encode()]
    parts += [file.sha256 for file in (*job.files, program.runtime_archive, *program.delegate_files)]
    parts += [file.sha256 for file in program.tool.files]
    parts += [f"{name} {list(shape.dims)}".encode() for name, shape in sorted(program.shapes.items())]
    return home / "programs" / hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def prepare(job: pb.Job, home: Path) -> Path | None:
    """The folder, there and, for the first process of a case, empty."""
    place = folder(job, home)
    if place is None:
        return None
    if job.phase == "latency" and job.plan.process_index == 0:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    return place


def environment(place: Path | None) -> Mapping[str, str]:
    """What a worker needs to use it."""
    return {} if place is None else dict.fromkeys(VARIABLES, str(place))


def size_bytes(place: Path) -> int:
    """Of all files in it."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def forget(home: Path, older_s: float) -> None:
    """Remove the folders of cases that nobody has measured for so long."""
    for place in (home / "programs").glob("*"):
        if time.time() - place.stat().st_mtime > older_s:
            shutil.rmtree(place, ignore_errors=True)
