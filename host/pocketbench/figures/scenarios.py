"""What the scenarios tell beside latency: deadlines of paced frames, the curve of a sustained run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from pocketbench.measurement import Process, Reading
from pocketbench.plan import Case
from pocketbench.results import CurvePoint, RealTime
from pocketbench.verdict import heat

MS, S = 1e6, 1_000_000_000
# Real time means that at most this share of the frames is late, and that chance does not explain it.
LATE_SHARE = 0.01
CONFIDENCE = 0.99
POINTS = 60


def real_time(case: Case, processes: Sequence[Process]) -> RealTime | None:
    """Deadlines of the paced scenario: a frame is late when the next one has arrived before it is done."""
    if case.rate_hz is None or not any(len(p.run_ns) for p in processes):
        return None
    run_ns = np.concatenate([p.run_ns for p in processes])
    missed, n = int((run_ns > S / case.rate_hz).sum()), len(run_ns)
    upper = share_upper(missed, n)
    holds = True if upper <= LATE_SHARE else False if missed > LATE_SHARE * n else None
    return RealTime(case.rate_hz, n, missed, upper, holds)


def share_upper(hits: int, n: int) -> float:
    """The one-sided 99 % upper bound of a share (Clopper and Pearson 1934)."""
    if hits >= n:
        return 1.0
    lo, hi = hits / n, 1.0
    for _ in range(60):
        middle = (lo + hi) / 2
        if _at_most(hits, n, middle) > 1 - CONFIDENCE:
            lo = middle
        else:
            hi = middle
    return hi


def _at_most(hits: int, n: int, share: float) -> float:
    """The probability of so many hits or fewer."""
    k = np.arange(hits + 1)
    ways = math.lgamma(n + 1) - np.array([math.lgamma(i + 1) + math.lgamma(n - i + 1) for i in k])
    return float(np.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share)).sum()) if share < 1 else 0.0


def curve(case: Case, processes: Sequence[Process]) -> tuple[CurvePoint, ...] | None:
    """The first process of the sustained scenario in at most 60 stretches of a second or more."""
    measured = next((p for p in processes if len(p.at_ns)), None)
    if case.sustained_s is None or measured is None or measured.timed_from_ns is None:
        return None
    count = max(1, min(POINTS, int(case.sustained_s)))
    step_ns = case.sustained_s * S / count
    temperature = _highest(heat.zones(measured.readings))
    clock, ceiling = (
        _highest([r for r in measured.readings if r.quantity == quantity and r.value])
        for quantity in ("frequency", "ceiling")
    )
    made = []
    for k in range(count):
        inside = (measured.at_ns >= k * step_ns) & (measured.at_ns < (k + 1) * step_ns)
        run_ns = measured.run_ns[inside]
        if not len(run_ns):
            continue
        window = (measured.timed_from_ns + k * step_ns, measured.timed_from_ns + (k + 1) * step_ns)
        made.append(
            CurvePoint(
                t_s=(k + 1) * step_ns / S,
                runs=len(run_ns) * measured.every,
                p50_ms=float(np.median(run_ns)) / MS,
                max_ms=int(run_ns.max()) / MS,
                temperature_c=_mean(temperature, window, 1000),
                cpu_mhz=_mean(clock, window, 1000),
                ceiling_mhz=_mean(ceiling, window, 1000),
            )
        )
    return tuple(made)


def _highest(readings: Sequence[Reading]) -> Reading | None:
    """Of several sensors, the one that reached most."""
    return max(readings, key=lambda r: max(r.value), default=None)


def _mean(reading: Reading | None, window_ns: tuple[float, float], each: float) -> float | None:
    if reading is None:
        return None
    inside = [v for t, v in zip(reading.t_ns, reading.value, strict=True) if window_ns[0] <= t < window_ns[1]]
    return fmean(inside) / each if inside else None
