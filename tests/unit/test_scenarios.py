"""Deadlines of paced frames, and the curve of a sustained run."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from pocketbench.figures import scenarios
from pocketbench.measurement import Process, Reading
from pocketbench_agent import loop
from tests.unit import facts
from tests.unit.facts import MS

S = 1_000_000_000
PACED = facts.case(scenario="paced:30")


def frames(late: int, of: int) -> Process:
    run_ns = np.full(of, 12 * MS, np.int64)
    run_ns[:late] = 40 * MS
    return facts.process(0, run_ns=run_ns)


@pytest.mark.parametrize(
    ("late", "of", "holds"), [(0, 720, True), (0, 300, None), (5, 720, None), (8, 720, False), (1, 2000, True)]
)
def test_real_time_is_shown_and_not_assumed(late: int, of: int, holds: bool | None) -> None:
    found = scenarios.real_time(PACED, [frames(late, of)])
    assert found is not None
    assert (found.n, found.missed, found.holds) == (of, late, holds)


def test_a_latency_below_the_period_back_to_back_says_nothing_of_real_time() -> None:
    assert scenarios.real_time(facts.case(), [frames(0, 5000)]) is None


def test_the_bound_of_a_share() -> None:
    assert scenarios.share_upper(0, 459) == pytest.approx(1 - 0.01 ** (1 / 459))
    assert scenarios.share_upper(3, 3) == 1.0
    assert 0.01 < scenarios.share_upper(20, 2000) < 0.02


def test_the_rate_is_part_of_what_a_case_is() -> None:
    keys = {facts.case(scenario=s).key for s in ("single_stream", "paced:30", "paced:60", "sustained:60")}
    assert len(keys) == 4
    assert (PACED.rate_hz, PACED.sustained_s) == (30.0, None)
    assert facts.case(scenario="sustained:2.5").sustained_s == 2.5


def test_a_curve_has_latency_heat_and_clock_of_each_stretch() -> None:
    begin = 100 * S
    at_ns = np.arange(0, 10 * S, 10 * MS)
    run_ns = np.where(at_ns < 5 * S, 8 * MS, 9 * MS)
    moments = tuple(begin + k * S + 5 for k in range(10))
    readings = (
        Reading(
            "thermal:thermal_zone0:cpu", "temperature", "millicelsius", moments, tuple(range(40_000, 50_000, 1000))
        ),
        Reading("cpufreq:policy0", "frequency", "khz", moments, (1_800_000,) * 10),
        Reading("cpufreq:policy0", "ceiling", "khz", moments, (2_400_000,) * 5 + (1_200_000,) * 5),
    )
    made = facts.process(0, run_ns=run_ns, at_ns=at_ns, timed_from_ns=begin, readings=readings, every=2)
    curve = scenarios.curve(facts.case(scenario="sustained:10"), [made])
    assert curve is not None and len(curve) == 10
    assert [point.p50_ms for point in curve] == [8.0] * 5 + [9.0] * 5
    assert [point.temperature_c for point in curve] == list(range(40, 50))
    assert (curve[0].ceiling_mhz, curve[9].ceiling_mhz, curve[3].cpu_mhz, curve[3].runs) == (2400, 1200, 1800, 200)


def test_a_curve_follows_no_sensor_that_is_off() -> None:
    moments = tuple(k * S + 5 for k in range(2))
    zones = {"off": (255_000, -274_000), "whole": (95, 99), "cpu": (41_000, 42_000), "blinks": (39_000, 200_000)}
    readings = tuple(Reading(f"thermal:{n}", "temperature", "millicelsius", moments, v) for n, v in zones.items())
    made = facts.process(0, at_ns=np.arange(200) * 10 * MS, timed_from_ns=1, readings=readings)
    curve = scenarios.curve(facts.case(scenario="sustained:2"), [made])
    assert curve is not None and [point.temperature_c for point in curve] == [41, 42]


def test_a_curve_without_sensors_has_none_and_not_zero() -> None:
    made = facts.process(0, at_ns=np.arange(200) * 10 * MS, timed_from_ns=1, readings=())
    curve = scenarios.curve(facts.case(scenario="sustained:2"), [made])
    assert curve is not None and {(p.temperature_c, p.cpu_mhz) for p in curve} == {(None, None)}
    assert scenarios.curve(facts.case(), [made]) is None


def steps(seconds: float) -> loop.Moves:
    return loop.Moves(lambda: None, lambda: time.sleep(seconds), lambda: None)


LIMITS = loop.Limits(10, 1000, 0, 5 * S)


def test_paced_frames_wait_behind_a_slow_one() -> None:
    """A frame of 15 ms every 10 ms: each waits 5 ms longer than the one before."""
    made = loop.paced(steps(0.015), LIMITS, 100)
    waits = np.diff(np.array(made.samples.run_ns)) / MS
    # A sleep may be late on a busy machine, and is never early.
    assert made.total == 10 and np.median(waits) >= 5 - 0.5


def test_paced_frames_that_keep_up_come_at_their_rate() -> None:
    made = loop.paced(steps(0.002), LIMITS, 100)
    assert list(np.diff(np.array(made.at_ns))) == [10 * MS] * 9
    assert np.min(np.array(made.samples.run_ns)) / MS >= 2


def test_a_lasting_phase_lasts_and_thins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LASTING_KEPT", 64)
    made = loop.lasting(loop.Moves(lambda: None, lambda: None, lambda: None), 50 * MS)
    assert made.at_ns[-1] > 0
    assert len(made.at_ns) == len(made.samples.run_ns) < 64
    assert made.total == pytest.approx(len(made.at_ns) * made.samples.every, rel=0.1)


def test_a_case_that_is_not_well_has_no_real_time() -> None:
    assert scenarios.real_time(PACED, [replace(facts.process(), run_ns=np.zeros(0, np.int64))]) is None
