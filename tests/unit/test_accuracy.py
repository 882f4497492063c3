"""Accuracy: intervals of a metric, and of its paired difference to the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pocketbench import stats
from pocketbench.figures.accuracy import accuracy, evaluate
from pocketbench.results import Accuracy
from pocketbench.workload import Score, WorkloadFailed


def measured(score: Score, seed: int) -> Accuracy:
    """Of a score alone."""
    return accuracy(evaluate(score, seed))


def items(n: int, wrong: Sequence[int]) -> list[float]:
    """Right but for those."""
    return [0.0 if index in wrong else 1.0 for index in range(n)]


def test_accuracy_of_right_and_wrong_is_wilson() -> None:
    found = measured(Score("top-1", [1.0] * 90 + [0.0] * 10, others={"top-5": 0.99}), seed=1)
    assert (found.metric, found.value, found.n, found.others) == ("top-1", 0.9, 100, {"top-5": 0.99})
    assert found.ci95 == stats.wilson(90, 100)
    perfect = measured(Score("top-1", np.ones(20)), seed=1)
    assert perfect.ci95 is not None and perfect.ci95[0] < 1.0


def test_accuracy_of_other_items_is_a_seeded_bootstrap() -> None:
    items = np.random.default_rng(2).uniform(0.3, 0.7, 200)
    score = Score("iou", items, higher_is_better=False, resamples=200)
    found = measured(score, seed=5)
    assert found == measured(score, seed=5)
    assert found.ci95 is not None and found.ci95[0] < found.value < found.ci95[1]
    assert found.value == pytest.approx(items.mean())
    assert found.ci95[1] - found.ci95[0] == pytest.approx(2 * 1.96 * items.std() / np.sqrt(200), rel=0.25)
    assert not found.higher_is_better


def test_accuracy_of_a_metric_over_all_items_uses_resample() -> None:
    items = np.arange(1.0, 51.0)

    def largest(chosen: Sequence[int]) -> float:
        return float(items[list(chosen)].max()) / 100

    found = measured(Score("max", np.zeros(50), resample=largest, resamples=100), seed=1)
    assert found.value == 0.5
    assert found.ci95 is not None and 0.4 < found.ci95[0] <= found.ci95[1] == 0.5


@pytest.mark.parametrize("value", [float("nan"), "raise"])
def test_a_resample_that_misbehaves_fails_the_workload(value: Any) -> None:
    def resample(chosen: Sequence[int]) -> float:
        if value == "raise":
            raise IndexError("out of range")
        return float(value)

    with pytest.raises(WorkloadFailed, match=r"resample\(\)"):
        measured(Score("m", np.zeros(5), resample=resample, resamples=10), seed=1)


def test_a_difference_is_paired_over_the_same_items() -> None:
    before = evaluate(Score("top-1", items(200, range(10))), seed=1)
    after = evaluate(Score("top-1", items(200, range(4, 16))), seed=1)
    found = accuracy(after, before)
    assert found.reference == 0.95
    assert found.difference == pytest.approx(-0.01)
    # Four won, six lost: the interval knows nothing of the 190 that both have right.
    assert found.difference_ci95 == stats.paired_proportions(4, 6, 200)
    assert found.difference_ci95[0] < -0.01 < found.difference_ci95[1]


def test_two_that_agree_on_every_item_may_still_differ() -> None:
    same = evaluate(Score("top-1", items(100, [3])), seed=1)
    found = accuracy(same, same)
    assert found.difference == 0
    assert found.difference_ci95 is not None and found.difference_ci95[0] < -0.03 and found.difference_ci95[1] > 0.03


def test_a_difference_of_a_metric_over_all_items_is_resampled_in_pairs() -> None:
    rng = np.random.default_rng(4)
    quality = rng.uniform(0.2, 0.8, 300)

    def metric(values: Any) -> Any:
        return Score("m", values, resample=lambda chosen: float(values[list(chosen)].mean()), resamples=300)

    before, after = evaluate(metric(quality), 1), evaluate(metric(quality - 0.01), 1)
    found = accuracy(after, before)
    # Items that are hard for one are hard for the other: the difference is known far better than either.
    assert found.difference_ci95 is not None
    assert list(found.difference_ci95) == pytest.approx([-0.01, -0.01])
    assert found.ci95 is not None and found.ci95[1] - found.ci95[0] > 0.02


def test_other_items_give_no_difference() -> None:
    before, after = evaluate(Score("top-1", items(100, [])), 1), evaluate(Score("top-1", items(99, [])), 1)
    found = accuracy(after, before)
    assert (found.reference, found.difference, found.difference_ci95) == (None, None, None)
