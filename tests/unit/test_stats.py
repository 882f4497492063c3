"""Statistics against published values, and what they promise checked by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench import stats

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2 (critical values of Student's t).
TABLE = [
    (0.975, 1, 12.706),
    (0.975, 2, 4.303),
    (0.975, 3, 3.182),
    (0.975, 4, 2.776),
    (0.975, 5, 2.571),
    (0.975, 9, 2.262),
    (0.975, 29, 2.045),
    (0.995, 4, 4.604),
    (0.995, 5, 4.032),
    (0.995, 1, 63.657),
    (0.995, 2, 9.925),
]
positive = st.floats(1e-3, 1e9)


@pytest.mark.parametrize(("p", "freedom", "expected"), TABLE)
def test_t_quantile_agrees_with_the_table(p: float, freedom: int, expected: float) -> None:
    tolerance = 0.003 if p == 0.975 else 0.01
    assert stats.t_quantile(p, freedom) == pytest.approx(expected, rel=tolerance)


def test_t_quantile_nears_the_normal_one() -> None:
    assert stats.t_quantile(0.975, 10_000) == pytest.approx(1.960, abs=1e-3)


def test_t_quantile_falls_with_the_degrees_of_freedom() -> None:
    found = [stats.t_quantile(0.975, freedom) for freedom in range(1, 60)]
    assert found == sorted(found, reverse=True)


def test_t_quantile_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="degree of freedom"):
        stats.t_quantile(0.975, 0)


@pytest.mark.parametrize("count", [3, 6, 12, 25])
def test_centre_covers_the_true_value(count: int) -> None:
    rng = np.random.default_rng(20)
    logs = rng.normal(0, 0.02, (2000, count))
    covered = 0
    for row in logs:
        found = stats.centre((50.0 * np.exp(row)).tolist())
        assert found.lo is not None and found.hi is not None
        covered += found.lo <= 50.0 <= found.hi
    assert 0.93 <= covered / 2000 <= 0.97


def test_centre_of_one_process_has_no_interval() -> None:
    assert stats.centre([7.0]) == stats.Estimate(7.0, None, None)


def test_centre_with_a_zero_has_no_interval() -> None:
    assert stats.centre([0.0, 1.0, 2.0]) == stats.Estimate(1.0, None, None)


def test_centre_of_constant_processes_is_a_point() -> None:
    found = stats.centre([3.0] * 6)
    assert (found.value, found.lo, found.hi) == pytest.approx((3.0, 3.0, 3.0))


@given(st.lists(positive, min_size=2, max_size=12))
def test_centre_lies_in_its_interval_and_among_its_values(values: list[float]) -> None:
    found = stats.centre(values)
    assert found.lo is not None and found.hi is not None
    assert found.lo <= found.value * (1 + 1e-9) and found.value <= found.hi * (1 + 1e-9)
    assert min(values) <= found.value <= max(values)


@given(st.lists(st.floats(0.1, 1e3), min_size=2, max_size=12), st.floats(0.01, 100))
def test_centre_scales_with_the_unit(values: list[float], unit: float) -> None:
    plain, scaled = stats.centre(values), stats.centre([v * unit for v in values])
    assert plain.lo is not None and scaled.lo is not None
    assert scaled.value == pytest.approx(plain.value * unit)
    assert scaled.lo == pytest.approx(plain.lo * unit, rel=1e-6)


def test_ratio_paired_cancels_what_both_sides_share() -> None:
    shared = [1.0, 3.0, 0.5, 2.0, 8.0, 1.5]
    found = stats.ratio_paired([10 * s for s in shared], [12 * s for s in shared])
    assert (found.value, found.lo, found.hi) == pytest.approx((1.2, 1.2, 1.2))


def test_ratio_paired_covers_a_true_difference() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(1000):
        shared = rng.normal(0, 0.1, 6)
        before = np.exp(shared + rng.normal(0, 0.01, 6))
        after = 1.05 * np.exp(shared + rng.normal(0, 0.01, 6))
        found = stats.ratio_paired(before.tolist(), after.tolist())
        assert found.lo is not None and found.hi is not None
        covered += found.lo <= 1.05 <= found.hi
    assert 0.93 <= covered / 1000 <= 0.97


def test_ratio_paired_of_one_round_has_no_interval() -> None:
    found = stats.ratio_paired([2.0], [3.0])
    assert found.value == pytest.approx(1.5)
    assert found.lo is None and found.hi is None


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratio_paired_refuses_other_rounds(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="same rounds"):
        stats.ratio_paired(before, after)


def _differs(found: stats.Estimate) -> bool:
    assert found.lo is not None and found.hi is not None
    return not found.lo <= 1.0 <= found.hi


def test_ratio_unpaired_calls_the_same_thing_different_in_at_most_one_of_twenty() -> None:
    rng = np.random.default_rng(11)
    called = 0
    for _ in range(200):
        sides = [(10 * np.exp(rng.normal(0, 0.014) + rng.normal(0, 0.012, 6))).tolist() for _ in range(2)]
        called += _differs(stats.ratio_unpaired(sides[0], sides[1], 0.02))
    assert called <= 10


def test_ratio_unpaired_sees_a_large_difference() -> None:
    rng = np.random.default_rng(12)
    before = (10 * np.exp(rng.normal(0, 0.012, 6))).tolist()
    after = (11.5 * np.exp(rng.normal(0, 0.012, 6))).tolist()
    found = stats.ratio_unpaired(before, after, 0.02)
    assert _differs(found)
    assert found.value == pytest.approx(1.15, rel=0.02)


def test_ratio_unpaired_keeps_the_spread_of_sessions_where_processes_agree() -> None:
    found = stats.ratio_unpaired([5.0] * 6, [5.0] * 6, 0.02)
    assert found.hi == pytest.approx(math.exp(1.96 * 0.02 * math.sqrt(2)), rel=1e-4)


def test_ratio_unpaired_of_a_single_process_has_no_interval() -> None:
    found = stats.ratio_unpaired([5.0], [6.0, 6.0], 0.02)
    assert found.value == pytest.approx(1.2)
    assert found.lo is None and found.hi is None


@given(st.lists(st.floats(0.5, 2), min_size=2, max_size=8), st.lists(st.floats(0.5, 2), min_size=2, max_size=8))
def test_ratio_unpaired_widens_with_the_spread(before: list[float], after: list[float]) -> None:
    narrow, wide = stats.ratio_unpaired(before, after, 0.0), stats.ratio_unpaired(before, after, 0.05)
    assert narrow.hi is not None and wide.hi is not None and narrow.lo is not None and wide.lo is not None
    assert wide.hi > narrow.hi and wide.lo < narrow.lo
    swapped = stats.ratio_unpaired(after, before, 0.05)
    assert swapped.value == pytest.approx(1 / wide.value)


@pytest.mark.parametrize(("percent", "least"), [(90, 64), (95, 130), (99, 662)])
def test_percentile_begins_where_the_bound_exists(percent: int, least: int) -> None:
    values = np.arange(1, least + 1)
    assert stats.percentile(values[:-1], percent) is None
    found = stats.percentile(values, percent)
    assert found is not None
    assert found.value == math.ceil(least * percent / 100)
    assert found.upper >= found.value
    # One sample fewer could never be bounded with 99 % confidence at the same place of the order.
    assert (percent / 100) ** least <= 0.01


@pytest.mark.parametrize(("percent", "n"), [(90, 64), (90, 300), (95, 130), (95, 1200), (99, 662), (99, 3000)])
def test_percentile_bound_covers(percent: int, n: int) -> None:
    rng = np.random.default_rng(percent + n)
    # A uniform sample's true percentile is the share itself.
    covered = sum(
        found.upper >= percent / 100
        for row in rng.random((1500, n))
        if (found := stats.percentile(row, percent)) is not None
    )
    # The binomial bound is at least 99 %; five standard errors of the simulation below that.
    assert covered / 1500 >= 0.99 - 5 * math.sqrt(0.01 * 0.99 / 1500)


def test_percentile_bound_is_not_needlessly_high() -> None:
    found = stats.percentile(np.arange(10_000), 90)
    assert found is not None
    assert 9000 < found.upper < 9100


def test_percentile_of_many_samples_does_not_underflow() -> None:
    found = stats.percentile(np.arange(200_000), 90)
    assert found is not None
    assert 180_000 <= found.upper < 181_000


@given(st.lists(st.integers(1, 10**9), min_size=130, max_size=200))
def test_percentiles_rise_with_the_percentage(values: list[int]) -> None:
    array = np.array(values)
    p90, p95 = stats.percentile(array, 90), stats.percentile(array, 95)
    assert p90 is not None and p95 is not None
    assert p90.value <= p95.value <= p95.upper <= max(values)
    assert p90.value <= p90.upper


def test_percentile_of_a_constant_is_that_constant() -> None:
    assert stats.percentile(np.full(662, 5), 99) == stats.Percentile(5.0, 5.0)


def test_log_trend_finds_a_planted_drift() -> None:
    rng = np.random.default_rng(3)
    values = [100 * (1 + 0.02 * k) * math.exp(rng.normal(0, 0.002)) for k in range(6)]
    change, significant = stats.log_trend(values)
    assert significant
    assert change == pytest.approx(0.10, abs=0.01)
    down, significant = stats.log_trend(values[::-1])
    assert significant and down == pytest.approx(1 / 1.10 - 1, abs=0.01)


def test_log_trend_is_rarely_found_in_noise() -> None:
    rng = np.random.default_rng(5)
    found = sum(stats.log_trend(np.exp(rng.normal(0, 0.02, 6)).tolist())[1] for _ in range(1000))
    assert found <= 20


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [], [1.0, 0.0, 2.0, 3.0]])
def test_log_trend_needs_four_positive_values(values: list[float]) -> None:
    assert stats.log_trend(values) == (0.0, False)


def test_log_trend_of_a_constant_and_of_an_exact_line() -> None:
    assert not stats.log_trend([4.0] * 6)[1]
    change, significant = stats.log_trend([math.exp(0.1 * k) for k in range(5)])
    assert significant and change == pytest.approx(math.expm1(0.4))


def test_wilson_keeps_its_width_at_both_ends() -> None:
    # With k = 0 or n, Wilson's far end is z^2 / (n + z^2).
    z2 = 1.959964**2
    assert stats.wilson(0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    assert stats.wilson(10, 10) == pytest.approx((10 / (10 + z2), 1.0))


def test_wilson_agrees_with_a_published_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263.
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_its_share(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    lo, hi = stats.wilson(successes, n)
    assert 0 <= lo <= successes / n <= hi <= 1
    assert lo < hi


def test_bootstrap_is_near_the_t_interval_and_repeatable() -> None:
    rng = np.random.default_rng(9)
    items = rng.normal(5, 1, 400)

    def mean(chosen: object) -> float:
        return float(items[np.asarray(chosen)].mean())

    def interval(seed: int) -> tuple[float, float]:
        return stats.percentile_interval(stats.bootstrap(400, mean, 400, seed))

    found = interval(1)
    assert found == interval(1)
    assert found != interval(2)
    half = 1.96 * items.std() / math.sqrt(400)
    assert found[0] == pytest.approx(items.mean() - half, abs=0.03)
    assert found[1] == pytest.approx(items.mean() + half, abs=0.03)


@given(st.integers(1, 300), st.data())
def test_a_paired_interval_holds_its_difference_and_mirrors(n: int, data: st.DataObject) -> None:
    won = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - won))
    lo, hi = stats.paired_proportions(won, lost, n)
    assert -1 <= lo <= (won - lost) / n <= hi <= 1
    assert lo < hi
    assert stats.paired_proportions(lost, won, n) == pytest.approx((-hi, -lo), abs=1e-9)


def test_a_paired_interval_of_no_discordant_items_is_that_of_the_score_test() -> None:
    # With none won and none lost z = sqrt(n d / (1 - d)), so that d = z² / (n + z²).
    z2 = 1.959964**2
    assert stats.paired_proportions(0, 0, 800) == pytest.approx((-z2 / (800 + z2), z2 / (800 + z2)), rel=1e-5)


@pytest.mark.parametrize(("n", "won", "lost"), [(100, 0.02, 0.03), (800, 0.01, 0.02), (50, 0.1, 0.3), (128, 0.0, 0.05)])
def test_a_paired_interval_covers_as_often_as_it_says(n: int, won: float, lost: float) -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for more, fewer, _ in rng.multinomial(n, [won, lost, 1 - won - lost], size=800):
        lo, hi = stats.paired_proportions(int(more), int(fewer), n)
        covered += lo <= won - lost <= hi
    assert 0.93 <= covered / 800 <= 0.985
