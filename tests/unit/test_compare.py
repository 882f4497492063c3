"""Two results: paired within a run, widened between sessions."""

from __future__ import annotations

import pytest

from pocketbench.figures import compare
from pocketbench.figures.compare import Comparison, in_words
from pocketbench.results import Result
from pocketbench.stats import Estimate
from tests.unit import facts
from tests.unit.facts import MS


def result(*levels_ms: float, device: str = "pi5") -> Result:
    return facts.result(device=device, samples_ns=tuple((round(level * MS),) * 3 for level in levels_ms))


BEFORE = result(10.0, 20.0, 10.0, 20.0)
AFTER = result(10.5, 21.0, 10.5, 21.0)


def found(before: Result, after: Result, same_run: bool, spread: float = 0.02, known: bool = False) -> Comparison:
    made = compare.compare(before, after, same_run, spread, known)
    assert made is not None
    return made


def test_rounds_of_one_run_are_paired() -> None:
    paired = found(BEFORE, AFTER, same_run=True)
    assert paired.paired and paired.differs
    assert paired.ratio.value == pytest.approx(1.05)


def test_different_sessions_are_not() -> None:
    unpaired = found(BEFORE, AFTER, same_run=False, spread=0.03, known=True)
    assert not unpaired.paired and not unpaired.differs
    assert (unpaired.spread, unpaired.spread_known) == (0.03, True)
    assert unpaired.ratio.value == pytest.approx(1.05)


@pytest.mark.parametrize("after", [result(10.5, 21.0, 10.5), result(10.5, 21.0, 10.5, 21.0, device="pi4")])
def test_other_rounds_or_another_device_cannot_be_paired(after: Result) -> None:
    assert not found(BEFORE, after, same_run=True).paired


@pytest.mark.parametrize("other", [result(), result(0.0, 1.0)])
def test_without_a_latency_there_is_nothing_to_compare(other: Result) -> None:
    assert compare.compare(BEFORE, other, True, 0.02, False) is None
    assert compare.compare(other, BEFORE, False, 0.02, False) is None


@pytest.mark.parametrize(
    ("estimate", "differs", "words"),
    [
        (Estimate(1.2, 1.1, 1.3), True, "B is slower: it takes 1.200 times as long as A, 95 % interval [1.100, 1.300]"),
        (Estimate(0.8, 0.7, 0.9), True, "B is faster: it takes 0.800 times"),
        (Estimate(1.2, 0.9, 1.5), False, "no difference shown: B takes 1.200 times"),
        (Estimate(1.2, None, None), False, "no difference shown: one process a side gives no interval"),
    ],
)
def test_in_words(estimate: Estimate, differs: bool, words: str) -> None:
    comparison = Comparison(estimate, True, 0.0, True)
    assert comparison.differs is differs
    assert in_words(comparison).startswith(words)
