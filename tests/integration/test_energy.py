"""Energy through the command line, against a simulated sysfs whose truth the code under test cannot see."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import QUICK, ROOT, Bench, Ended, wait_until
from tests.peers.sensors import Phases

PHONE = {"idle_w": 1.0, "work_w": 4.0, "jitter": 0.02}


@contextmanager
def simulated(bench: Bench, sensors: Sequence[Mapping[str, Any]], **device: Any) -> Iterator[Path]:
    """The sensors' process; gives the file that will hold the truth."""
    root, truth = bench.home / "root", bench.home / "truth.json"
    spec, jobs = bench.home / "spec.json", bench.home / "xdg_cache_home" / "pocketbench" / "agent" / "jobs"
    spec.write_text(json.dumps({**PHONE, **device, "sensors": sensors}))
    command = [sys.executable, "-m", "tests.peers.sensors", *map(str, (root, spec, truth, jobs))]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: (root / "ready").exists(), 10)
        bench.environment["POCKETBENCH_ROOT"] = str(root)
        yield truth
    finally:
        process.terminate()
        _, errors = process.communicate()
        assert "Traceback" not in errors, errors


def measured(bench: Bench, *more: object, seconds: str = "5") -> Ended:
    """One case with its energy phase."""
    plan = (*QUICK, "--energy", seconds, "--format", "json", "--debug")
    ended = bench("--device", "local", "--model", bench.null(sleep_ms=5), *plan, *more)
    assert ended.code == 0, ended.stderr
    return ended


def at_work(bench: Bench) -> Callable[[], bool]:
    """Has the energy phase begun its work?"""
    phases = Phases(bench.home / "xdg_cache_home" / "pocketbench" / "agent" / "jobs")

    def look() -> bool:
        phases.look()
        return "work" in phases.begun

    return look


def reasons(result: Mapping[str, Any]) -> dict[str, Any]:
    return {r["code"]: r for r in result["reasons"] if r["scope"] == "energy"}


GOOD: Mapping[str, tuple[Sequence[Mapping[str, Any]], Mapping[str, float]]] = {
    "rapl that wraps twice": ([{"kind": "rapl", "span_uj": 12_000_000, "start_uj": 11_000_000}], {}),
    "rapl with zeros between": ([{"kind": "rapl", "zeros": 0.03}], {}),
    "odpm with late updates": ([{"kind": "odpm", "late_s": 0.2}], {"share": 0.9}),
    "jetson, its input rail alone": ([{"kind": "ina3221"}], {}),
    "battery, the kernel's sign": ([{"kind": "battery"}], {}),
    "battery in milliampere, discharge positive": ([{"kind": "battery", "unit": "ma", "sign": 1}], {}),
    "battery that is blind at times": ([{"kind": "battery", "zeros": 0.05, "late_s": 0.1}], {}),
    "a battery and its rails": ([{"kind": "battery"}, {"kind": "odpm"}], {"share": 0.9}),
}


@pytest.mark.parametrize("name", GOOD)
def test_energy_is_the_truth_within_a_hundredth(bench: Bench, name: str) -> None:
    sensors, told = GOOD[name]
    with simulated(bench, sensors, ramp_w_per_s=0.02) as truth_path:
        (result,) = measured(bench).results
        assert wait_until(truth_path.exists, 60)
    truth = json.loads(truth_path.read_text())
    share = told.get("share", 1.0)
    joules, seconds = truth["work"]
    idle_w = (
        share
        * (truth["idle_before"][0] / truth["idle_before"][1] + truth["idle_after"][0] / truth["idle_after"][1])
        / 2
    )
    energy = result["energy"]
    assert energy is not None, result["reasons"]
    assert energy["gross_mj"] == pytest.approx(1e3 * share * joules / truth["runs"], rel=0.01), energy
    assert energy["power_mw"] == pytest.approx(1e3 * share * joules / seconds, rel=0.01)
    assert energy["net_mj"] == pytest.approx(1e3 * (share * joules - idle_w * seconds) / truth["runs"], rel=0.02)
    assert energy["gross_mj"] == pytest.approx(energy["idle_mj"] + energy["net_mj"])
    assert set(reasons(result)) <= {"counter_wrapped"}, reasons(result)
    assert ("counter_wrapped" in reasons(result)) is ("wraps" in name)
    assert result["status"] == "OK"


def test_a_battery_that_charges_is_refused_unless_its_supply_is_outside(bench: Bench) -> None:
    devices = bench.home / "lab.yaml"
    with simulated(bench, [{"kind": "battery", "charging": True}]):
        (result,) = measured(bench, seconds="2.5").results
        assert reasons(result)["charging"]["severity"] == "invalid" and result["status"] == "OK"
        devices.write_text("devices:\n  local: {transport: local, power: {external_supply: true}}\n")
        (result,) = measured(bench, "--devices", devices, seconds="2.5").results
        assert reasons(result) == {}
        table = bench("--device", "local", "--model", bench.null(sleep_ms=5), *QUICK, "--energy", "1")
        assert "energy mJ [net]" in table.stdout and "[1] invalid: charging: " in table.stdout, table.stdout


def test_a_fuel_gauge_gets_longer_and_says_what_idle_hides(bench: Bench) -> None:
    with simulated(bench, [{"kind": "battery", "current": False, "step_uah": 100}], work_w=12.0) as truth_path:
        ended = measured(bench, seconds="2")
        truth = json.loads(truth_path.read_text())
    (result,) = ended.results
    assert truth["work"][1] >= 8
    assert result["energy"]["source"] == "battery (charge counter)"
    assert result["energy"]["steps"] < 200
    assert result["energy"]["power_mw"] == pytest.approx(12_000, rel=0.02)


def test_a_rail_that_is_off_while_idle_keeps_its_zeros(bench: Bench) -> None:
    with simulated(bench, [{"kind": "ina3221", "off_below_w": 2.0}]):
        (result,) = measured(bench).results
    energy = result["energy"]
    assert 0 <= energy["idle_mj"] < 0.02 * energy["gross_mj"] and energy["interval_s"] < 0.5
    assert reasons(result) == {}


def test_a_device_that_throttles_in_its_energy_phase_alone(bench: Bench) -> None:
    cooling = bench.home / "root" / "sys/class/thermal/cooling_device0"
    cooling.mkdir(parents=True)
    (cooling / "type").write_text("npu-cooling\n")
    (cooling / "cur_state").write_text("0\n")
    with simulated(bench, [{"kind": "rapl"}]):
        running = bench.start(
            "--device", "local", "--model", bench.null(sleep_ms=5), *QUICK, "--energy", "3", "--format", "json"
        )
        assert wait_until(at_work(bench), 60)
        (cooling / "cur_state").write_text("1\n")
        stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 0, stderr
    (result,) = json.loads(stdout)["results"]
    assert result["status"] == "OK"
    assert [(r["scope"], r["severity"]) for r in result["reasons"] if r["code"] == "throttled"] == [
        ("energy", "invalid")
    ]


def test_without_a_meter_it_says_so_and_costs_nothing(bench: Bench) -> None:
    root = bench.home / "root"
    zone = root / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "energy_uj").write_text("not today\n")
    bench.environment["POCKETBENCH_ROOT"] = str(root)
    (result,) = measured(bench, seconds="600").results
    assert result["energy"] is None and result["status"] == "OK"
    assert "energy_uj cannot be read" in reasons(result)["energy_unavailable"]["message"]


def test_the_supply_is_cut_around_the_phase_and_comes_back(bench: Bench) -> None:
    log, devices = bench.home / "switch.log", bench.home / "devices.yaml"
    switch = f"{{off: 'echo off >> {log}', on: 'echo on >> {log}'}}"
    devices.write_text(f"devices:\n  local: {{transport: local, power: {{switch: {switch}}}}}\n")
    with simulated(bench, [{"kind": "rapl"}]):
        (result,) = measured(bench, "--devices", devices, seconds="3").results
        assert result["energy"] and log.read_text().split() == ["off", "on"]
        # A host that dies in between: the next run, whatever it measures, puts the supply back first.
        running = bench.start(
            *("--device", "local", "--model", bench.null(sleep_ms=5), *QUICK, "--energy", "60", "--devices", devices)
        )
        assert wait_until(lambda: log.read_text().split() == ["off", "on", "off"], 60)
        running.kill()
        running.communicate()
        ended = bench("--device", "local", "--model", bench.null(sleep_ms=5), *QUICK, "--devices", devices)
        assert ended.code == 0 and log.read_text().split() == ["off", "on", "off", "on"], ended.stderr


LIES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "a counter that moves too seldom": ("energy_resolution", {"kind": "rapl", "late_s": 1.0}, {}),
    "a gauge that looks too seldom": ("energy_resolution", {"kind": "battery", "late_s": 3.0}, {"jitter": 0.3}),
    "a unit of nobody's": ("energy_implausible", {"kind": "battery", "volts": 3.85, "unit": "ca"}, {}),
    "a counter that is mostly nonsense": ("energy_implausible", {"kind": "rapl", "jumps": 0.3}, {}),
    "a counter that runs backwards": ("energy_implausible", {"kind": "rapl", "backwards": True}, {}),
    "a device that warms up": ("energy_idle_drift", {"kind": "rapl"}, {"ramp_w_per_s": 0.4}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_of_the_sensors_is_found(bench: Bench, name: str) -> None:
    code, sensor, device = LIES[name]
    with simulated(bench, [sensor], **device):
        (result,) = measured(bench, seconds="4").results
    assert reasons(result)[code]["severity"] == "invalid", reasons(result)
    assert result["status"] == "OK"


def test_words_among_the_numbers_are_left_out(bench: Bench) -> None:
    """A driver that now and then says "busy" costs readings, and no truth."""
    with simulated(bench, [{"kind": "rapl", "words": 0.3, "words_above_w": 2.0}]) as truth_path:
        (result,) = measured(bench).results
        assert wait_until(truth_path.exists, 5)
        truth = json.loads(truth_path.read_text())
    joules, seconds = truth["work"]
    assert result["status"] == "OK" and result["energy"] is not None, reasons(result)
    assert result["energy"]["power_mw"] == pytest.approx(1000 * joules / seconds, rel=0.02)
    assert not [r for r in reasons(result).values() if r["severity"] == "invalid"], reasons(result)


@pytest.mark.parametrize("kind", ["rapl", "battery"])
def test_sensors_that_vanish_in_the_middle_leave_no_energy_and_a_reason(bench: Bench, kind: str) -> None:
    root = bench.home / "root"
    with simulated(bench, [{"kind": kind}]):
        running = bench.start(
            "--device", "local", "--model", bench.null(sleep_ms=5), *QUICK, "--energy", "6", "--format", "json"
        )
        assert wait_until(at_work(bench), 60)
        time.sleep(3)
    shutil.rmtree(root / "sys")
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 0 and "Traceback" not in stderr, stdout[-3000:] + stderr
    (result,) = json.loads(stdout)["results"]
    assert result["status"] == "OK" and result["energy"] is None
    reason = reasons(result)["energy_resolution"]
    assert reason["severity"] == "invalid" and "the work was not seen by every rail" in reason["message"]
    assert not [r for r in reasons(result).values() if "Error" in r["message"]]
