"""From a workload's Score to accuracy: the metric, its interval, and the paired difference to the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench import stats
from pocketbench.results import Accuracy
from pocketbench.workload import Score, WorkloadFailed


@dataclass(frozen=True)
class Scored:
    """A score, its metric over all items, and over each of the bootstrap's resamples.

    `resampled` is None where every item is right or wrong: then counting gives better intervals.
    """

    score: Score
    value: float
    resampled: NDArray[np.float64] | None

    @property
    def items(self) -> NDArray[np.float64]:
        """One number an item."""
        return np.asarray(self.score.per_item, np.float64)


def evaluate(score: Score, seed: int) -> Scored:
    """WorkloadFailed where the user's resample() raises, or gives nothing finite."""
    items = np.asarray(score.per_item, np.float64)
    n = len(items)
    if score.resample is not None:
        resample = _guarded(score.resample)
        return Scored(score, resample(range(n)), stats.bootstrap(n, resample, score.resamples, seed))
    if np.isin(items, (0.0, 1.0)).all():
        return Scored(score, float(items.mean()), None)
    return Scored(
        score,
        float(items.mean()),
        stats.bootstrap(n, lambda chosen: float(items[chosen].mean()), score.resamples, seed),
    )


def to_doc(scored: Scored) -> dict[str, Any]:
    """All that is needed to go on with it later, for JSON."""
    return {
        "metric": scored.score.metric,
        "items": scored.items.tolist(),
        "value": scored.value,
        "resampled": None if scored.resampled is None else scored.resampled.tolist(),
        "higher_is_better": scored.score.higher_is_better,
        "others": {name: float(value) for name, value in scored.score.others.items()},
    }


def from_doc(doc: Mapping[str, Any]) -> Scored:
    """What to_doc told. The score's own resample() is not needed any more."""
    score = Score(doc["metric"], doc["items"], higher_is_better=doc["higher_is_better"], others=doc["others"])
    return Scored(score, doc["value"], None if doc["resampled"] is None else np.array(doc["resampled"], np.float64))


def accuracy(scored: Scored, original: Scored | None = None) -> Accuracy:
    """The metric with its 95 % interval: Wilson for right-or-wrong items, else a bootstrap over items.

    `original`, scored over the same items with the same seed, adds the paired difference: Tango's interval for
    right-or-wrong items, else the bootstrap's.
    """
    items = scored.items
    if scored.resampled is None:
        interval = stats.wilson(round(float(items.sum())), len(items))
    else:
        interval = stats.percentile_interval(scored.resampled)
    comparable = original is not None and len(original.items) == len(items)
    return Accuracy(
        metric=scored.score.metric,
        value=scored.value,
        ci95=interval,
        n=len(items),
        reference=original.value if original is not None and comparable else None,
        difference=scored.value - original.value if original is not None and comparable else None,
        difference_ci95=_difference(original, scored) if original is not None and comparable else None,
        higher_is_better=scored.score.higher_is_better,
        others={name: float(value) for name, value in scored.score.others.items()},
    )


def _difference(before: Scored, after: Scored) -> tuple[float, float] | None:
    if before.resampled is None and after.resampled is None:
        won = int(((after.items == 1) & (before.items == 0)).sum())
        lost = int(((after.items == 0) & (before.items == 1)).sum())
        return stats.paired_proportions(won, lost, len(after.items))
    if before.resampled is None or after.resampled is None or len(before.resampled) != len(after.resampled):
        return None
    return stats.percentile_interval(after.resampled - before.resampled)


def _guarded(resample: Callable[[Sequence[int]], float]) -> Callable[[Sequence[int]], float]:
    def call(chosen: Sequence[int]) -> float:
        try:
            value = float(resample(chosen))
        except Exception as error:
            raise WorkloadFailed(f"the score's resample() raised {type(error).__name__}: {error}") from error
        if not 0 <= value <= 1:
            raise WorkloadFailed(f"the score's resample() returned {value}, which is no fraction from 0 to 1")
        return value

    return call
