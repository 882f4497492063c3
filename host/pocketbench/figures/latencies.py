"""The latency of a case: of the samples of its processes, or of what a tool tells in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median, stdev

import numpy as np

from pocketbench import stats
from pocketbench.measurement import Process, Told
from pocketbench.results import Latency
from pocketbench.verdict import verdict

MS = 1e6


def latency(processes: Sequence[Process]) -> Latency | None:
    """None where no process tells any time."""
    medians = [p50 for p in processes if (p50 := p.p50_ns) is not None]
    if not any(len(p.run_ns) for p in processes):
        return _told_latency([p.told for p in processes if p.told is not None], medians)
    pooled = np.concatenate([p.run_ns for p in processes])
    centre = stats.centre(medians)
    shown: dict[str, float | None] = {}
    for percent in (90, 95, 99):
        found = stats.percentile(pooled, percent)
        trusted = found is not None and found.upper <= verdict.THRESHOLDS["percentile_bound"] * found.value
        shown[f"p{percent}"] = found.value / MS if found and trusted else None
        shown[f"p{percent}_upper"] = found.upper / MS if found and trusted else None
    return Latency(
        p50=centre.value / MS,
        ci95=None if centre.lo is None or centre.hi is None else (centre.lo / MS, centre.hi / MS),
        mean=float(pooled.mean()) / MS,
        min=int(pooled.min()) / MS,
        max=int(pooled.max()) / MS,
        p90=shown["p90"],
        p90_upper=shown["p90_upper"],
        p95=shown["p95"],
        p95_upper=shown["p95_upper"],
        p99=shown["p99"],
        p99_upper=shown["p99_upper"],
        stdev_within=median(float(p.run_ns.std()) for p in processes if len(p.run_ns)) / MS,
        stdev_between=stdev(medians) / MS if len(medians) > 1 else None,
        n=len(pooled),
        processes=len(medians),
    )


def _told_latency(told: Sequence[Told], medians: Sequence[float]) -> Latency | None:
    """Of tools that tell statistics: nothing that they do not tell, and no percentile of several processes."""
    means = [(t.mean_ns, t.runs) for t in told if t.mean_ns is not None]
    if not means:
        return None
    centre = stats.centre(medians) if medians else None
    ends = (centre.lo, centre.hi) if centre is not None else (None, None)
    return Latency(
        p50=centre.value / MS if centre is not None else None,
        ci95=None if ends[0] is None or ends[1] is None else (ends[0] / MS, ends[1] / MS),
        mean=sum(mean * runs for mean, runs in means) / sum(runs for _, runs in means) / MS,
        min=_least([t.min_ns for t in told], min),
        max=_least([t.max_ns for t in told], max),
        p90=None,
        p90_upper=None,
        p95=None,
        p95_upper=None,
        p99=None,
        p99_upper=None,
        stdev_within=_least([t.stdev_ns for t in told], median),
        stdev_between=stdev(medians) / MS if len(medians) > 1 else None,
        n=sum(t.runs for t in told),
        processes=len(means),
    )


def _least(values: Sequence[float | None], of: Callable[[Sequence[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return of(known) / MS if known else None
