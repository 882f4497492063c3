"""Two results: is there a difference? Paired by rounds within one run, else widened by what sessions differ by."""

from __future__ import annotations

from dataclasses import dataclass

from pocketbench import stats
from pocketbench.results import Result


@dataclass(frozen=True)
class Comparison:
    """after / before of the median latency with its 95 % interval, and how it was found."""

    ratio: stats.Estimate
    paired: bool
    spread: float
    spread_known: bool

    @property
    def differs(self) -> bool:
        """Does the interval leave 1 out?"""
        if self.ratio.lo is None or self.ratio.hi is None:
            return False
        return self.ratio.lo > 1 or self.ratio.hi < 1


def paired(before: Result, after: Result) -> stats.Estimate | None:
    """after / before of the median latency by rounds; None where one is not OK, or they ran in different ones."""
    old, new = before.process_medians_ns(), after.process_medians_ns()
    if before.status != "OK" or after.status != "OK" or before.device != after.device:
        return None
    return stats.ratio_paired(old, new) if old and len(old) == len(new) else None


def compare(before: Result, after: Result, same_run: bool, spread: float, spread_known: bool) -> Comparison | None:
    """None where one of them has no latency to compare."""
    old, new = before.process_medians_ns(), after.process_medians_ns()
    if not old or not new or min(old) <= 0 or min(new) <= 0:
        return None
    if same_run and before.device == after.device and len(old) == len(new):
        return Comparison(stats.ratio_paired(old, new), True, 0.0, True)
    if same_run and before.device == after.device:
        spread = 0.0
    return Comparison(stats.ratio_unpaired(old, new, spread), False, spread, spread_known)


def in_words(comparison: Comparison) -> str:
    """One sentence for people."""
    ratio = comparison.ratio
    if ratio.lo is None or ratio.hi is None:
        return "no difference shown: one process a side gives no interval"
    interval = f"[{ratio.lo:.3f}, {ratio.hi:.3f}]"
    if not comparison.differs:
        return f"no difference shown: B takes {ratio.value:.3f} times as long as A, 95 % interval {interval}"
    if ratio.value > 1:
        return f"B is slower: it takes {ratio.value:.3f} times as long as A, 95 % interval {interval}"
    return f"B is faster: it takes {ratio.value:.3f} times as long as A, 95 % interval {interval}"
