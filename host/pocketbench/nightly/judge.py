"""Each series tonight against its nights before: pure functions over plain numbers, from regression.py's rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocketbench.night import IMPROVED, LEARNING, OK, SUSPECTED
from pocketbench.nightly import regression

# Judged by their logarithms, suspected by history, and confirmed by pairs; all are less the better.
MEASURED = ("latency_p50", "load", "first_inference", "memory_peak", "energy")
# The same model on the same runtime gives the same: any change is one.
EXACT = ("size", "accuracy", "coverage")
# An item more or less is chance in so few of a hundred.
MCNEMAR_ALPHA = 0.01


@dataclass(frozen=True)
class Judged:
    """What history says of one metric tonight. `suspicion`: worse than expected; `why` in words.

    `band` lo and hi in the metric's unit, `change` relative to the mean of the window, `detectable` relative.
    """

    state: str
    nights: int
    band: tuple[float, float] | None = None
    change: float | None = None
    detectable: float | None = None
    suspicion: regression.Suspicion | None = None
    why: str = ""


def measured(history: Sequence[float], tonight: float, least: float | None = None, shift: float = 0.0) -> Judged:
    """A metric of MEASURED; `history` oldest first, in its unit, without the nights of an alarm.

    `shift` (a logarithm) is what the whole device moved by tonight: the device's, and not this series'.
    """
    if tonight <= 0 or any(value <= 0 for value in history):
        return Judged(LEARNING, len(history), why="a value that is not positive cannot be judged")
    logs, now = [math.log(value) for value in history], math.log(tonight) - shift
    smallest = regression.LEAST_SUSPECT if least is None else least
    window = logs[-regression.WINDOW :]
    change = math.expm1(now - regression.level(window)) if window else None
    detects = regression.detectable(logs, smallest)
    if len(logs) < regression.LEARNING:
        return Judged(LEARNING, len(logs), change=change, detectable=detects)
    upper = regression.bound(window, least=smallest)
    below = regression.bound([-value for value in window], least=smallest)
    assert upper is not None and below is not None
    band = (math.exp(-below + shift), math.exp(upper + shift))
    suspicion = regression.suspect(logs, now, smallest)
    if suspicion is not None:
        return Judged(SUSPECTED, len(logs), band, suspicion.change, detects, suspicion)
    better = regression.suspect([-value for value in logs], -now, smallest)
    return Judged(IMPROVED if better is not None else OK, len(logs), band, change, detects)


def exact(metric: str, direction: int, baseline: float, tonight: float, least: float | None = None) -> str | None:
    """Why a metric of EXACT is worse than the baseline's, or None. Accuracy with known items is `items`' to judge."""
    if metric == "size":
        grown = tonight / baseline - 1 if baseline > 0 else 0.0
        return (
            f"the file is {grown:.1%} larger"
            if grown > (regression.LEAST_CONFIRMED if least is None else least)
            else None
        )
    worse = (baseline - tonight) * direction
    if worse <= (least or 0.0):
        return None
    if metric == "coverage":
        return f"the accelerator took {tonight:.0%} of the nodes, {baseline:.0%} before"
    return f"{tonight:.4g}, {baseline:.4g} before"


def items(before: Sequence[float], after: Sequence[float], higher_is_better: bool, least: float = 0.0) -> str | None:
    """Why accuracy over the same items, right (1) or wrong (0) each, is worse; None where it is not, or is chance."""
    if len(before) != len(after) or not before:
        return None
    lost = sum(a < b for b, a in zip(before, after, strict=True))
    won = sum(a > b for b, a in zip(before, after, strict=True))
    if not higher_is_better:
        lost, won = won, lost
    chance = regression.mcnemar(lost, won)
    share = (lost - won) / len(before)
    if chance >= MCNEMAR_ALPHA or share <= least:
        return None
    return (
        f"{lost} items of {len(before)} are wrong that were right, {won} the other way round: "
        f"{share:.2%} lost (McNemar, p = {chance:.2g})"
    )


def device_shift(tonight: Mapping[str, float], before: Mapping[str, Sequence[float]]) -> float:
    """What the latencies of one device moved by tonight, as a logarithm, all being judged; by series, in their unit."""
    deviations = [
        math.log(value) - regression.level([math.log(one) for one in before[key][-regression.WINDOW :]])
        for key, value in tonight.items()
        if len(before.get(key, ())) >= regression.LEARNING and value > 0 and min(before[key]) > 0
    ]
    return regression.device_shift(deviations)
