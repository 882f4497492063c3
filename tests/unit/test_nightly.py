"""What is judged by which nights, and how alarms live."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.config.devices import DeviceEntry
from pocketbench.fleet.fleet import Outcome
from pocketbench.models import ModelFile, PlacedFile
from pocketbench.night import AMBER, IMPROVED, LEARNING, OK, RED, SUSPECTED, Alarm
from pocketbench.nightly import alarms, judge, pairs, parts
from pocketbench.nightly.alarms import Finding
from pocketbench.nightly.history import segment
from pocketbench.plan import BASELINE, Case, Plan, Request, RuntimeChoice
from pocketbench.store.nights import Earlier
from tests.unit import facts


def series(count: int, level: float = 10.0, sd: float = 0.01, seed: int = 0) -> list[float]:
    return [float(v) for v in level * np.exp(np.random.default_rng(seed).normal(0, sd, count))]


def nights(values: list[float], metric: str = "latency_p50", fingerprint: str = "a") -> list[Earlier]:
    return [Earlier(f"n{i:02}", fingerprint, "m", "1", {metric: (v, None, None)}) for i, v in enumerate(values)]


def alarm(**change: object) -> Alarm:
    made = Alarm("id", "s", "pixel", "k", "latency_p50", RED, "open", "n05", "a case", 0.05, "slower")
    return replace(made, **change)  # type: ignore[arg-type]


def test_a_short_series_learns_and_says_what_it_could_see() -> None:
    assert judge.measured(series(4), 99.0).detectable is None
    found = judge.measured(series(6), 99.0)
    assert found.state == LEARNING and found.detectable is not None and found.band is None and found.suspicion is None


def test_worse_is_suspected_and_better_improved() -> None:
    past = series(25)
    assert judge.measured(past, 10.0).state == OK
    assert judge.measured(past, 10.8).state == SUSPECTED
    assert judge.measured(past, 9.2).state == IMPROVED
    assert judge.measured(past, 10.8, least=0.2).state == OK


def test_a_night_within_its_band_is_ok_and_one_beyond_is_not() -> None:
    past = series(25)
    band = judge.measured(past, 10.0).band
    assert band is not None
    assert (
        judge.measured(past, band[1] * 0.999).state == OK and judge.measured(past, band[1] * 1.001).state == SUSPECTED
    )
    assert judge.measured(past, band[0] * 1.001).state == OK and judge.measured(past, band[0] * 0.999).state == IMPROVED


def test_what_the_whole_device_moved_by_is_not_the_series() -> None:
    past = series(25)
    moved = math.log(1.08)
    found = judge.measured(past, 10.8, shift=moved)
    assert found.state == OK and found.change == pytest.approx(0, abs=0.02)
    assert found.band is not None and found.band[0] < 10.8 < found.band[1]
    five = {str(k): series(20, seed=k) for k in range(5)}
    assert judge.device_shift({k: 10.8 for k in five}, five) == pytest.approx(moved, abs=0.01)
    assert judge.device_shift({k: 10.8 for k in list(five)[:4]}, five) == 0.0


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_has_no_logarithm_is_not_judged(value: float) -> None:
    assert "cannot be judged" in judge.measured(series(25), value).why
    assert "cannot be judged" in judge.measured([*series(25), value], 10.0).why


def test_a_constant_series_has_a_band_of_two_percent() -> None:
    found = judge.measured([5.0] * 20, 5.05)
    assert found.state == OK and found.band == pytest.approx((5 / 1.02, 5 * 1.02))
    assert judge.measured([5.0] * 20, 5.2).state == SUSPECTED


def test_exact_metrics() -> None:
    assert judge.exact("size", -1, 1000, 1005) is None and judge.exact("size", -1, 1000, 990) is None
    assert judge.exact("size", -1, 1000, 1020) == "the file is 2.0% larger"
    assert judge.exact("size", -1, 1000, 1020, 0.05) is None
    assert judge.exact("coverage", 1, 1.0, 1.0) is None and judge.exact("coverage", 1, 0.5, 1.0) is None
    assert "90%" in (judge.exact("coverage", 1, 1.0, 0.9) or "")


def test_accuracy_by_the_items_that_changed() -> None:
    before = [1.0] * 90 + [0.0] * 10
    lost = [0.0] * 10 + [1.0] * 80 + [0.0] * 10
    assert "10 items of 100" in (judge.items(before, lost, True) or "")
    assert judge.items(lost, before, True) is None and judge.items(before, before, True) is None
    assert judge.items(before, lost, False) is None and judge.items(lost, before, False) is not None
    some = [0.0] * 3 + [1.0] * 87 + [0.0] * 10
    assert judge.items(before, some, True) is None, "three of three may be chance (p = 0.125)"
    assert judge.items(before, lost[:50], True) is None and judge.items([], [], True) is None
    assert judge.items(before, lost, True, least=0.2) is None


def test_history_begins_where_the_system_changed() -> None:
    past = [*nights([1.0] * 5, fingerprint="old"), *nights([2.0] * 3, fingerprint="new")]
    assert [v for _, v in segment(past, "new", "latency_p50", ())] == [2.0] * 3
    assert segment(past, "third", "latency_p50", ()) == []
    assert segment(past, "new", "load", ()) == []


def test_nights_of_an_alarm_are_left_out_and_an_accepted_one_begins_anew() -> None:
    past = nights([float(i) for i in range(10)])
    kept = [v for _, v in segment(past, "a", "latency_p50", [alarm()])]
    assert kept == [0, 1, 2, 3, 4]
    fixed = alarm(state="fixed", closed="n07")
    assert [v for _, v in segment(past, "a", "latency_p50", [fixed])] == [0, 1, 2, 3, 4, 7, 8, 9]
    accepted = alarm(state="fixed", closed="n07", accepted=True)
    assert [v for _, v in segment(past, "a", "latency_p50", [accepted])] == [5, 6, 7, 8, 9]
    assert len(segment(past, "a", "latency_p50", [alarm(metric="load")])) == 10
    assert len(segment(past, "a", "latency_p50", [alarm(metric="device", series=None)])) == 5
    assert [v for _, v in segment(past, "a", "latency_p50", (), "n06")] == [6, 7, 8, 9]


def test_a_pair_without_a_result_shifts_no_other() -> None:
    """The baseline's runs take twice as long; the first of them is lost."""
    case = Case(
        "pixel", ModelFile(Path("a.null"), (PlacedFile("a.null", Path("a.null"), "00" * 32, 2),)), RuntimeChoice("null")
    )

    def run(request: Request, entries: Mapping[str, DeviceEntry]) -> Outcome:
        there = [one for one in request.cases if (one.arm, one.pair) != (BASELINE, 0)]
        results = tuple(facts.result(latency_ms=facts.timing(2 if one.arm == BASELINE else 1)) for one in there)
        return Outcome(results, False, keys=tuple(one.key for one in there))

    for mirrored in (False, True):
        ratios, new = pairs.measure(pairs.Arms(case, case, None), {}, Request((case,), Plan()), 5, mirrored, run)
        assert ratios["latency_p50"] == pytest.approx([-math.log(2)] * 4) and len(new) == 5


def finding(color: str | None, metric: str = "latency_p50") -> Finding:
    return Finding("pixel", "k", metric, "a case", color, 0.05, "slower")


def test_an_alarm_opens_once_stays_and_is_fixed() -> None:
    live, changed = alarms.advance("s", "n1", [], [finding(RED)])
    assert [a.state for a in live] == ["open"] == [a.state for a in changed]
    again, changed = alarms.advance("s", "n2", live, [finding(RED)])
    assert again == live and changed == []
    unknown, changed = alarms.advance("s", "n3", live, [])
    assert unknown == live and changed == []
    none, changed = alarms.advance("s", "n4", live, [finding(None)])
    assert none == [] and [(a.state, a.closed, a.accepted) for a in changed] == [("fixed", "n4", False)]
    assert alarms.advance("s", "n5", [], [finding(None)]) == ([], [])


def test_an_acknowledged_alarm_is_quiet_until_it_gets_worse() -> None:
    live, _ = alarms.advance("s", "n1", [], [finding(AMBER)])
    known = [alarms.acknowledged(live[0], "ann")]
    assert alarms.advance("s", "n2", known, [finding(AMBER)]) == (known, [])
    worse, changed = alarms.advance("s", "n3", known, [finding(RED)])
    assert [(a.color, a.state) for a in worse] == [(RED, "open")] and changed == worse
    same, changed = alarms.advance("s", "n4", [alarms.acknowledged(worse[0], "ann")], [finding(AMBER)])
    assert same[0].color == RED and changed == []


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([RED, AMBER, None])), max_size=4), max_size=12)
)
def test_there_is_never_more_than_one_live_alarm_of_a_thing(told: list[list[tuple[str, str | None]]]) -> None:
    live: list[Alarm] = []
    for number, findings in enumerate(told):
        before = live
        live, changed = alarms.advance("s", f"n{number}", live, [finding(color, metric) for metric, color in findings])
        assert len({a.metric for a in live}) == len(live)
        assert all(a.state in alarms.LIVE for a in live) and len({a.id for a in changed}) == len(changed)
        last = dict(findings)
        for metric, color in last.items():
            assert any(a.metric == metric for a in live) == (color is not None)
        untouched = [a for a in before if a.metric not in last]
        assert all(a in live for a in untouched)


def test_variants_of_one_network_are_measured_together_however_long_the_night() -> None:
    model = facts.case().model
    variants = [facts.case(model=replace(model, recipe=recipe)) for recipe in ("fp32", "int8-static", "fp16")]
    single = [facts.case(threads=2 + number) for number in range(parts.TOGETHER - 2)]
    risky = variants[1]
    made = parts.batches([*single, *variants], lambda case: 3.0 if case is risky else 0.0, True)
    assert [len(batch) for batch in made] == [parts.TOGETHER, 1]
    assert made[0][:3] == variants
    assert sorted(case.key for batch in made for case in batch) == sorted(case.key for case in (*single, *variants))
    # A family that is larger than a batch is one.
    many = [facts.case(model=replace(model, recipe=f"prune:0.{number}")) for number in range(1, 10)]
    assert [len(batch) for batch in parts.batches([*many, *single], lambda case: 0.0, True)] == [9, 6]
    assert parts.batches([], lambda case: 0.0, True) == []
