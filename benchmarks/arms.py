"""Rows of benchmarks/pipeline.py: what is timed side by side, and what is allowed between."""

from __future__ import annotations

import contextlib
import gc
import io
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from pocketbench.stats import ratio_paired

BOUNDS = {"step": 1.05, "stage": 1.25}
SLOW_S, ADDED_S = 2.0, {"step": 0.1, "stage": 2.0}
MOST_ROUNDS, LEAST_ROUNDS = 100, 8


@dataclass(frozen=True)
class Arms:
    """The library by hand, our step without what it does beyond that, and all of it."""

    hand: Callable[[], object]
    step: Callable[[], object]
    stage: Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table. `unbound` says, by arm, why no bound can hold there."""

    name: str
    arms: Callable[[], Arms]
    unbound: Mapping[str, str]


def heads() -> str:
    """Of the table."""
    arms = "".join(f"{arm + ' s':>9s}" for arm in ("hand", *BOUNDS))
    return f"{'step':40s}{arms}" + "".join(f"   {arm + ' / hand':24s}" for arm in BOUNDS) + "rounds"


def judge(row: Row, seconds: Mapping[str, list[float]]) -> list[str]:
    """Print the row; which of its bounds are missed."""
    line, missed = f"{row.name:40s}" + "".join(f"{median(values):9.3f}" for values in seconds.values()), []
    for arm, bound in BOUNDS.items():
        found = ratio_paired(seconds["hand"], seconds[arm])
        assert found.lo is not None and found.hi is not None
        text = f"{found.value:.3f} [{found.lo:.3f}, {found.hi:.3f}]"
        line += f"   {text:24s}"
        added = median(seconds[arm]) - median(seconds["hand"])
        if arm in row.unbound:
            continue
        if median(seconds["hand"]) < SLOW_S:
            if added > ADDED_S[arm]:
                missed.append(f"{row.name}: {arm} adds {added:.2f} s, bound {ADDED_S[arm]} s")
        elif found.hi > bound:
            word = "not shown" if found.lo <= bound else "exceeded"
            missed.append(f"{row.name}: {arm} / hand {text}, bound {bound}: {word}")
    print(f"{line}{len(seconds['hand']):6d}", flush=True)
    for arm, why in row.unbound.items():
        print(f"    no bound for {arm}: {why}", flush=True)
    return missed


def rounds(row: Row, limit_s: float) -> dict[str, list[float]]:
    """Seconds of each arm, one a round; the first round is not counted."""
    arms = vars(row.arms())
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    end = time.monotonic() + limit_s
    for number in range(MOST_ROUNDS + 1):
        for arm in random.sample(list(arms), len(arms)):
            # Of torch's graphs a quarter of a second of rubbish is left, which one arm would pay for another.
            gc.collect()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                begin = time.perf_counter()
                arms[arm]()
                took = time.perf_counter() - begin
            if number:
                seconds[arm].append(took)
        if number >= LEAST_ROUNDS and time.monotonic() > end:
            break
    return seconds
