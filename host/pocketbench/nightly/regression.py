"""Regression rules over nights: pure functions, nothing here measures or stores.

A night's value of a series is the logarithm of the median of its process medians. History alone cries wolf: batteries
age and rooms warm. So a night is only *suspected* by history, and what turns it red is measured the same night: pairs
of runs, the new set of files against the pinned baseline's, interleaved: what the device does happens to both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

from pocketbench.stats import t_quantile

# Nights that a bound is made of, and how far back the second window ends, in which a drift has not begun yet.
WINDOW, LAG = 20, 10
# With fewer nights a series is learning: nothing is suspected. From so few on it can be said what would be detected.
LEARNING, LEAST_NIGHTS = 10, 5
# A suspicion costs minutes, a red page costs trust.
SUSPECT_ALPHA, CONFIRM_ALPHA = 0.05, 0.01
# Smaller changes are nobody's business.
LEAST_SUSPECT, LEAST_CONFIRMED = 0.02, 0.01
FIRST_PAIRS, SECOND_PAIRS = 5, 10
# So much at each end is taken for stalls: of nights, and of pairs where there are enough to do without one.
TRIMMED, ENOUGH_PAIRS = 0.1, 8
RERUNS = 3


@dataclass(frozen=True)
class Suspicion:
    """`change` is relative to the window's mean (0.05: 5 % more), `window` `recent` or `lagged`."""

    change: float
    window: str


@dataclass(frozen=True)
class Confirmation:
    """Of pairs: the mean relative change of new to baseline, its one-sided 99 % lower bound, and whether it stands."""

    change: float
    at_least: float
    stands: bool


def bound(
    history: Sequence[float], alpha: float = SUSPECT_ALPHA, least: float = LEAST_SUSPECT, enough: int = LEARNING
) -> float | None:
    """What one more night stays below with probability 1 - alpha, if nothing changed; None of fewer than `enough`.

    A t prediction bound, and at least `least` (relative) above the mean. `history` are logarithms, as the result. The
    mean is trimmed and the deviation winsorized: one stalled night would hide steps as long as it is in the window.
    """
    if len(history) < enough:
        return None
    n = len(history)
    cut = int(TRIMMED * n)
    half = t_quantile(1 - alpha, n - 2 * cut - 1) * _deviation(history, cut) / _kept(cut / n) * math.sqrt(1 + 1 / n)
    return level(history) + max(half, math.log1p(least))


def level(history: Sequence[float]) -> float:
    """What nights say together: their mean, a tenth at each end trimmed; ValueError of none."""
    return _trimmed(history, int(TRIMMED * len(history)))


def _trimmed(values: Sequence[float], cut: int) -> float:
    return fmean(sorted(values)[cut : len(values) - cut])


def _deviation(values: Sequence[float], cut: int) -> float:
    """Standard deviation with the `cut` values at each end pulled to the next one."""
    ordered = sorted(values)
    inner = ordered[cut : len(ordered) - cut]
    return stdev([inner[0]] * cut + inner + [inner[-1]] * cut)


def _kept(share: float) -> float:
    """What winsorizing such a share at each end leaves of a normal distribution's standard deviation."""
    if share <= 0:
        return 1.0
    normal = NormalDist()
    z = -normal.inv_cdf(share)
    return math.sqrt(1 - 2 * share - 2 * z * normal.pdf(z) + 2 * share * z * z)


def detectable(history: Sequence[float], least: float = LEAST_SUSPECT) -> float | None:
    """The smallest relative change that would be suspected in one night, were it judged; None of fewer than five."""
    limit = bound(history[-WINDOW:], least=least, enough=LEAST_NIGHTS)
    return None if limit is None else math.expm1(limit - level(history[-WINDOW:]))


def suspect(history: Sequence[float], tonight: float, least: float = LEAST_SUSPECT) -> Suspicion | None:
    """Is tonight's value above what its history lets expect? Either the last 20 nights' or the 20 before the last ten.

    `history` has the nights before, oldest first, without those of an open alarm.
    """
    before = history[-WINDOW - LAG : -LAG] if len(history) >= WINDOW + LAG else ()
    for name, window in (("recent", history[-WINDOW:]), ("lagged", before)):
        limit = bound(window, least=least)
        if limit is not None and tonight > limit:
            return Suspicion(math.expm1(tonight - level(window)), name)
    return None


def order(pairs: int, mirrored: bool) -> list[tuple[str, str]]:
    """Which of a pair runs first, in turns; mirrored, the other one begins."""
    names = ("new", "baseline") if mirrored else ("baseline", "new")
    return [names if number % 2 == 0 else (names[1], names[0]) for number in range(pairs)]


def again(history: Sequence[float], reruns: Sequence[float], least: float = LEAST_SUSPECT) -> float | None:
    """Where nothing of ours changed there is nothing to pair: is the median of tonight's further runs above the bound
    of one in a hundred as well? Its relative change, or None.
    """
    ordered = sorted(reruns)
    middle = ordered[(len(ordered) - 1) // 2]
    for window in (history[-WINDOW:], history[-WINDOW - LAG : -LAG] if len(history) >= WINDOW + LAG else ()):
        limit = bound(window, CONFIRM_ALPHA, least)
        if limit is not None and middle > limit:
            return math.expm1(middle - level(window))
    return None


def confirm(log_ratios: Sequence[float], least: float = LEAST_CONFIRMED) -> Confirmation:
    """Of pairs, ln(new / baseline) each: does the lower 99 % bound leave 0 behind, and is the mean above `least`?

    From eight pairs on the mean is trimmed (Yuen's t of one sample, which errs once in 80 to 90 where this says once in
    100): a pair that stalled does not outweigh the others. ValueError for fewer than three pairs.
    """
    n = len(log_ratios)
    if n < 3:
        raise ValueError("fewer than three pairs confirm nothing")
    cut = max(1, int(TRIMMED * n)) if n >= ENOUGH_PAIRS else 0
    mean = _trimmed(log_ratios, cut)
    error = _deviation(log_ratios, cut) / ((1 - 2 * cut / n) * math.sqrt(n))
    lower = mean - t_quantile(1 - CONFIRM_ALPHA, n - 2 * cut - 1) * error
    return Confirmation(math.expm1(mean), math.expm1(lower), lower > 0 and mean > math.log1p(least))


def undecided(log_ratios: Sequence[float], least: float = LEAST_CONFIRMED) -> bool:
    """Does the middle pair say that it is worse, where all of them do not confirm it? As many again will tell."""
    return median(log_ratios) > math.log1p(least) and not confirm(log_ratios, least).stands


def mcnemar(lost: int, won: int) -> float:
    """Exact one-sided probability that of the items that changed so many or more were lost, if both are as likely.

    McNemar's test on discordant items (1947) in its binomial form.
    """
    n = lost + won
    return sum(math.comb(n, k) for k in range(lost, n + 1)) / 2**n if n else 1.0


def device_shift(deviations: Sequence[float]) -> float:
    """What all series of a device moved by tonight: the median of their deviations from their own means, logarithms.

    It is alarmed once, as the device's, and taken out of each series. 0 for fewer than five series.
    """
    if len(deviations) < 5:
        return 0.0
    ordered = sorted(deviations)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
