"""The measuring loop: warm-up, timed runs, and the check that "done" means done.

Every sample has two spans: run, from inputs bound until the runtime says that it is done, and io, copying
the inputs in and the outputs out. The clock is `time.perf_counter_ns` (CLOCK_MONOTONIC on Linux).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

CLOCK = time.perf_counter_ns
WARM_UP_TOLERANCE = 0.03
WARM_UP_KEPT = 20_000
LASTING_KEPT = 100_000
PROBES = 5
PROBE_TIME_NS = 5_000_000_000


@dataclass(frozen=True)
class Moves:
    """The three moves of one inference, with the inputs already in them."""

    bind: Callable[[], object]
    run: Callable[[], object]
    read: Callable[[], object]


@dataclass(frozen=True)
class Limits:
    """When a phase ends: as soon as min_runs and min_time are met, at the latest at max_runs or max_time."""

    min_runs: int
    max_runs: int
    min_time_ns: int
    max_time_ns: int


@dataclass(frozen=True)
class Samples:
    """Nanoseconds, one a run; `every` says that only one in so many was kept."""

    run_ns: array[int]
    io_ns: array[int]
    every: int = 1


@dataclass(frozen=True)
class Lasting:
    """Samples of a phase that lasts for a given time: runs made, and when each kept one began, since the phase did."""

    samples: Samples
    at_ns: array[int]
    total: int


@dataclass(frozen=True)
class WarmUp:
    """How the warm-up went: runs made, whether the rule saw them become steady, what was kept."""

    runs: int
    steady: bool
    samples: Samples


@dataclass(frozen=True)
class Probe:
    """For each probe: the run, a read straight after it, and a second read with nothing left to wait for."""

    run_ns: list[int]
    read_ns: list[int]
    reread_ns: list[int]


def timed(step: Moves, limits: Limits) -> Samples:
    """Run until the limits are met and keep every sample."""
    clock, bind, run, read = CLOCK, step.bind, step.run, step.read
    run_ns = array("q", bytes(8 * limits.max_runs))
    io_ns = array("q", bytes(8 * limits.max_runs))
    count = 0
    begin = clock()
    earliest, latest = begin + limits.min_time_ns, begin + limits.max_time_ns
    min_runs, max_runs = limits.min_runs, limits.max_runs
    while True:
        a = clock()
        bind()
        b = clock()
        run()
        c = clock()
        read()
        d = clock()
        run_ns[count] = c - b
        io_ns[count] = (b - a) + (d - c)
        count += 1
        if (count >= min_runs and d >= earliest) or d >= latest or count >= max_runs:
            break
    return Samples(run_ns[:count], io_ns[:count])


def lasting(step: Moves, work_ns: int) -> Lasting:
    """Run back to back for so long, at least once; of very many samples every second, fourth … is kept."""
    clock, bind, run, read = CLOCK, step.bind, step.run, step.read
    run_ns, io_ns, at_ns = array("q"), array("q"), array("q")
    every, total = 1, 0
    begin = clock()
    while True:
        a = clock()
        bind()
        b = clock()
        run()
        c = clock()
        read()
        d = clock()
        if total % every == 0:
            run_ns.append(c - b)
            io_ns.append((b - a) + (d - c))
            at_ns.append(a - begin)
            if len(run_ns) >= LASTING_KEPT:
                run_ns, io_ns, at_ns, every = run_ns[::2], io_ns[::2], at_ns[::2], every * 2
        total += 1
        if d - begin >= work_ns:
            return Lasting(Samples(run_ns, io_ns, every), at_ns, total)


def paced(step: Moves, limits: Limits, rate_hz: float) -> Lasting:
    """Frames arrive at a fixed rate, whether or not the one before is done; run is from a frame's scheduled arrival
    until its outputs are read, so that waiting behind a slow frame counts.

    It sleeps until the next arrival as an application would; a spin would keep the core warm and flatter.
    """
    clock, bind, run, read = CLOCK, step.bind, step.run, step.read
    run_ns, io_ns, at_ns = array("q"), array("q"), array("q")
    begin = clock()
    count = 0
    while True:
        arrival = begin + round(count * 1e9 / rate_hz)
        wait = arrival - clock()
        if wait > 0:
            time.sleep(wait / 1e9)
        a = clock()
        bind()
        b = clock()
        run()
        c = clock()
        read()
        d = clock()
        run_ns.append(d - arrival)
        io_ns.append((b - a) + (d - c))
        at_ns.append(arrival - begin)
        count += 1
        done = count >= limits.min_runs and d - begin >= limits.min_time_ns
        if done or d - begin >= limits.max_time_ns or count >= limits.max_runs:
            return Lasting(Samples(run_ns, io_ns), at_ns, count)


def warm_up(step: Moves, min_runs: int, min_time_ns: int, max_time_ns: int) -> WarmUp:
    """Run until the medians of the last two quarters agree within 3 %, at least and at most so long.

    The rule is dumb on purpose: its samples are sent and the host decides whether they were steady.
    """
    clock, bind, run, read = CLOCK, step.bind, step.run, step.read
    kept_run, kept_io = array("q"), array("q")
    every = 1
    runs = 0
    begin = clock()
    next_check = begin + min_time_ns
    while True:
        a = clock()
        bind()
        b = clock()
        run()
        c = clock()
        read()
        d = clock()
        if runs % every == 0:
            kept_run.append(c - b)
            kept_io.append((b - a) + (d - c))
            if len(kept_run) >= WARM_UP_KEPT:
                kept_run, kept_io, every = kept_run[::2], kept_io[::2], every * 2
        runs += 1
        if runs >= min_runs and d >= next_check:
            steady = is_steady(kept_run)
            if steady or d - begin >= max_time_ns:
                return WarmUp(runs, steady, Samples(kept_run, kept_io, every))
            next_check = d + max(min_time_ns // 2, (d - begin) // 5)


def is_steady(run_ns: array[int]) -> bool:
    """Do the medians of the last two quarters agree within 3 %?"""
    quarter = max(1, len(run_ns) // 4)
    if len(run_ns) < 2:
        return False
    before, after = median(run_ns[-2 * quarter : -quarter]), median(run_ns[-quarter:])
    return abs(after - before) <= WARM_UP_TOLERANCE * before


def probe(step: Moves) -> Probe:
    """Five runs, each read twice: what the first read costs more than the second, the run had not finished."""
    clock, bind, run, read = CLOCK, step.bind, step.run, step.read
    runs: list[int] = []
    reads: list[int] = []
    rereads: list[int] = []
    begin = clock()
    for _ in range(PROBES):
        bind()
        a = clock()
        run()
        b = clock()
        read()
        c = clock()
        read()
        d = clock()
        runs.append(b - a)
        reads.append(c - b)
        rereads.append(d - c)
        if d - begin > PROBE_TIME_NS:
            break
    return Probe(runs, reads, rereads)
