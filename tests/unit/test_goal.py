"""Goals: what can be asked, who wins, and who came nearest."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pocketbench.errors import UsageError
from pocketbench.figures import goal
from pocketbench.results import Accuracy, Model, Result
from tests.unit import facts


def variant(
    recipe: str, p50: float, megabytes: float, accuracy: float, reference: float | None = 0.9, **more: Any
) -> Result:
    """A measured variant."""
    found = Accuracy(
        "top-1", accuracy, None, 100, reference, None if reference is None else accuracy - reference, None, True, {}
    )
    model = Model(f"net-{recipe}", recipe.ljust(64, "0"), round(megabytes * 1e6), "onnx", recipe, None, None)
    return facts.result(id=recipe, model=model, latency_ms=facts.timing(p50), accuracy=found, **more)


ORIGINAL = variant("fp32", 20.0, 14.0, 0.9, None)
INT8 = variant("int8-static", 8.0, 4.0, 0.895)
SMALL = variant("prune:0.5", 5.0, 3.0, 0.7)


def names(text: str, *results: Result) -> list[tuple[str | None, str | None, list[str]]]:
    judged = goal.judge(goal.parse(text), results)
    return [
        (j.winner.id if j.winner else None, j.nearest.id if j.nearest else None, [term.text for term in j.missed])
        for j in judged
    ]


def test_the_fastest_that_meets_every_bound_wins() -> None:
    assert names("accuracy>=-1pt,p50<=16ms", ORIGINAL, INT8, SMALL) == [("int8-static", None, [])]
    assert names("p50<=16", ORIGINAL, INT8, SMALL) == [("prune:0.5", None, [])]
    assert names("accuracy >= 0.9", ORIGINAL, INT8, SMALL) == [("fp32", None, [])]
    assert names("accuracy>=89%,size<=4MB", ORIGINAL, INT8, SMALL) == [("int8-static", None, [])]
    # The original loses nothing against itself.
    assert names("accuracy>=-0.1pt", ORIGINAL, INT8, SMALL) == [("fp32", None, [])]


def test_where_none_does_the_nearest_is_named_with_what_it_misses() -> None:
    assert names("accuracy>=-1pt,p50<=7ms", ORIGINAL, INT8, SMALL) == [(None, "int8-static", ["p50<=7ms"])]
    assert names("p99<=7ms", INT8) == [(None, "int8-static", ["p99<=7ms"])]


def test_each_device_has_its_own_winner_and_only_what_is_valid_wins() -> None:
    spoilt = variant("fp16", 1.0, 1.0, 0.9, status="INVALID")
    there = variant("int8-static", 30.0, 4.0, 0.9, device="phone")
    assert names("p50<=16ms", spoilt, INT8, there) == [
        ("int8-static", None, []),
        (None, "int8-static", ["p50<=16ms"]),
    ]
    assert names("p50<=16ms", spoilt) == [(None, None, [])]


def test_of_an_error_rate_less_is_better() -> None:
    fp32, close, far = (
        replace(one, accuracy=replace(one.accuracy, higher_is_better=False))
        for one in (
            variant("fp32", 20.0, 14.0, 0.05, None),
            variant("int8-static", 8.0, 4.0, 0.055, 0.05),
            variant("prune:0.5", 5.0, 3.0, 0.3, 0.05),
        )
        if one.accuracy is not None
    )
    assert names("accuracy>=-1pt", fp32, close, far) == [("int8-static", None, [])]
    assert names("accuracy>=-0.1pt", fp32, close, far) == [("fp32", None, [])]
    assert names("accuracy>=6%", fp32, close, far) == [("int8-static", None, [])]
    assert names("accuracy>=-1pt", far) == [(None, "prune:0.5", ["accuracy>=-1pt"])]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is no bound"),
        ("p50=16", "'p50=16' is no bound"),
        ("p51<=16ms", "unknown quantity 'p51' (did you mean 'p50'?)"),
        ("p50>=16ms", "p50 is bounded by <="),
        ("accuracy<=0.5", "accuracy is bounded by >="),
        ("p50<=16MB", "p50 is given in ms, not MB"),
        ("accuracy>=70", "a fraction from 0 to 1, or a change such as -1pt"),
        ("size<=4MB,", "'' is no bound"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        goal.parse(text)
