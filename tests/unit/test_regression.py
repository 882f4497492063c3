"""Nightly rules: what is suspected, what confirms, what is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.nightly import regression


def nights(count: int, sd: float = 0.01, seed: int = 0, level: float = 0.0) -> list[float]:
    """Logarithms about a level."""
    return [float(v) for v in level + np.random.default_rng(seed).normal(0, sd, count)]


def test_a_series_learns_for_ten_nights() -> None:
    assert regression.bound(nights(9)) is None
    assert regression.detectable(nights(4)) is None
    assert (regression.detectable(nights(5)) or 0) > (regression.detectable(nights(9)) or 0) > 0.01
    assert regression.suspect(nights(9), 5.0) is None
    assert regression.bound(nights(10)) is not None


@given(st.integers(10, 60), st.floats(1e-6, 0.05), st.integers(0, 1000))
def test_what_is_detectable_is_just_what_is_suspected(count: int, sd: float, seed: int) -> None:
    history = nights(count, sd, seed)
    least = regression.detectable(history)
    assert least is not None and least >= 0.02 - 1e-12
    level = regression.level(history[-regression.WINDOW :])
    recent = history[-regression.WINDOW :]
    assert regression.suspect(recent, level + math.log1p(least) + 1e-9) is not None
    assert regression.suspect(recent, level + math.log1p(least) - 1e-9) is None


def test_a_step_is_suspected_by_the_recent_nights_and_a_drift_by_the_ones_before() -> None:
    step = regression.suspect(nights(30), math.log(1.06))
    assert step is not None and step.window == "recent" and step.change == pytest.approx(0.06, abs=0.01)
    flat, rising = nights(25, 0.001), [0.002 * night for night in range(12)]
    drift = regression.suspect([*flat, *rising], 0.024)
    assert drift is not None and drift.window == "lagged"


def test_one_night_in_twenty_is_suspected_without_a_change() -> None:
    found = sum(regression.suspect(h[:-1], h[-1]) is not None for h in (nights(21, 0.02, seed) for seed in range(2000)))
    assert 0.035 <= found / 2000 <= 0.065


def test_pairs_confirm_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    there = regression.confirm([float(v) for v in rng.normal(math.log(1.05), 0.01, 5)])
    assert there.stands and 0 < there.at_least < there.change < 0.08
    # Certain, but too small to matter; large, but not certain; faster.
    assert not regression.confirm([0.005, 0.0051, 0.0049, 0.005, 0.005]).stands
    assert not regression.confirm([0.3, -0.2, 0.1, -0.1, 0.2]).stands
    assert not regression.confirm([-0.05, -0.051, -0.049, -0.05, -0.05]).stands
    with pytest.raises(ValueError, match="three pairs"):
        regression.confirm([0.1, 0.1])


def test_pairs_that_differ_by_chance_confirm_once_in_a_hundred() -> None:
    rng = np.random.default_rng(5)
    found = sum(regression.confirm([float(v) for v in rng.normal(0, 0.05, 5)]).stands for _ in range(4000))
    assert found / 4000 <= 0.015


def test_ten_pairs_of_chance_confirm_as_seldom() -> None:
    rng = np.random.default_rng(6)
    found = sum(regression.confirm([float(v) for v in rng.normal(0, 0.05, 10)]).stands for _ in range(4000))
    assert 0.003 <= found / 4000 <= 0.015


def test_a_stalled_night_hides_no_step() -> None:
    history = nights(20)
    plain = regression.detectable(history)
    history[7] += 0.3
    stalled = regression.detectable(history)
    assert plain is not None and stalled is not None and stalled < 1.3 * plain
    assert regression.suspect(history, math.log(1.05)) is not None


@pytest.mark.parametrize("stall", [0.4, -0.4])
def test_a_stalled_pair_does_not_outweigh_the_others(stall: float) -> None:
    rng = np.random.default_rng(8)
    ratios = [float(v) for v in rng.normal(math.log(1.05), 0.01, 10)]
    ratios[2] += stall
    assert not regression.confirm(ratios[:5]).stands and regression.undecided(ratios[:5])
    assert regression.confirm(ratios).stands and not regression.undecided(ratios)
    assert regression.confirm(ratios).change == pytest.approx(0.05, abs=0.01)
    # Where the middle one says nothing, more pairs are a waste.
    assert not regression.undecided([0.4, 0.0, 0.001, -0.001, 0.002])


def test_pairs_take_turns_and_the_second_time_the_other_begins() -> None:
    assert regression.order(3, False) == [("baseline", "new"), ("new", "baseline"), ("baseline", "new")]
    assert regression.order(2, True) == [("new", "baseline"), ("baseline", "new")]


def test_items_lost_by_chance_are_no_loss_of_accuracy() -> None:
    assert regression.mcnemar(0, 0) == 1.0
    assert regression.mcnemar(5, 5) == pytest.approx(0.623, abs=1e-3)
    assert regression.mcnemar(10, 0) == pytest.approx(2**-10)
    assert regression.mcnemar(0, 10) == 1.0


def test_what_all_series_of_a_device_share_is_the_devices() -> None:
    assert regression.device_shift([0.05, 0.06, 0.05, 0.04, 0.2]) == 0.05
    assert regression.device_shift([0.05, 0.06, 0.05, 0.04, 0.05, -3.0]) == pytest.approx(0.05)
    assert regression.device_shift([0.05, 0.06, 0.05, 0.04]) == 0.0
