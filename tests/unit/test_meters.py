"""Meters against a simulated sysfs, written after the kernel's own description of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench_agent import device_info, meters
from pocketbench_agent.meters import android, cpufreq, raspberry, thermal
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


KINDS = {"throttled": "raspberry", "android": "dumpsys", "powerstats": "dumpsys"}


@pytest.mark.parametrize("kind", meters.METERS)
def test_without_a_sensor_there_is_a_reason(root: Path, kind: str) -> None:
    meter = meters.create(kind)
    meter.start()
    meter.sample(1)
    (reading,) = meter.stop()
    assert reading.source == KINDS.get(kind, kind) and reading.missing and not reading.value


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


def put(root: Path, path: str, text: object) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")
    return file


def program(root: Path, name: str, script: str) -> None:
    put(root, f"usr/bin/{name}", f"#!/bin/sh\n{script}").chmod(0o755)


def values(name: str, moments: int = 1) -> dict[tuple[str, str], list[int]]:
    meter = meters.create(name)
    meter.start()
    for moment in range(moments):
        meter.sample(moment)
    return {(r.source, r.quantity): list(r.value) for r in meter.stop()}


def test_a_battery_is_read_raw_and_a_bus_is_no_battery(root: Path) -> None:
    for name, text in (
        ("type", "Battery"),
        ("current_now", -350000),
        ("voltage_now", 3850000),
        ("status", "Discharging"),
    ):
        put(root, f"sys/class/power_supply/battery/{name}", text)
    for name, text in (("type", "USB"), ("current_now", 500000), ("online", 1)):
        put(root, f"sys/class/power_supply/usb/{name}", text)
    for name, text in (("type", "Battery"), ("scope", "Device"), ("current_now", 1)):
        put(root, f"sys/class/power_supply/mouse/{name}", text)
    assert values("battery") == {
        ("battery:battery", "current"): [-350000],
        ("battery:battery", "voltage"): [3850000],
        ("battery:battery", "status"): [2],
        ("supply:usb", "online"): [1],
    }


def test_rapl_leaves_out_the_zones_inside_a_package(root: Path) -> None:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        put(root, f"sys/class/powercap/{zone}/name", name)
        put(root, f"sys/class/powercap/{zone}/energy_uj", 5)
        put(root, f"sys/class/powercap/{zone}/max_energy_range_uj", 262143328850)
    assert values("rapl") == {
        ("rapl:intel-rapl:0:package-0", "energy"): [5],
        ("rapl:intel-rapl:0:package-0", "range"): [262143328850],
        ("rapl:intel-rapl:1:psys", "energy"): [5],
        ("rapl:intel-rapl:1:psys", "range"): [262143328850],
    }


def test_an_ina3221_has_three_rails_and_what_is_not_connected_is_none(root: Path) -> None:
    put(root, "sys/class/hwmon/hwmon1/name", "ina3221")
    for channel, label in ((1, "VDD_IN"), (2, "NC"), (3, "VDD_SOC")):
        put(root, f"sys/class/hwmon/hwmon1/in{channel}_label", label)
        put(root, f"sys/class/hwmon/hwmon1/in{channel}_input", 5000 + channel)
        put(root, f"sys/class/hwmon/hwmon1/curr{channel}_input", 100 + channel)
    put(root, "sys/class/hwmon/hwmon1/in4_input", 777)
    put(root, "sys/class/hwmon/hwmon1/curr4_input", 777)
    put(root, "sys/class/hwmon/hwmon2/name", "ina238")
    put(root, "sys/class/hwmon/hwmon2/power1_input", 12_000_000)
    assert values("hwmon") == {
        ("hwmon:hwmon1/ina3221:VDD_IN", "voltage"): [5001],
        ("hwmon:hwmon1/ina3221:VDD_IN", "current"): [101],
        ("hwmon:hwmon1/ina3221:VDD_SOC", "voltage"): [5003],
        ("hwmon:hwmon1/ina3221:VDD_SOC", "current"): [103],
        ("hwmon:hwmon2/ina238:power1", "power"): [12_000_000],
    }


def test_odpm_rails_carry_the_sensor_s_own_time(root: Path) -> None:
    text = "t=473848\nCH1(T=473848)[VSYS_PWR_MODEM], 48480309\nCH3(T=473850)[S2M_VDD_CPUCL2], 12345678\nCH4(T=4738"
    put(root, "sys/bus/iio/devices/iio:device1/energy_value", text)
    meter = meters.create("odpm")
    meter.start()
    for moment in (10**18, 10**18 + 1):
        meter.sample(moment)
    found = by_name(list(meter.stop()))
    assert {name: list(r.value) for (name, _), r in found.items()} == {
        "odpm:iio:device1:VSYS_PWR_MODEM": [48480309],
        "odpm:iio:device1:S2M_VDD_CPUCL2": [12345678],
    }
    first, second = (
        found[f"odpm:iio:device1:{name}", "energy"].t_ns[0] for name in ("VSYS_PWR_MODEM", "S2M_VDD_CPUCL2")
    )
    assert abs(second - first - 2_000_000) < 1_000_000


def test_a_jetson_of_old_has_its_rails_below_iio(root: Path) -> None:
    put(root, "sys/bus/iio/devices/iio:device0/rail_name_0", "POM_5V_IN")
    put(root, "sys/bus/iio/devices/iio:device0/in_power0_input", 2345)
    assert values("iio") == {("iio:iio:device0:POM_5V_IN", "power"): [2345]}


def test_a_pi_tells_rails_with_both_current_and_voltage(root: Path) -> None:
    said = (
        "VDD_CORE_A current(7)=0.57152000A\nVDD_CORE_V volt(15)=0.87654321V\nEXT5V_V volt(24)=5.11V\nBATT_V volt(25)=0V"
    )
    program(root, "vcgencmd", f'[ $1 = get_throttled ] && echo throttled=0x50005 || printf "{said}\n"')
    assert values("pmic") == {("pmic:VDD_CORE", "current"): [571520], ("pmic:VDD_CORE", "voltage"): [876543]}
    assert values("throttled") == {("raspberry", "throttled"): [0x50005]}


def test_a_program_that_hangs_or_fails_tells_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketbench_agent.meters.tools.TIMEOUT_S", 0.2)
    program(root, "vcgencmd", "sleep 5")
    (reading,) = meters.read_once("pmic", 1)
    assert reading.missing and not reading.value
    program(root, "vcgencmd", "echo throttled=0x0; exit 1")
    (reading,) = meters.read_once("throttled", 1)
    assert reading.missing and not reading.value


DUMPSYS = """\
case $1 in
thermalservice) printf 'IsStatusOverride: false\nThermal Status: 2\nCached temperatures:\n';;
battery) printf '  AC powered: false\n  USB powered: true\n  status: 2\n  voltage: 4123\n  Charge counter: 2345000\n';;
powerstats) printf 'ChannelId: 10, ChannelName: S9S_VDD_AOC, ChannelSubsystem: AOC\n'
 printf 'ChannelId: 10, Timestamp (ms): 5, Duration (ms): 5, Energy (uWs): 99\n';;
esac"""


def test_android_tells_heat_battery_and_rails(root: Path) -> None:
    program(root, "dumpsys", DUMPSYS)
    program(root, "settings", "echo 1")
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cpuset").write_text("/foreground\n")
    assert values("android", 2) == {("android", "thermal_status"): [2, 2], ("android", "battery_saver"): [1]}
    (root / "proc/self/cpuset").write_text("/system-background\n")
    assert values("android", 1)["android", "background"] == [1]
    assert values("dumpsys") == {
        ("battery:dumpsys", "voltage"): [4123],
        ("battery:dumpsys", "charge"): [2345000],
        ("battery:dumpsys", "status"): [1],
        ("supply:AC", "online"): [0],
        ("supply:USB", "online"): [1],
    }
    assert values("powerstats") == {("powerstats:S9S_VDD_AOC", "energy"): [99]}


MEMINFO = """\
** MEMINFO in pid 4242 [python3.11] **
                   Pss  Private  Private  SwapPss      Rss     Heap
                 Total    Dirty    Clean    Dirty    Total     Size
                ------   ------   ------   ------   ------   ------
  Native Heap    20504    20460        0        0    21756    26852
      Gfx dev     1200     1200        0        0     1200
   EGL mtrack      300      300        0        0      300
    GL mtrack    45000    45000        0        0    45000
        TOTAL    90000    80000     1000        0   120000

 App Summary
         TOTAL PSS:    90000            TOTAL RSS:   120000       TOTAL SWAP PSS:        0
"""


def test_graphics_memory_is_that_of_drivers_and_unknown_where_there_is_none(root: Path) -> None:
    assert android.parse_graphics(MEMINFO) == 1024 * 46_500
    assert android.parse_graphics("No process found for: 4242") is None
    assert android.graphics_bytes(1) is None
    program(root, "dumpsys", f"[ $1 = meminfo ] && [ $2 = 4242 ] && cat <<'E'\n{MEMINFO}\nE")
    assert android.graphics_bytes(4242) == 1024 * 46_500


@given(st.text() | st.text("VDD_CORE_A current(7)=0.5\n", max_size=80))
def test_parsers_survive_any_text(text: str) -> None:
    raspberry.parse_adc(text)
    raspberry.parse_throttled(text)
    android.parse_battery(text)
    android.parse_thermal(text)
    android.parse_powerstats(text)
    android.parse_graphics(text)
    cpufreq.time_in_state(text)


def test_time_in_states_is_a_sum_of_cycles(root: Path) -> None:
    policy(root, 0, 1_500_000, 2_400_000)
    states = put(root, "sys/devices/system/cpu/cpufreq/policy0/stats/time_in_state", "600000 10\n1500000 20")
    put(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "schedutil")
    meter = cpufreq.CpuFreq()
    meter.start()
    meter.sample(1)
    states.write_text("600000 10\n1500000 30\n")
    meter.sample(2)
    found = by_name(list(meter.stop()))
    cycles, ms = (list(found["cpufreq:policy0", name].value) for name in ("cycles", "clocked"))
    assert (cycles[1] - cycles[0]) / (ms[1] - ms[0]) == 1_500_000
    assert found["cpufreq:policy0", "governor"].text == "schedutil"


def test_cooling_devices_have_their_kind(root: Path) -> None:
    put(root, "sys/class/thermal/cooling_device0/type", "pwm-fan")
    put(root, "sys/class/thermal/cooling_device0/cur_state", 3)
    assert values("cooling") == {("cooling:cooling_device0:pwm-fan", "state"): [3]}
