"""Devices with misfortunes, and runs that are watched while these happen."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from pocketbench.config.devices import DeviceEntry
from tests.integration.conftest import Bench, wait_until

# From nothing to a device that measures, on a busy machine.
BEGIN_S = 180
PYTHON = "/usr/bin/python3"
EVENT = re.compile(r"^(\S+ \S+?),(\d+) \S+ job (\S+\.\d+\.\d+) (begins|ended)", re.MULTILINE)


@dataclass
class Watched:
    """A command under way, and when it said what."""

    process: subprocess.Popen[str]
    said: list[tuple[float, str]] = field(default_factory=list)
    out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._listen, self._collect)]
        for reader in self._readers:
            reader.start()

    def end(self, timeout_s: float) -> int:
        """Its exit code; no traceback."""
        self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(10)
        assert "Traceback" not in self.stderr, self.stderr
        return self.process.returncode

    @property
    def stderr(self) -> str:
        """All that it said."""
        return "".join(line for _, line in self.said)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Of one model, by device."""
        return {each["device"]: each for each in json.loads("".join(self.out))["results"]}

    def when(self, pattern: str) -> float:
        """When it said that first."""
        found = [at for at, line in self.said if re.search(pattern, line)]
        assert found, f"it never said {pattern}:\n{self.stderr}"
        return found[0]

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.said.append((time.monotonic(), line))

    def _collect(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            self.out.append(stream.read())


@contextmanager
def watched(process: subprocess.Popen[str]) -> Iterator[Watched]:
    """Watch it; it does not outlive a story that went wrong."""
    try:
        yield Watched(process)
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Log:
    """The log of an agent: what it did and when."""

    path: Path

    def jobs(self) -> list[tuple[float, str, str]]:
        """When, which timed job, and what of it; in the order of the log."""
        text = self.path.read_text() if self.path.exists() else ""
        return [
            (datetime.fromisoformat(at).timestamp() + int(ms) / 1000, job, what)
            for at, ms, job, what in EVENT.findall(text)
        ]

    def begun(self) -> Counter[str]:
        """How often each was begun."""
        return Counter(job for _, job, what in self.jobs() if what == "begins")

    def in_the_middle(self, ended: int) -> bool:
        """So many have ended, and another runs."""
        done = sum(what == "ended" for _, _, what in self.jobs())
        return done >= ended and sum(self.begun().values()) > done

    def gaps(self) -> list[float]:
        """From each end to the next beginning."""
        pairs = pairwise(self.jobs())
        return [then - at for (at, _, before), (then, _, after) in pairs if (before, after) == ("ended", "begins")]

    def one_at_a_time(self) -> bool:
        """Was none begun before the one before it had ended?"""
        kinds = [what for _, _, what in self.jobs()]
        return all(kind == ("begins", "ended")[place % 2] for place, kind in enumerate(kinds))


def system_python() -> tuple[int, int, int]:
    """Its version."""
    said = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, patch = (int(part) for part in said.split()[1].split("."))
    return major, minor, patch


def until(log: Log, ended: int) -> None:
    """So many of its jobs have ended, and another runs since a moment."""
    assert wait_until(lambda: log.in_the_middle(ended), BEGIN_S), f"{log.path}: {log.jobs()}"
    time.sleep(0.5)


def devices(bench: Bench, **entries: DeviceEntry) -> dict[str, Log]:
    """Write devices.yaml, every device with a work folder and a Python; their agents' logs."""
    lines = ["devices:"]
    for name, entry in entries.items():
        told = {
            **entry.model_dump(exclude_defaults=True, mode="json"),
            "workdir": str(bench.home / name),
            "python": PYTHON,
            "env": {"HOME": str(bench.home)},
        }
        lines.append(f"  {name}: {json.dumps(told)}")
    (bench.home / "devices.yaml").write_text("\n".join([*lines, ""]))
    return {name: Log(bench.home / name / "home" / "agent.log") for name in entries}


def agents_of(bench: Bench, device: str) -> list[int]:
    """The processes of that device, its workers aside."""
    folder = str(bench.home / device)
    found = []
    for pid in bench.agents():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if f"{folder}/home" in words:
            found.append(pid)
    return found


@contextmanager
def killed(bench: Bench) -> Iterator[None]:
    """What runs on devices that nobody can reach any more goes afterwards."""
    try:
        yield
    finally:
        for pid in bench.agents():
            os.kill(pid, signal.SIGKILL)
