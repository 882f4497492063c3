"""Meters against a simulated sysfs, written after the kernel's own description of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench_agent import device_info, meters
from pocketbench_agent.meters import cpufreq, thermal
from pocketbench_agent.meters.sysfs import Gauge
from pocketbench_agent.rpc import agent_pb2 as pb


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(device_info.ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def zone(root: Path, number: int, kind: str | None, temp: str | None) -> Path:
    folder = root / f"sys/class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True, exist_ok=True)
    if kind is not None:
        (folder / "type").write_text(f"{kind}\n")
    if temp is not None:
        (folder / "temp").write_text(f"{temp}\n")
    return folder


def policy(root: Path, number: int, current: int | None, ceiling: int) -> Path:
    folder = root / f"sys/devices/system/cpu/cpufreq/policy{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaling_max_freq").write_text(f"{ceiling}\n")
    if current is not None:
        (folder / "scaling_cur_freq").write_text(f"{current}\n")
    return folder


def by_name(readings: list[pb.Reading]) -> dict[tuple[str, str], pb.Reading]:
    return {(r.source, r.quantity): r for r in readings}


def test_every_zone_is_sampled_with_its_time(root: Path) -> None:
    zone(root, 0, "cpu-thermal", "41000")
    folder = zone(root, 1, "gpu", "-5000")
    meter = meters.create("thermal")
    meter.start()
    meter.sample(100)
    (folder / "temp").write_text("-4000\n")
    meter.sample(200)
    found = by_name(list(meter.stop()))
    assert set(found) == {
        ("thermal:thermal_zone0:cpu-thermal", "temperature"),
        ("thermal:thermal_zone1:gpu", "temperature"),
    }
    gpu = found["thermal:thermal_zone1:gpu", "temperature"]
    assert (list(gpu.t_ns), list(gpu.value), gpu.unit, gpu.missing) == ([100, 200], [-5000, -4000], "millicelsius", "")


def test_a_zone_without_a_type_has_its_number(root: Path) -> None:
    zone(root, 3, None, "1")
    (reading,) = thermal.read_once(5)
    assert reading.source == "thermal:thermal_zone3:thermal_zone3"


def test_a_zone_that_fails_in_between_leaves_a_gap(root: Path) -> None:
    folder = zone(root, 0, "cpu", "40000")
    meter = thermal.Thermal()
    meter.start()
    for moment, text in ((1, "40000"), (2, "busy"), (3, ""), (4, "42000")):
        (folder / "temp").write_text(text)
        meter.sample(moment)
    (folder / "temp").unlink()
    meter.sample(5)
    (reading,) = meter.stop()
    assert (list(reading.t_ns), list(reading.value), reading.missing) == ([1, 4], [40000, 42000], "")


def test_a_zone_that_never_answers_says_so(root: Path) -> None:
    zone(root, 0, "cpu", "invalid")
    (reading,) = thermal.read_once(5)
    assert not reading.value and "thermal_zone0/temp cannot be read" in reading.missing


@pytest.mark.parametrize("kind", ["thermal", "cpufreq"])
def test_without_a_sensor_there_is_a_reason(root: Path, kind: str) -> None:
    meter = meters.create(kind)
    meter.start()
    meter.sample(1)
    (reading,) = meter.stop()
    assert reading.source == kind and reading.missing and not reading.value


def test_each_policy_has_its_clock_and_its_ceiling(root: Path) -> None:
    policy(root, 0, 1_500_000, 2_400_000)
    big = policy(root, 4, 1_000_000, 3_000_000)
    meter = cpufreq.CpuFreq()
    meter.start()
    meter.sample(1)
    (big / "scaling_max_freq").write_text("1800000\n")
    meter.sample(2)
    found = by_name(list(meter.stop()))
    assert len(found) == 4
    assert list(found["cpufreq:policy0", "frequency"].value) == [1_500_000, 1_500_000]
    ceiling = found["cpufreq:policy4", "ceiling"]
    assert (list(ceiling.value), ceiling.unit) == ([3_000_000, 1_800_000], "khz")


def test_a_policy_that_hides_its_clock_still_has_a_ceiling(root: Path) -> None:
    policy(root, 0, None, 2_400_000)
    assert [(r.quantity, list(r.value)) for r in cpufreq.read_once(1)] == [("ceiling", [2_400_000])]


def gauged(root: Path, text: str) -> pb.Reading:
    (root / "value").write_text(text, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(device_info.ROOT_VARIABLE, str(root))
        gauge = Gauge("value", "s", "q", "u")
        gauge.sample(1)
        return gauge.reading()


@given(st.text(max_size=12) | st.text("-0123456789 \n", max_size=25))
def test_whatever_a_file_holds_the_meter_goes_on(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    reading = gauged(tmp_path_factory.getbasetemp(), text)
    assert len(reading.t_ns) == len(reading.value)
    assert bool(reading.missing) is not bool(reading.value)


@given(st.integers(-(10**17), 10**17))
def test_every_integer_is_read(tmp_path_factory: pytest.TempPathFactory, value: int) -> None:
    assert list(gauged(tmp_path_factory.getbasetemp(), f"{value}\n").value) == [value]


@pytest.mark.parametrize("text", ["--5", "5-", "²", "٣", "1e3", "0x10", "4.5", "1 2", "9" * 30])
def test_what_is_no_plain_number_is_skipped(root: Path, text: str) -> None:
    zone(root, 0, "cpu", text)
    (reading,) = thermal.read_once(5)
    assert not reading.value and reading.missing


def test_an_unknown_meter_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        meters.create("power")
