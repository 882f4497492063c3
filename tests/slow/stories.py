"""Devices with misfortunes, and runs that are watched while these happen."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy.remote import packages
from tests.integration.conftest import QUICK, Bench, benched, wait_until
from tests.peers.faults import Faults
from tests.slow.links import check_peers, far

HOLE_S = 120.0
# A host's leases last 90 s.
FROZEN_S = 96.0
# Until a dead link is noticed, and one more attempt to open it after the last that was allowed.
NOTICED_S, ATTEMPT_S = 25.0, 40.0
END_S = 400.0
JSON = ("--cooldown", "0", "--format", "json")
# Three processes of about two seconds.
THREE = ("--processes", "3", "--min-runs", "8", "--min-time", "1.2", *JSON)
# Busy for longer than a device is waited for.
LONG = ("--processes", "44", "--min-runs", "8", "--min-time", "4", "--max-time", "5", *JSON)
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


@dataclass(frozen=True)
class Told:
    """What became of a run."""

    code: int
    run: Watched
    logs: dict[str, Log]
    at: dict[str, float]
    """When the misfortune of each began."""


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[dict[str, Future[Told]]]:
    """All of them, under way: each waits for minutes and works for seconds."""
    check_peers()
    told: tuple[Callable[[Bench], Told], ...] = (holes, losses, frozen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        packages(platform.machine(), system_python(), print)
    with ThreadPoolExecutor(len(told)) as pool:

        def tell(story: Callable[[Bench], Told]) -> Told:
            with benched(tmp_path_factory.mktemp(story.__name__)) as bench:
                # Agents of this machine that nobody else uses meanwhile, and the packed ones of the suite.
                own = bench.home / "cache" / "pocketbench"
                own.mkdir(parents=True)
                (own / "agents").symlink_to(cache / "pocketbench" / "agents")
                bench.environment["XDG_CACHE_HOME"] = str(own.parent)
                return story(bench)

        yield {story.__name__: pool.submit(tell, story) for story in told}


def holes(bench: Bench) -> Told:
    """Two devices whose links are black holes from the middle of a job on."""
    with ExitStack() as stack:
        found = {way: stack.enter_context(far(way, bench.home / f"far-{way}")) for way in ("ssh", "adb")}
        logs = devices(bench, **{way: to.entry for way, (to, _) in found.items()})
        command = ("--device", "ssh", "--device", "adb", "--model", bench.null(sleep_ms=10), *THREE)
        run = stack.enter_context(watched(bench.start(*command)))
        with ThreadPoolExecutor(len(found)) as pool:
            begun = {way: pool.submit(_hole, logs[way], knobs) for way, (_, knobs) in found.items()}
        return Told(run.end(END_S), run, logs, {way: future.result() for way, future in begun.items()})


def _hole(log: Log, knobs: Faults) -> float:
    until(log, 1)
    knobs.hole = True
    begin = time.monotonic()
    time.sleep(HOLE_S)
    knobs.hole = False
    return begin


def losses(bench: Bench) -> Told:
    """One device vanishes for good, the agent of another stops for good, and this machine measures."""
    with ExitStack() as stack, killed(bench):
        vanishing = stack.enter_context(ExitStack())
        gone, _ = vanishing.enter_context(far("ssh", bench.home / "far-gone"))
        hung, _ = stack.enter_context(far("ssh", bench.home / "far-hung"))
        logs = devices(bench, gone=gone.entry, hung=hung.entry)
        names = ("--device", "gone", "--device", "hung", "--device", "local")
        run = stack.enter_context(watched(bench.start(*names, "--model", bench.null(sleep_ms=10), *LONG)))
        for log in logs.values():
            until(log, 1)
        (agent,) = agents_of(bench, "hung")
        begin = time.monotonic()
        os.kill(agent, signal.SIGSTOP)
        vanishing.close()
        logs["local"] = Log(Path(bench.environment["XDG_CACHE_HOME"]) / "pocketbench" / "agent" / "agent.log")
        return Told(run.end(END_S), run, logs, dict.fromkeys(logs, begin))


def frozen(bench: Bench) -> Told:
    """A host stands still between two jobs until its leases have ended, and wakes while another one measures."""
    with ExitStack() as stack:
        to, _ = stack.enter_context(far("ssh", bench.home / "far"))
        logs = devices(bench, board=to.entry)
        models = [("--device", "board", "--model", bench.null(name, sleep_ms=10)) for name in ("first", "second")]
        first = stack.enter_context(watched(bench.start(*models[0], *THREE)))
        until(logs["board"], 1)
        os.kill(first.process.pid, signal.SIGSTOP)
        try:
            # A job that had begun by then ends.
            assert wait_until(lambda: not logs["board"].in_the_middle(1), 60)
            time.sleep(FROZEN_S)
            second = stack.enter_context(watched(bench.start(*models[1], *THREE)))
            before = len(logs["board"].begun())
            assert wait_until(lambda: len(logs["board"].begun()) > before, 120), second.stderr
        finally:
            os.kill(first.process.pid, signal.SIGCONT)
        code = second.end(END_S)
        assert (code, second.results["board"]["status"]) == (0, "OK"), second.stderr
        assert second.results["board"]["attempt"] == 1
        ended = first.end(END_S)
        stored = bench("history", "--format", "json").doc
        assert [each["model"]["name"] for each in stored] == ["second"]
        assert bench("--device", "board", "--model", bench.null("third"), *QUICK).code == 0
        return Told(ended, first, logs, {})
