"""What compression cost, where it is more than chance: reasons of a variant beside its original."""

from __future__ import annotations

from collections.abc import Sequence

from pocketbench import stats
from pocketbench.measurement import Process
from pocketbench.results import Accuracy, Reason


def slower(original: Sequence[Process], processes: Sequence[Process], least: float) -> Reason | None:
    """It takes longer by more than the share `least`, paired by rounds, and its interval leaves 1 out."""
    before, after = [p.p50_ns for p in original], [p.p50_ns for p in processes]
    if len(before) != len(after) or len(before) < 2 or not all(before) or not all(after):
        return None
    ratio = stats.ratio_paired([ns for ns in before if ns], [ns for ns in after if ns])
    if ratio.lo is None or ratio.lo <= 1 or ratio.value <= 1 + least:
        return None
    return Reason("slower_than_original", "warn", "latency", f"takes {ratio.value:.2f} times as long as the original")


def dropped(found: Accuracy | None) -> Reason | None:
    """The interval of the paired difference leaves 0 out, on the wrong side."""
    if found is None or found.difference is None or found.difference_ci95 is None:
        return None
    sign = 1 if found.higher_is_better else -1
    if max(sign * end for end in found.difference_ci95) >= 0:
        return None
    points = f"{100 * found.difference:+.2f} points"
    lo, hi = (f"{100 * end:+.2f}" for end in found.difference_ci95)
    return Reason("accuracy_dropped", "warn", "accuracy", f"{found.metric}: {points} [{lo}, {hi}] from the original's")
