"""From raw readings to joules: sources, units, signs, wraps; and the lies that the verdict on energy catches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.figures import energy
from pocketbench.figures.power_sources import Settings, choose, unwrap
from pocketbench.measurement import Ended, EnergyRun, Reading
from pocketbench.verdict import energy_reasons
from pocketbench.verdict.energy_reasons import EnergyEvidence
from tests.unit import facts

S = 1_000_000_000
IDLE_W, WORK_W = 2.0, 5.0
# Idle from 0 to 10 s, at work until 40 s, idle until 50 s.
TIMES = tuple(range(0, 50 * S, S // 10))


def watts(t_ns: int) -> float:
    return WORK_W if 10 * S <= t_ns < 40 * S else IDLE_W


def joules(t_ns: int) -> float:
    worked = min(max(t_ns - 10 * S, 0), 30 * S)
    return (WORK_W * worked + IDLE_W * (t_ns - worked)) / S


def series(source: str, quantity: str, unit: str, of: Any) -> Reading:
    return Reading(source, quantity, unit, TIMES, tuple(round(of(t)) for t in TIMES))


def run(*readings: Reading, **changes: Any) -> EnergyRun:
    made = EnergyRun(Ended("ok"), (0, 10 * S), (10 * S, 40 * S), (40 * S, 50 * S), 3000, readings)
    return replace(made, **changes)


def rapl(span: int = 262_143_328_850, start: int = 0, zone: str = "intel-rapl:0:package-0") -> tuple[Reading, ...]:
    counter = series(f"rapl:{zone}", "energy", "uj", lambda t: (start + round(joules(t) * 1e6)) % (span + 1))
    return counter, Reading(f"rapl:{zone}", "range", "uj", (0,), (span,))


def battery(**files: Any) -> list[Reading]:
    """current (of watts), voltage, charge, status … as given."""
    units = {"current": "ua", "voltage": "uv", "charge": "uah", "power": "uw", "status": "status", "energy": "uwh"}
    return [series("battery:battery", name, units[name], of) for name, of in files.items()]


PHONE = {"current": lambda t: -watts(t) / 4 * 1e6 - t % 7, "voltage": lambda t: 4e6, "status": lambda t: 2}


def found(*readings: Reading, settings: Settings | None = None, **changes: Any) -> energy.Found:
    return energy.find(run(*readings, **changes), settings or Settings())


def energy_of(*readings: Reading, settings: Settings | None = None) -> Any:
    made = found(*readings, settings=settings).energy
    assert made is not None
    assert made.net_mj is not None and made.idle_mj is not None
    return made


def right(made: Any, share: float = 1.0, rel: float = 0.005) -> None:
    """30 s at 5 W are 150 J in 3000 runs."""
    assert made.gross_mj == pytest.approx(50 * share, rel=rel)
    assert made.idle_mj == pytest.approx(20 * share, rel=rel)
    assert made.net_mj == pytest.approx(30 * share, rel=2 * rel)
    assert made.power_mw == pytest.approx(5000 * share, rel=rel)


def codes(
    *readings: Reading, settings: Settings | None = None, outside: bool = False, **changes: Any
) -> dict[str, str]:
    evidence = EnergyEvidence(found(*readings, settings=settings, **changes), outside)
    return {reason.code: reason.severity for reason in energy_reasons.judge(evidence)}


def test_a_counter_that_only_rises() -> None:
    made = energy_of(*rapl())
    right(made)
    assert made.source == "rapl" and list(made.rails) == ["package-0"]
    assert made.interval_s == pytest.approx(0.1) and made.steps > 250
    assert codes(*rapl()) == {}


@pytest.mark.parametrize("start", [0, 19_999_999, 1])
def test_a_counter_that_wraps_seven_times(start: int) -> None:
    readings = rapl(span=20_000_000, start=start)
    right(energy_of(*readings))
    assert codes(*readings) == {"counter_wrapped": "note"}


def test_a_package_is_not_counted_again_by_its_platform() -> None:
    made = energy_of(*rapl(), *rapl(zone="intel-rapl:1:psys"))
    right(made)
    assert list(made.rails) == ["psys"]


def test_two_packages_are_a_sum() -> None:
    right(energy_of(*rapl(), *rapl(zone="intel-rapl:1:package-1")), share=2)


def test_a_battery_is_not_added_to_its_rails() -> None:
    rails = [series(f"odpm:iio:device0:{name}", "energy", "uws", lambda t: joules(t) * 4e5) for name in ("A", "B")]
    made = energy_of(*battery(**PHONE), *rails)
    right(made, share=0.8)
    assert made.source == "odpm" and list(made.rails) == ["A", "B"]
    named = energy_of(*battery(**PHONE), *rails, settings=Settings(source="odpm", rails=("A",)))
    right(named, share=0.4)


def test_a_jetson_s_input_contains_its_rails() -> None:
    def rail(label: str, share: float) -> list[Reading]:
        source = f"hwmon:hwmon2/ina3221:{label}"
        return [
            series(source, "voltage", "mv", lambda t: 5000),
            series(source, "current", "ma", lambda t: share * watts(t) / 5 * 1000),
        ]

    right(energy_of(*rail("VDD_IN", 1), *rail("VDD_CPU", 0.6)))
    right(energy_of(*rail("VDD_CPU", 0.6), *rail("VDD_SOC", 0.2)), share=0.8)


def test_a_battery_s_own_power_file_is_no_monitor() -> None:
    power = series("hwmon:hwmon1/BAT0:power1", "power", "uw", lambda t: watts(t) * 1e6)
    assert found(power).source is None
    right(energy_of(power, settings=Settings(source="hwmon")))


@pytest.mark.parametrize(
    ("factor", "settings", "told"),
    [
        (-1e6, Settings(), "current_now in ua, discharging is negative"),
        (1e6, Settings(), "current_now in ua, discharging is positive"),
        (-1e3, Settings(), "current_now in ma, discharging is negative"),
        (1e3, Settings(sign=-1, unit="mA"), "current_now in ma, as set"),
    ],
)
def test_every_vendor_s_sign_and_unit(factor: float, settings: Settings, told: str) -> None:
    files = battery(**PHONE | {"current": lambda t: factor * watts(t) / 4 + np.sign(factor) * (t // S % 2)})
    made = energy_of(*files, settings=settings)
    right(made, rel=0.01)
    assert told in made.source
    assert codes(*files, settings=settings) == {}


@pytest.mark.parametrize("volts", [lambda t: 4e6, lambda t: 4000])
def test_a_fuel_gauge_counts_what_is_left(volts: Any) -> None:
    files = battery(voltage=volts, status=lambda t: 2, charge=lambda t: 3_000_000 - joules(t) / 4 / 3.6e-3 // 50 * 50)
    made = energy_of(*files)
    right(made, rel=0.03)
    assert "charge counter" in made.source and 20 < made.steps < 200


def test_idle_below_the_counter_s_steps_is_unknown_and_not_zero() -> None:
    files = battery(voltage=lambda t: 4e6, charge=lambda t: 3_000_000 - joules(t) / 4 / 3.6e-3 // 450 * 450)
    made = found(*files).energy
    assert made is not None and made.idle_mj is None and made.net_mj is None
    assert made.gross_mj == pytest.approx(50, rel=0.05)
    assert codes(*files) == {"energy_resolution": "warn"}


def test_of_two_names_for_one_battery_the_system_s_counts() -> None:
    bms = [replace(r, source="battery:bms", value=tuple(-2 * v for v in r.value)) for r in battery(**PHONE)]
    right(energy_of(*bms, *battery(**PHONE)), rel=0.01)


def test_one_look_tells_a_gauge_from_a_counter() -> None:
    """The plan is made after one look: a battery with both is no fuel gauge that needs minutes."""
    first = [replace(r, t_ns=r.t_ns[:1], value=r.value[:1]) for r in battery(**PHONE, charge=lambda t: 3e6)]
    source, _ = choose(first, Settings(), None)
    assert source is not None and not source.rails[0].counter
    source, _ = choose([r for r in first if r.quantity != "current"], Settings(), None)
    assert source is not None and source.rails[0].counter


def test_a_battery_that_sysfs_hides_is_asked_for_by_dumpsys() -> None:
    hidden = [replace(r, t_ns=(), value=(), missing="permission denied") for r in battery(**PHONE)]
    shown = [
        series("battery:dumpsys", "voltage", "mv", lambda t: 4000),
        series("battery:dumpsys", "charge", "uah", lambda t: 3_000_000 - joules(t) / 4 / 3.6e-3 // 50 * 50),
    ]
    assert energy_of(*hidden, *shown).power_mw == pytest.approx(5000, rel=0.03)
    assert found(*hidden).missing == "permission denied"


def test_idle_that_was_not_seen_is_unknown_and_said() -> None:
    power = series("pmic:VDD", "power", "uw", lambda t: watts(t) * 1e6 + t % 7)
    cut = replace(power, t_ns=power.t_ns[:400], value=power.value[:400])
    made = found(cut).energy
    assert made is not None and made.net_mj is None and made.gross_mj == pytest.approx(50, rel=0.01)
    assert codes(cut) == {"energy_resolution": "warn"}


def test_a_range_that_cannot_be_read_is_no_crash() -> None:
    counter, span = rapl()
    right(energy_of(counter, replace(span, t_ns=(), value=(), missing="gone")))
    right(energy_of(counter, replace(span, value=(0,))))


def test_a_reading_of_nothing_or_of_one_moment_is_no_crash() -> None:
    for readings in (list(rapl()), battery(**PHONE)):
        for kept in (0, 1, 2):
            few = [replace(r, t_ns=r.t_ns[:kept], value=r.value[:kept]) for r in readings]
            evidence = EnergyEvidence(found(*few))
            assert energy_reasons.judge(evidence)


# The lies, one a reason.


def test_charging() -> None:
    files = battery(**PHONE | {"status": lambda t: 1 if t > 30 * S else 2})
    assert codes(*files)["charging"] == "invalid"
    assert "charging" not in codes(*files, outside=True)


@pytest.mark.parametrize("status", [1, 3, 4])
def test_a_device_that_is_fed_past_its_battery(status: int) -> None:
    assert codes(*battery(**PHONE | {"status": lambda t: status}))["charging"] == "invalid"


def test_a_cable_that_is_plugged_in() -> None:
    assert codes(*battery(**PHONE), series("supply:usb", "online", "flag", lambda t: 1))["charging"] == "invalid"
    assert codes(*rapl(), series("supply:ac", "online", "flag", lambda t: 1)) == {}


def test_energy_resolution_of_a_counter_with_few_steps() -> None:
    files = battery(voltage=lambda t: 4e6, charge=lambda t: 3_000_000 - joules(t) / 4 / 3.6e-3 // 1000 * 1000)
    assert codes(*files)["energy_resolution"] == "invalid"


def test_energy_resolution_of_a_gauge_that_stands_still() -> None:
    stuck = series("pmic:VDD", "power", "uw", lambda t: 3e6)
    assert codes(stuck)["energy_resolution"] == "invalid"


def test_energy_resolution_of_a_gauge_that_is_read_too_seldom() -> None:
    sparse = series("pmic:VDD", "power", "uw", lambda t: watts(t) * 1e6)
    few = replace(sparse, t_ns=sparse.t_ns[::20], value=sparse.value[::20])
    assert codes(few)["energy_resolution"] == "invalid"


def without(reading: Reading, begin_s: float, end_s: float) -> Reading:
    """Nothing in between."""
    kept = [(t, v) for t, v in zip(reading.t_ns, reading.value, strict=True) if not begin_s * S <= t < end_s * S]
    return replace(reading, t_ns=tuple(t for t, _ in kept), value=tuple(v for _, v in kept))


@pytest.mark.parametrize(
    ("begin_s", "end_s", "share"), [(25, 99, "44%"), (0, 30, "37%"), (20, 25, "81%")], ids=["end", "begin", "gap"]
)
def test_energy_resolution_of_a_source_that_was_not_there_for_all_of_the_work(
    begin_s: int, end_s: int, share: str
) -> None:
    power = series("pmic:VDD", "power", "uw", lambda t: watts(t) * 1e6 + t % 7)
    made = found(without(power, begin_s, end_s))
    assert made.energy is None
    (reason,) = [r for r in energy_reasons.judge(EnergyEvidence(made)) if r.code == "energy_resolution"]
    assert reason.severity == "invalid" and f"VDD for {share}" in reason.message
    counter, span = rapl()
    # What a counter did between two readings it tells with the second.
    assert (found(without(counter, begin_s, end_s), span).energy is None) is (begin_s != 20)


def test_energy_resolution_of_a_rail_among_several_that_fell_silent() -> None:
    """Energy is never null without a reason."""
    good = series("pmic:VDD_CORE", "power", "uw", lambda t: watts(t) * 1e6 + t % 7)
    other = replace(good, source="pmic:HDMI")
    for silent in (without(other, 15, 50), without(other, 10, 99), without(other, 10, 40)):
        made = found(good, silent)
        assert made.energy is None
        (reason,) = [r for r in energy_reasons.judge(EnergyEvidence(made)) if r.code == "energy_resolution"]
        assert reason.severity == "invalid" and "HDMI" in reason.message and "VDD_CORE" not in reason.message
    assert codes(good, runs=0) == {"energy_resolution": "invalid"}


def test_energy_resolution_of_a_counter_that_hangs() -> None:
    counter, span = rapl()
    values = tuple(min(v, round(joules(25 * S) * 1e6)) for v in counter.value)
    assert codes(replace(counter, value=values), span)["energy_resolution"] == "invalid"


def test_a_rail_that_is_off_while_idle_has_an_idle_power_of_nothing() -> None:
    rail = series("pmic:NPU", "power", "uw", lambda t: 5e6 + t % 7 if watts(t) == WORK_W else 0)
    made = energy_of(rail)
    assert (made.idle_mj, made.net_mj) == (pytest.approx(0, abs=0.2), pytest.approx(50, rel=0.005))
    assert codes(rail) == {}
    glitch = replace(rail, value=tuple(0 if k % 25 == 0 else v for k, v in enumerate(rail.value)))
    assert energy_of(glitch).gross_mj == pytest.approx(50, rel=0.005)
    assert codes(glitch) == {}


def test_a_rail_that_rests_for_most_of_the_work_counts_with_what_it_took() -> None:
    burst = series("odpm:d:modem", "energy", "uws", lambda t: min(max(t - 20 * S, 0), 2 * S) / S * 3e6)
    busy = series("odpm:d:cpu", "energy", "uws", lambda t: joules(t) * 1e6)
    made = found(busy, burst).energy
    assert made is not None and made.power_mw == pytest.approx(5000 + 6 / 27 * 1e3, rel=0.01)


def slow(every_s: float, late_s: float) -> Any:
    """A gauge that looks at a restless device every so many seconds, and is asked all the time."""

    def held(t: int) -> int:
        then = round((t / S - late_s) // every_s * every_s + late_s)
        return round(watts(then * S) * 1e6) + then

    return held


@pytest.mark.parametrize("every_s", [10, 5])
def test_energy_resolution_of_a_gauge_that_is_asked_more_often_than_it_looks(every_s: float) -> None:
    for readings in (
        [series("shelly:plug", "power", "uw", slow(every_s, 4))],
        # A voltage that is read beside it and never stands still makes no current of it that is new.
        battery(current=lambda t: -slow(every_s, 4)(t) / 4, voltage=lambda t: 4e6 + t % 7, status=lambda t: 2),
    ):
        settings = Settings(source=readings[0].source.split(":")[0])
        made = found(*readings, settings=settings)
        assert made.energy is not None and made.steps == made.energy.steps <= 27 / every_s + 1
        assert made.energy.interval_s == pytest.approx(every_s)
        assert codes(*readings, settings=settings)["energy_resolution"] == "invalid"
    quick = series("shelly:plug", "power", "uw", slow(1, 0))
    assert codes(quick, settings=Settings(source="shelly")) == {}


def test_a_load_that_is_constant_to_the_last_digit_is_a_doubt_and_no_lie() -> None:
    plug = series("shelly:plug", "power", "uw", lambda t: watts(t) * 1e6)
    right(energy_of(plug, settings=Settings(source="shelly")))
    assert codes(plug, settings=Settings(source="shelly")) == {"energy_resolution": "warn"}
    late = series("shelly:plug", "power", "uw", lambda t: watts(t - 4 * S) * 1e6)
    assert codes(late, settings=Settings(source="shelly"))["energy_resolution"] == "invalid"


@pytest.mark.parametrize(
    "current",
    [
        lambda t: -watts(t) / 4 * 1e4,
        lambda t: (-1) ** (t // S) * watts(t) / 4 * 1e6,
        lambda t: 1e9 + t % 3,
        lambda t: -watts(t) / 4 * 1e6 if t % (S // 2) else 9e12,
    ],
    ids=["a unit of nobody's", "both signs", "a sentinel", "a sentinel in every fifth reading"],
)
def test_energy_implausible(current: Any) -> None:
    assert codes(*battery(**PHONE | {"current": current}))["energy_implausible"] == "invalid"


def test_energy_implausible_where_the_sign_was_set_wrongly() -> None:
    assert codes(*battery(**PHONE), settings=Settings(sign=-1))["energy_implausible"] == "invalid"


def test_energy_implausible_where_work_takes_less_than_idle() -> None:
    upside = series("pmic:VDD", "power", "uw", lambda t: (7 - watts(t)) * 1e6)
    assert codes(upside)["energy_implausible"] == "invalid"


def test_energy_implausible_where_a_counter_is_set_to_zero() -> None:
    reset, span = rapl()
    values = tuple(
        v if t < 20 * S else v - round(joules(20 * S) * 1e6) for t, v in zip(TIMES, reset.value, strict=True)
    )
    assert codes(replace(reset, value=values), span)["energy_implausible"] == "invalid"


def test_energy_idle_drift() -> None:
    warm = series("pmic:VDD", "power", "uw", lambda t: (watts(t) + (0.8 if t > 40 * S else 0)) * 1e6 + t % 7)
    assert codes(warm) == {"energy_idle_drift": "invalid"}


def test_a_device_that_slept_in_the_energy_phase() -> None:
    for slept_ns, expected in ((50_000_000, {}), (2_000_000_000, {"suspended": "invalid"})):
        boot = Reading("clock", "boottime", "ns", (0, 50 * S), (7, 50 * S + 7 + slept_ns))
        assert codes(*rapl(), boot) == expected


def test_throttled_in_the_energy_phase_is_energy_s_alone() -> None:
    fell = Reading("cpufreq:policy0", "ceiling", "khz", (5 * S, 20 * S), (2_400_000, 1_800_000))
    (reason,) = energy_reasons.judge(EnergyEvidence(found(*rapl(), fell)))
    assert (reason.code, reason.severity, reason.scope) == ("throttled", "invalid", "energy")
    assert "from 2400 to 1800 MHz" in reason.message
    assert codes(*rapl(), replace(fell, value=(2_400_000, 2_400_000))) == {}


def test_energy_clock() -> None:
    plug = series("shelly:plug", "power", "uw", lambda t: watts(t) * 1e6 + t % 7)
    settings = Settings(source="shelly")
    assert codes(plug, settings=settings, clock_bound_ns=S // 5) == {}
    assert codes(plug, settings=settings, clock_bound_ns=S // 3) == {"energy_clock": "invalid"}


def test_energy_unavailable_says_why() -> None:
    missing = Reading("rapl:intel-rapl:0:package-0", "energy", "uj", missing="energy_uj cannot be read: denied")
    made = energy_reasons.energy_unavailable(EnergyEvidence(found(missing)))
    assert made is not None and made.severity == "note" and "denied" in made.message
    assert found(missing).energy is None


def test_a_battery_that_says_zero_is_unavailable_and_never_zero() -> None:
    zeros = battery(current=lambda t: 0, voltage=lambda t: 4e6, status=lambda t: 2)
    assert found(*zeros).energy is None
    assert codes(*zeros) == {"energy_unavailable": "note"}


@given(st.lists(st.integers(0, 40), min_size=2, max_size=60), st.integers(41, 200), st.integers(0, 200))
def test_any_rising_counter_survives_its_wraps(changes: Sequence[int], span: int, start: int) -> None:
    total = np.cumsum([start, *changes])
    raw = [int(v) % (span + 1) for v in total]
    dips = [k for k in range(1, len(raw) - 1) if raw[k] < raw[k - 1] <= raw[k + 1]]
    zeros = raw[0] == 0
    t_ns = np.arange(len(raw), dtype=np.float64) * S
    _, unwrapped, _, rejected = unwrap(t_ns, raw, 1.0, span)
    if not dips and not zeros and not rejected:
        assert unwrapped[-1] == sum(changes)


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=40))
def test_whatever_a_sensor_says_nothing_breaks(values: Sequence[int]) -> None:
    t_ns = tuple(range(0, len(values) * S, S))
    for source, quantity, unit in (("rapl:z:package-0", "energy", "uj"), ("battery:battery", "current", "ua")):
        readings = [Reading(source, quantity, unit, t_ns, tuple(values))]
        readings += [Reading("battery:battery", "voltage", "uv", t_ns, tuple(values))]
        readings += [Reading("battery:battery", "charge", "uah", t_ns, tuple(values))]
        evidence = EnergyEvidence(found(*readings))
        energy_reasons.judge(evidence)


def test_energy_reaches_the_result_and_leaves_latency_alone() -> None:
    from pocketbench.assemble import Context, assemble

    lie = battery(**PHONE | {"status": lambda t: 1})
    evidence = EnergyEvidence(found(*lie))
    result = assemble(facts.case(), facts.processes(), Context("ssh", has_thermal_sensor=True), energy=evidence)
    assert result.status == "OK" and result.energy is not None
    assert [r.scope for r in result.reasons if r.code == "charging"] == ["energy"]
    assert result.metric("energy") is None
    honest = EnergyEvidence(found(*battery(**PHONE)))
    result = assemble(facts.case(), facts.processes(), Context("ssh", has_thermal_sensor=True), energy=honest)
    assert result.metric("energy") == pytest.approx(50, rel=0.01)
