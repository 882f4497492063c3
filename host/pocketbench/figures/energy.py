"""From raw readings of power and energy to joules an inference.

The source that is believed (power_sources.py) is a rail or several. Mean powers of three windows follow: idle, at work,
idle; nothing here judges (verdict/energy_reasons.py does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pocketbench.figures.power_sources import BUILDERS, Rail, Settings, Source, Values, choose
from pocketbench.measurement import EnergyRun, Reading
from pocketbench.results import Energy

CHARGING, NOT_CHARGING, FULL = 1, 3, 4
# Fewer steps of a counter in an idle window, and idle power is unknown.
IDLE_STEPS = 4
# A gauge lags: the first part of each window still shows what was before.
LAG_SHARE, LAG_S = 0.1, 3.0
# So much of a window must be seen; blanks count that are longer than this share of it and than so many usual ones.
SEEN_SHARE, GAP_SHARE, GAP_TIMES = 0.9, 0.05, 3.0
# A load is constant where the least and the most that was seen of it differ by no more of its mean.
STEADY_SHARE, STEADY_READS = 0.1, 20


@dataclass(frozen=True)
class Found:
    """Everything that the verdict looks at. Powers in watts; None where a window told too little."""

    energy: Energy | None
    source: Source | None
    missing: str = ""
    work_w: float | None = None
    before_w: float | None = None
    after_w: float | None = None
    steps: int = 0
    idle_steps: int = 0
    # Of each rail that told too little of the work: the share of it that was seen.
    unseen: Mapping[str, float] = field(default_factory=dict)
    counter: bool = False
    # A gauge that hardly moved, because nothing did.
    steady: bool = False
    work_s: float = 0.0
    charging: bool = False
    clock_bound_s: float = 0.0
    # All of the phase, heat among them.
    readings: Sequence[Reading] = ()


def find(run: EnergyRun, settings: Settings) -> Found:
    """What one energy phase tells."""
    source, missing = choose(run.readings, settings, run.work_ns)
    if source is None:
        return Found(None, None, missing)
    work_s = (run.work_ns[1] - run.work_ns[0]) / 1e9
    windows = (run.idle_before_ns, run.work_ns, run.idle_after_ns)
    before, work, after = ([mean_power(rail, window) for rail in source.rails] for window in windows)
    before_w, work_w, after_w = (_sum([part.watts for part in parts]) for parts in (before, work, after))
    main = max(range(len(source.rails)), key=lambda k: work[k].watts or 0.0)
    rail = source.rails[main]
    whole = (run.idle_before_ns[0], run.idle_after_ns[1])
    found = Found(
        energy=None,
        source=source,
        work_w=work_w,
        before_w=before_w,
        after_w=after_w,
        steps=work[main].steps,
        idle_steps=min(before[main].steps, after[main].steps),
        unseen=_unseen(source.rails, work, main),
        counter=rail.counter,
        steady=not rail.counter and _steady(rail, run.work_ns),
        work_s=work_s,
        charging=_charging(run.readings, whole, fed=source.battery) and (source.battery or source.name not in BUILDERS),
        clock_bound_s=run.clock_bound_ns / 1e9,
        readings=run.readings,
    )
    if work_w is None or run.runs == 0:
        return found
    known = before_w is not None and after_w is not None and (not found.counter or found.idle_steps >= IDLE_STEPS)
    idle_w = ((before_w or 0.0) + (after_w or 0.0)) / 2 if known else None
    each_mj = 1e3 * work_s / run.runs
    times = rail.t_ns[rail.moved]
    energy = Energy(
        gross_mj=work_w * each_mj,
        idle_mj=idle_w * each_mj if idle_w is not None else None,
        net_mj=(work_w - idle_w) * each_mj if idle_w is not None else None,
        source=f"{source.name}{f' ({source.understood})' if source.understood else ''}",
        rails=tuple(rail.name for rail in source.rails),
        steps=found.steps,
        interval_s=float(np.median(np.diff(times))) / 1e9 if len(times) > 1 else None,
        power_mw=1e3 * work_w,
    )
    return replace(found, energy=energy)


@dataclass(frozen=True)
class Window:
    """What one rail told of a window: mean watts (None: too little), steps, and the share of it that was seen (of a
    counter that rested, the share in which it moved).
    """

    watts: float | None
    steps: int
    seen: float


def mean_power(rail: Rail, window_ns: tuple[int, int]) -> Window:
    """What that rail took in that window, if most of the window was seen.

    A step is a value that differs from the one before: a gauge that is asked ten times a second and looks at its
    device every ten seconds gave three in half a minute. A counter counts from where it first moved to where it last
    did, each end taken as the middle of several points, since each is seen late by up to the sampling interval; one
    that rested for much of the window counts from the first reading to the last.
    """
    begin, end = window_ns
    begin += _lag_ns(window_ns)
    inside = (rail.t_ns >= begin) & (rail.t_ns <= end)
    t, v = rail.t_ns[inside] / 1e9, rail.value[inside]
    moved = rail.moved[inside[rail.moved]]
    steps, seen = len(moved), _seen(t, begin / 1e9, end / 1e9, gaps=not rail.counter)
    if seen < SEEN_SHARE or len(t) < 2 or t[-1] <= t[0]:
        return Window(None, steps, seen)
    if not rail.counter:
        spans = np.diff(t)
        return Window(float(((v[1:] + v[:-1]) * spans).sum() / (2 * spans.sum())), steps, seen)
    tm, vm = rail.t_ns[moved] / 1e9, rail.value[moved]
    active = _seen(tm, begin / 1e9, end / 1e9, gaps=False)
    if active < SEEN_SHARE:
        return Window(float((v[-1] - v[0]) / (t[-1] - t[0])), steps, active)
    ends = max(1, len(tm) // 8)
    change, time_s = np.mean(vm[-ends:]) - np.mean(vm[:ends]), np.mean(tm[-ends:]) - np.mean(tm[:ends])
    return Window(float(change / time_s), steps, seen)


def _unseen(rails: Sequence[Rail], work: Sequence[Window], main: int) -> Mapping[str, float]:
    """The rails that told too little; of a device that works the main rail's counter never rests, but hangs."""
    hung = work[main].steps > IDLE_STEPS and work[main].seen < SEEN_SHARE
    parts = enumerate(zip(rails, work, strict=True))
    return {rail.name: part.seen for k, (rail, part) in parts if part.watts is None or (k == main and hung)}


def _seen(t: Values, begin: float, end: float, gaps: bool) -> float:
    """The share of a window that its readings tell of: what comes before the first and after the last is missing, and
    (`gaps`) what lies between two, where it is much longer than usual.
    """
    if end <= begin or len(t) < 2:
        return 0.0
    between = np.diff(np.unique(t))
    blanks = np.concatenate(([t[0] - begin, end - t[-1]], between if gaps else []))
    usual = max(GAP_TIMES * float(np.median(between)) if len(between) else 0.0, GAP_SHARE * (end - begin))
    return 1.0 - float(blanks[blanks > usual].sum()) / (end - begin)


def _lag_ns(window_ns: tuple[int, int]) -> int:
    return round(min(LAG_S * 1e9, LAG_SHARE * (window_ns[1] - window_ns[0])))


def _steady(rail: Rail, work_ns: tuple[int, int]) -> bool:
    """Did a gauge stand still because the load did?

    A value that repeats is a gauge that sleeps, or a load that is constant to its last digit. The second is believed
    of one that told of the work's begin and end before its lag was over, and kept its value in between: whatever its
    interval is, what it showed was of the work alone.
    """
    lag = _lag_ns(work_ns)
    moments = rail.t_ns[rail.moved]
    told = all(((moments >= at) & (moments <= at + lag)).any() for at in work_ns)
    watts = rail.value[(rail.t_ns >= work_ns[0] + lag) & (rail.t_ns < work_ns[1])]
    return told and len(watts) >= STEADY_READS and bool(np.ptp(watts) <= STEADY_SHARE * abs(np.mean(watts)))


def _sum(watts: Sequence[float | None]) -> float | None:
    known = [w for w in watts if w is not None]
    return sum(known) if known and len(known) == len(watts) else None


def _charging(readings: Sequence[Reading], window_ns: tuple[int, int], fed: bool) -> bool:
    """Was the battery charged at any time in that window, or (`fed`) the device supplied past its battery?"""
    for reading in readings:
        inside = {v for t, v in zip(reading.t_ns, reading.value, strict=True) if window_ns[0] <= t <= window_ns[1]}
        if reading.quantity == "status" and (CHARGING in inside or (fed and inside & {NOT_CHARGING, FULL})):
            return True
        if fed and reading.quantity == "online" and inside - {0}:
            return True
    return False
