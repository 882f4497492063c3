"""How fast a model file reaches the agent, and with how much memory.

What: a file of random bytes goes through `Session.put` to a real local agent (its own process, real gRPC, real
cache in a temporary home). `upload` runs from the call of `put` until it returns, which is when the agent has hashed
the file, checked the sha256, synced the file and published it. `in all` begins earlier, before the host hashes the
file (`models.place`) to know its name, which it must before the first byte is sent. The source is in the page cache,
everything earlier is synced before the clock starts, and the blob is deleted between repetitions.

Beside it, in the same run and in a shuffled order, what the parts cost alone: `disk` writes the same bytes in 1 MiB
writes and syncs them, `sha256` hashes them once.

Memory: peak resident memory (VmHWM, reset before each upload) above what was resident before, on both sides.

A pass: at every size the median rate of `upload` is at least 300 MB/s and each side's peak stays less than 100 MB
above its baseline. MB = 10^6 bytes. Linux only; needs twice the sizes as free disk. CPU time is printed because it is
what a miss on a busy machine comes from: an upload keeps about one and a half cores busy.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from conditions import conditions  # type: ignore[import-not-found]

from pocketbench import models
from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import agent as deploy
from pocketbench.session.session import Session
from pocketbench.transports.local import Local, LocalProcess

MB = 1_000_000
BLOCK = 1024 * 1024
BOUND_MB_S = 300.0
BOUND_MEMORY_MB = 100.0
SPARE_BYTES = 1_000 * MB


@dataclass
class Found:
    """One size: seconds of each repetition, and peaks above the baselines."""

    bytes: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: list[float] = field(default_factory=list)
    host_mb: list[float] = field(default_factory=list)
    agent_mb: list[float] = field(default_factory=list)

    def rate(self, what: str) -> float:
        """Median MB/s."""
        return self.bytes / MB / median(self.seconds[what])


def main() -> int:
    """Measure every size; 1 when a bound is missed, 2 when there is no room."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, nargs="+", default=[500, 4000], help="sizes in MB (10^6 bytes)")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of each size")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    arguments = parser.parse_args()
    wanted = 2 * sum(arguments.mb) * MB + SPARE_BYTES
    free = shutil.disk_usage(arguments.folder).free
    if free < wanted:
        print(f"{wanted / MB:.0f} MB are needed in {arguments.folder}, {free / MB:.0f} MB are free", file=sys.stderr)
        return 2
    print(_conditions(arguments.folder))
    with tempfile.TemporaryDirectory(prefix="upload-", dir=arguments.folder) as name:
        found = [_size(Path(name), size * MB, arguments.repeat) for size in arguments.mb]
    missed = [line for one in found for line in _report(one)]
    print(_conditions(arguments.folder))
    for line in missed:
        print(f"MISSED: {line}")
    if not missed:
        print(f"PASS: at least {BOUND_MB_S:.0f} MB/s, less than {BOUND_MEMORY_MB:.0f} MB above the baseline")
    return 1 if missed else 0


def _size(folder: Path, size: int, repeat: int) -> Found:
    """All repetitions of one size, the three measurements shuffled within each."""
    source = folder / f"{size}.bin"
    _make(source, size)
    found = Found(size)
    home = folder / "home"
    transport = Local("local", DeviceEntry(transport="local"))
    agent = deploy.start("local", transport, deploy.local_command(home))
    assert isinstance(agent.process, LocalProcess)
    pid = agent.process._process.pid

    def upload() -> None:
        session = Session("local", agent, "upload benchmark")
        session.open()
        host_base, agent_base = _reset_peak(os.getpid()), _reset_peak(pid)
        begin, cpu = time.perf_counter(), _cpu_s(os.getpid()) + _cpu_s(pid)
        placed = models.place(source, "model.bin", "--model")
        hashed = time.perf_counter()
        sent = session.put([placed])
        found.seconds.setdefault("upload", []).append(time.perf_counter() - hashed)
        found.seconds.setdefault("in all", []).append(time.perf_counter() - begin)
        found.cpu_s.append(_cpu_s(os.getpid()) + _cpu_s(pid) - cpu)
        assert sent == size
        found.host_mb.append((_status_bytes(os.getpid(), "VmHWM") - host_base) / MB)
        found.agent_mb.append((_status_bytes(pid, "VmHWM") - agent_base) / MB)
        session.close()
        (home / "blobs" / placed.sha256).unlink()

    def disk() -> None:
        begin = time.perf_counter()
        _copy(source, folder / "copy.bin")
        found.seconds.setdefault("disk", []).append(time.perf_counter() - begin)
        (folder / "copy.bin").unlink()

    def sha256() -> None:
        begin = time.perf_counter()
        with source.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        found.seconds.setdefault("sha256", []).append(time.perf_counter() - begin)

    try:
        for _ in range(repeat):
            steps: list[Callable[[], None]] = [upload, disk, sha256]
            random.shuffle(steps)
            for step in steps:
                os.sync()
                step()
                print(".", end="", file=sys.stderr, flush=True)
    finally:
        transport.close()
        source.unlink()
    print(file=sys.stderr)
    return found


def _report(found: Found) -> Sequence[str]:
    """Print one size; what it missed."""
    name = f"{found.bytes / MB:.0f} MB"
    print(f"\n{name}, {len(found.seconds['upload'])} repetitions")
    for what, seconds in found.seconds.items():
        rates = sorted(found.bytes / MB / s for s in seconds)
        print(
            f"  {what:8s} {found.rate(what):6.0f} MB/s  ({rates[0]:.0f} to {rates[-1]:.0f})  {median(seconds):6.2f} s"
        )
    series = median(found.seconds["disk"]) + median(found.seconds["sha256"])
    print(f"  disk and sha256 in series: {found.bytes / MB / series:.0f} MB/s")
    print(f"  CPU time of an upload, both sides: {median(found.cpu_s):.2f} s")
    print(f"  peak memory above baseline: host {max(found.host_mb):.1f} MB, agent {max(found.agent_mb):.1f} MB")
    missed = []
    if found.rate("upload") < BOUND_MB_S:
        missed.append(f"{name}: {found.rate('upload'):.0f} MB/s, the bound is {BOUND_MB_S:.0f}")
    for side, peaks in (("host", found.host_mb), ("agent", found.agent_mb)):
        if max(peaks) >= BOUND_MEMORY_MB:
            missed.append(
                f"{name}: the {side}'s memory rose by {max(peaks):.0f} MB, the bound is {BOUND_MEMORY_MB:.0f}"
            )
    return missed


def _make(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))


def _copy(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        while block := old.read(BLOCK):
            new.write(block)
        os.fsync(new.fileno())


def _reset_peak(pid: int) -> int:
    """Set VmHWM back to what is resident now (proc(5), clear_refs); returns the baseline."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return _status_bytes(pid, "VmHWM")
    return _status_bytes(pid, "VmRSS")


def _status_bytes(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


def _cpu_s(pid: int) -> float:
    """User and system time of a process (proc(5), stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _conditions(folder: Path) -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
    kind = max(inside, key=lambda m: len(m[1]))[2] if inside else "unknown"
    return f"{conditions(('grpcio', 'protobuf'))}; file system {kind}"


if __name__ == "__main__":
    sys.exit(main())
