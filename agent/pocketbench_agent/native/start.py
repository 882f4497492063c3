"""The vendor's tool as a process: of this machine (`Here`), or of a device that the host drives (`There`)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from pocketbench_agent import driven, libraries, program_cache
from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.rpc import agent_pb2 as pb
from pocketbench_agent.worker import pin

LOOK_S = 0.05
# A tool that prints without end is ended by the deadline, and must not take the memory until then.
TEXT_BYTES = 8 * 1024 * 1024
SHORT_S = 30
# What a shell says of a command that died of a signal is 128 and the signal.
SIGNALS = {128 + number.value for number in signal.Signals}
# $1 is the folder of all compiled programs there, $2 the name of this case's.
KEPT = 'mkdir -p "$1/$2" && cd "$1/$2" && find . -type f -exec cat {} + | wc -c'
EMPTIED = f'cd "$1" && rm -rf "./$2"; {KEPT}'
IS = '[ -f "$1" ] && echo is && { sha256sum "$1" || wc -c <"$1"; } 2>/dev/null'


@dataclass(frozen=True)
class Ran:
    """One start of the tool: what it printed on both streams, its exit code (of a signal negative), and the most memory
    that was seen of it.
    """

    text: str
    code: int
    peak_bytes: int | None


class Program(Protocol):
    """A tool that can be started."""

    @property
    def name(self) -> str:
        """Of its file."""

    @property
    def kept(self) -> Sequence[tuple[int, int | None]]:
        """Bytes of compiled programs with their times, where it looks after them."""

    def version(self, tool: str) -> str:
        """The tool's name with the beginning of its sha256: they do not tell their version themselves."""

    def start(self, arguments: Sequence[str], scratch: Path, leaves: Sequence[str], seen: Callable[[str], None]) -> Ran:
        """Run to the end; the agent ends it, with this worker, at the job's deadline. Each line is `seen`, and what it
        `leaves` is in `scratch` afterwards. StageError: it cannot be started.
        """


class Text:
    """The tool's output as it comes; the agent's log has it too."""

    def __init__(self, seen: Callable[[str], None]) -> None:
        self._kept: list[str] = []
        self._size, self._seen = 0, seen

    def line(self, line: str) -> None:
        """The next."""
        sys.stderr.write(line)
        if self._size < TEXT_BYTES:
            self._kept.append(line)
            self._size += len(line)
            self._seen(line)

    def whole(self) -> str:
        """All of it, but for what is beyond the bound."""
        return "".join(self._kept)


class Here:
    """The tool on this machine, which is the device; the worker's folder has the job's files."""

    kept: Sequence[tuple[int, int | None]] = ()

    def __init__(self, job: pb.Job) -> None:
        pin(job.placement.cpus)
        told = job.program.tool
        self._path = Path(told.path or told.files[0].path)
        self.name = self._path.name

    def version(self, tool: str) -> str:
        """As its content says."""
        if not self._path.is_file():
            raise NotAvailable(f"{self._path}: this device has no such file (native_tools in devices.yaml)")
        with contextlib.suppress(OSError):
            # Files arrive without the right to be executed.
            self._path.chmod(self._path.stat().st_mode | 0o100)
        return f"{tool} {_checked(self._path)[:8]}"

    def start(self, arguments: Sequence[str], scratch: Path, leaves: Sequence[str], seen: Callable[[str], None]) -> Ran:
        """A child of this worker."""
        folders = [self._path.parent.absolute(), Path.cwd() / ".tool", Path.cwd() / ".delegate"]
        environment = {**os.environ, "LD_LIBRARY_PATH": _path(folders, os.environ)}
        try:
            running = subprocess.Popen(
                [str(self._path.absolute()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        except OSError as error:
            raise StageError(f"{self.name} cannot be started: {error.strerror}") from error
        text = Text(seen)

        def follow() -> None:
            assert running.stdout is not None
            for data in iter(lambda: running.stdout.readline(65536), b""):  # type: ignore[union-attr]
                text.line(data.decode(errors="replace"))

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        peak: int | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(LOOK_S)
                break
            now = _peak_bytes(running.pid)
            peak = now if peak is None else max(peak, now or 0)
        follower.join(5.0)
        return Ran(text.whole(), running.returncode, peak)


class There:
    """The tool on a device that the host drives; the host has put the job's files there, by their contents."""

    def __init__(self, link: driven.Link, job: pb.Job) -> None:
        program, here = job.program, Path.cwd()
        self._link, self._job = link, job
        self._scratch = f"{link.workdir}/{driven.SCRATCH}"
        self._places: dict[str, str] = {}
        for files in (job.files, program.tool.files, program.delegate_files):
            folder = link.folder((file.path, file.sha256) for file in files)
            self._places |= {str(here / file.path): f"{folder}/{file.path}" for file in files}
        sent = [self._places[str(here / file.path)] for file in (*program.tool.files, *program.delegate_files)]
        self._path = program.tool.path or sent[0]
        self.name = PurePosixPath(self._path).name
        self._folders = list(dict.fromkeys(PurePosixPath(path).parent for path in (self._path, *sent)))
        self.kept: list[tuple[int, int | None]] = []
        self._programs = ""
        if place := os.environ.get(program_cache.VARIABLES[0]):
            self._programs = f"{link.workdir}/{driven.PROGRAMS}/{Path(place).name}"
            self._places[place] = self._programs
        self._pinned: list[str] = []
        if job.placement.cpus:
            if "taskset" not in link.programs:
                raise NotAvailable("this device has no taskset to keep a tool on certain cores: leave --cpus out")
            self._pinned = [link.programs["taskset"], f"{sum(1 << cpu for cpu in set(job.placement.cpus)):x}"]

    def version(self, tool: str) -> str:
        """Of a file that was sent as its content says; of the device's own by its sha256sum, else by its size."""
        told = self._job.program.tool
        if not told.path:
            return f"{tool} {_checked(Path(told.files[0].path))[:8]}"
        found = driven.ask(self._link, "sh", "-c", IS, "sh", told.path).split()
        if found[:1] != ["is"]:
            raise NotAvailable(f"{told.path}: this device has no such file (native_tools in devices.yaml)")
        known = found[1] if len(found) > 1 else "unknown"
        return f"{tool} {known[:8] if len(known) == 64 else f'of {known} bytes'}"

    def start(self, arguments: Sequence[str], scratch: Path, leaves: Sequence[str], seen: Callable[[str], None]) -> Ran:
        """A process of the device, in a folder of its own that is empty before."""
        first = not self.kept and self._job.phase == "latency" and self._job.plan.process_index == 0
        if self._programs:
            self._look(EMPTIED if first else KEPT)
        places = {**self._places, str(scratch): self._scratch}
        there = [_moved(word, places) for word in arguments]
        text = Text(seen)
        # The agent's own deadline comes first, and says more.
        limit_s = (self._job.deadline_s or 600) + SHORT_S
        command = [*self._pinned, self._path, *there]
        ended = driven.run(self._link, command, self._environment(), limit_s, text.line)
        if self._programs:
            self._look(KEPT)
        for name in leaves:
            (scratch / name).write_text(driven.ask(self._link, "cat", f"{self._scratch}/{name}"))
        if ended.code is None:
            # The device ended what was to say it, and the tool with it.
            return Ran(text.whole(), -signal.SIGKILL, ended.peak_bytes)
        if ended.code in (126, 127):
            said = text.whole().strip().splitlines()
            raise StageError(
                f"{self.name} cannot be started: {said[-1][:200] if said else f'code {ended.code}'} (do programs run "
                "from the folder where it lies, and is it for this system?)"
            )
        code = 128 - ended.code if ended.code in SIGNALS else ended.code
        return Ran(text.whole(), code, ended.peak_bytes)

    def _environment(self) -> dict[str, str]:
        wanted = self._link.environment
        made = {"LC_ALL": "C", "TMPDIR": self._scratch, **wanted}
        made["LD_LIBRARY_PATH"] = _path(self._folders, wanted)
        return {**made, **dict.fromkeys(program_cache.VARIABLES, self._programs)} if self._programs else made

    def _look(self, script: str) -> None:
        folder = PurePosixPath(self._programs)
        told = driven.ask(self._link, "sh", "-c", script, "sh", str(folder.parent), folder.name).strip()
        now = (time.perf_counter_ns(), int(told) if told.isdecimal() and len(told) < 16 else None)
        self.kept = [*self.kept[:1], now]


def _moved(word: str, places: Mapping[str, str]) -> str:
    """An argument with paths of this machine as those of the device; a path may begin with another one."""
    for here in sorted(places, key=len, reverse=True):
        word = word.replace(here, places[here])
    return word


def _path(folders: Sequence[Path | PurePosixPath], environment: Mapping[str, str]) -> str:
    return ":".join(filter(None, (*map(str, folders), environment.get("LD_LIBRARY_PATH", ""))))


def _checked(path: Path) -> str:
    """The sha256 of a program that was sent. StageError where it is made for another processor."""
    content = path.read_bytes()
    if content[:2] != b"#!":
        libraries.check(path, "program")
    return hashlib.sha256(content).hexdigest()


def _peak_bytes(pid: int) -> int | None:
    """The most resident memory of the largest of a process and its children: a tool may be started by a script."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                found.append(int(line.split()[1]) * 1024)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found += [peak for child in children if (peak := _peak_bytes(int(child))) is not None]
    return max(found, default=None)
