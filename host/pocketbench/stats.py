"""Statistics as pure functions over nanoseconds or any other positive values.

The process, not the sample, is the statistical unit: samples of one process are alike, and intervals over
pooled samples are far too narrow (docs/methodology.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Fewer samples say nothing about that percentile (as LoadGen's early stopping counts them).
MIN_SAMPLES = {90: 64, 95: 130, 99: 662}
CONFIDENCE = 0.95
BOUND_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, in the unit of what went in; lo and hi None where there is none."""

    value: float
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class Percentile:
    """An order statistic and its one-sided 99 % upper bound."""

    value: float
    upper: float


def t_quantile(p: float, freedom: int) -> float:
    """Student's t quantile, for p in 0.5..1.

    Exact for 1 and 2 degrees of freedom; else the Cornish-Fisher expansion of Abramowitz and Stegun 26.7.5,
    within 0.3 % for p <= 0.975 and 3 degrees or more, within 1 % for p <= 0.995 and 4 or more.
    """
    if freedom < 1:
        raise ValueError("a t quantile needs at least one degree of freedom")
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z, n = NormalDist().inv_cdf(p), float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def centre(process_medians: Sequence[float]) -> Estimate:
    """Median of the process medians, with a t interval on their logarithms. No interval for one process.

    The interval stands about the geometric mean and is stretched to the median where that lies outside: about
    the median, which scatters more than the mean, it would cover too little (92 % of 10 processes, 88 % of 100).
    """
    middle = median(process_medians)
    if len(process_medians) < 2 or min(process_medians) <= 0:
        return Estimate(middle, None, None)
    logs = [math.log(m) for m in process_medians]
    mean, half = fmean(logs), _half_width(logs)
    return Estimate(middle, min(middle, math.exp(mean - half)), max(middle, math.exp(mean + half)))


def ratio_paired(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """after / before from pairs of process medians of the same rounds, with a t interval on their logarithms."""
    if len(before) != len(after) or not before:
        raise ValueError("paired ratios need the same rounds on both sides")
    logs = [math.log(a / b) for b, a in zip(before, after, strict=True)]
    value = math.exp(fmean(logs))
    if len(logs) < 2:
        return Estimate(value, None, None)
    half = _half_width(logs)
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def ratio_unpaired(before: Sequence[float], after: Sequence[float], session_spread: float) -> Estimate:
    """after / before of two sessions: Welch on the log process medians, widened by the between-session spread.

    `session_spread` is the standard deviation of a session's log p50 (0.02 = 2 %); it enters once a side.
    """
    logs = [[math.log(m) for m in side] for side in (before, after)]
    value = math.exp(fmean(logs[1]) - fmean(logs[0]))
    if min(len(side) for side in logs) < 2:
        return Estimate(value, None, None)
    variances = [stdev(side) ** 2 / len(side) for side in logs]
    within = sum(variances)
    squares = sum(v**2 / (len(side) - 1) for v, side in zip(variances, logs, strict=True))
    freedom = within**2 / squares if squares > 0 else math.inf
    # The within part carries the few degrees of freedom, the spread is taken as known.
    quantile = 1 - (1 - CONFIDENCE) / 2
    t = t_quantile(quantile, max(1, math.floor(freedom))) if math.isfinite(freedom) else 0.0
    z = NormalDist().inv_cdf(quantile)
    half = math.sqrt(t**2 * within + z**2 * 2 * session_spread**2)
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def percentile(samples: NDArray[Any], percent: int) -> Percentile | None:
    """The percentile of pooled samples with its order-statistic 99 % upper bound; None below MIN_SAMPLES.

    The bound is the sample above which as few lie as would, with 99 % confidence, not be fewer if the true
    percentile were higher (binomial count of exceedances).
    """
    n = len(samples)
    if n < MIN_SAMPLES[percent]:
        return None
    ordered = np.sort(samples)
    value = ordered[min(n - 1, math.ceil(n * percent / 100) - 1)]
    exceed = _exceedances(n, 1 - percent / 100)
    return Percentile(float(value), float(ordered[n - exceed]))


def log_trend(process_medians: Sequence[float]) -> tuple[float, bool]:
    """(relative change over the whole session, is the slope significant at 1 %?) by least squares on logs.

    Needs at least four processes, else (0.0, False).
    """
    n = len(process_medians)
    if n < 4 or min(process_medians) <= 0:
        return 0.0, False
    logs = [math.log(m) for m in process_medians]
    xs = [i - (n - 1) / 2 for i in range(n)]
    sxx = sum(x * x for x in xs)
    slope = sum(x * y for x, y in zip(xs, logs, strict=True)) / sxx
    mean = fmean(logs)
    residual = sum((y - mean - slope * x) ** 2 for x, y in zip(xs, logs, strict=True)) / (n - 2)
    change = math.expm1(slope * (n - 1))
    if residual <= 1e-18:
        return change, abs(change) > 1e-9
    return change, abs(slope) / math.sqrt(residual / sxx) > t_quantile(0.995, n - 2)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (1927); it keeps its width at 0 and 1."""
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Rounding may not push the share itself out.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def paired_proportions(won: int, lost: int, n: int) -> tuple[float, float]:
    """Tango's 95 % score interval of the difference of two proportions over the same n items (1998).

    `won` items are right after and wrong before, `lost` the other way round; the difference is (won - lost) / n.
    Unlike a bootstrap it keeps its width where the two agree on every item.
    """
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2)

    def beyond(difference: float) -> float:
        b = -won - lost + (2 * n - won + lost) * difference
        c = -lost * difference * (1 - difference)
        q = max(0.0, (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n))
        variance = n * (2 * q + difference * (1 - difference))
        return (won - lost - n * difference) / math.sqrt(variance) if variance > 0 else 0.0

    middle = (won - lost) / n
    ends = []
    for far in (-1.0, 1.0):
        near, outer = middle, far
        for _ in range(60):
            half = (near + outer) / 2
            near, outer = (near, half) if abs(beyond(half)) > z else (half, outer)
        ends.append(near)
    return ends[0], ends[1]


def bootstrap(n: int, metric: Callable[[Sequence[int]], float], resamples: int, seed: int) -> NDArray[np.float64]:
    """A metric over resamples of n items; `metric` takes item indices with repetition.

    The same n, resamples and seed give the same items: two metrics over one seed are paired.
    """
    rng = np.random.default_rng(seed)
    return np.array([metric(rng.integers(0, n, n).tolist()) for _ in range(resamples)])


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % percentile interval of a bootstrap."""
    lo, hi = np.quantile(resampled, [(1 - CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / 2])
    return float(lo), float(hi)


def _half_width(values: Sequence[float]) -> float:
    quantile = 1 - (1 - CONFIDENCE) / 2
    return t_quantile(quantile, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def _exceedances(n: int, share: float) -> int:
    """The largest k >= 1 with P(Binomial(n, share) < k) <= 1 %: so many samples at the top form the bound."""
    log_term = n * math.log1p(-share)
    cumulative, k = math.exp(log_term), 0
    while cumulative <= 1 - BOUND_CONFIDENCE and k < n:
        k += 1
        log_term += math.log((n - k + 1) / k) + math.log(share / (1 - share))
        cumulative += math.exp(log_term)
    return max(1, k)
