"""The energy phase around a link that dies with the supply: off, wait, on, reopen, collect."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from pocketbench.config.devices import Power
from pocketbench.errors import DeviceLost, LeaseLost
from pocketbench.fleet import energy_phase
from pocketbench.fleet.energy_phase import EnergyPhase
from pocketbench.fleet.restore import Journal
from pocketbench.measurement import Echo, Ended, EnergyRun, Observation
from pocketbench.plan import Plan
from pocketbench.session.wire import JobFiles
from tests.unit import facts
from tests.unit.test_energy import rapl, run


@dataclass
class Device:
    """A session and its link in one; `cut` is how often it is lost while it is waited for."""

    log: Path
    cut: int = 0
    made: EnergyRun = field(default_factory=lambda: run(*rapl()))
    clock: list[Echo] = field(default_factory=lambda: [Echo(1000, 10)])
    error: type[DeviceLost] = DeviceLost

    @property
    def live(self) -> Device:
        return self

    def say(self, word: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{word}\n")

    def observe(self, window_s: float, meters: object) -> Observation:
        return Observation(self.made.readings, "boot")

    def echo(self) -> Echo:
        return self.clock[0] if len(self.clock) == 1 else self.clock.pop(0)

    def start_energy(self, *_: object) -> None:
        self.say("start")

    def energy(self, job_id: str, timeout_s: float) -> EnergyRun:
        if self.cut:
            self.cut -= 1
            raise self.error("phone: the link is gone")
        self.say("collected")
        return self.made

    def reopen(self, why: str) -> None:
        self.say("reopen")

    def acknowledge(self, job_id: str) -> None:
        self.say("acknowledge")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(energy_phase, "AROUND_S", 0.0)
    return tmp_path / "log"


def phase(device: Device, log: Path, **power: Any) -> EnergyPhase:
    switch = {"off": f"echo off >> {log}", "on": f"echo on >> {log}"}
    plan = Plan(energy_s=0.3, warm_up_max_time_s=0.0)
    told = Power(**{"switch": switch, **power})
    return EnergyPhase("phone", told, device, plan, Event(), lambda text: device.say(text))  # type: ignore[arg-type]


def measure(made: EnergyPhase) -> Any:
    return made.measure(facts.case(), JobFiles(), "job")


def test_the_job_begins_before_the_cut_and_is_collected_after_it(log: Path) -> None:
    device = Device(log, cut=1)
    evidence = measure(phase(device, log))
    assert log.read_text().split() == ["start", "off", "on", "reopen", "collected", "acknowledge"]
    assert evidence.found.energy is not None


def test_a_link_that_outlives_the_cut_is_used(log: Path) -> None:
    measure(phase(Device(log), log))
    assert log.read_text().split() == ["start", "off", "collected", "on", "acknowledge"]


def test_without_a_switch_a_lost_device_is_lost(log: Path) -> None:
    with pytest.raises(DeviceLost):
        measure(phase(Device(log, cut=1), log, switch=None))


def test_a_device_that_is_somebody_elses_by_now_has_its_supply_at_once(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_phase, "AROUND_S", 600.0)
    with pytest.raises(LeaseLost):
        measure(phase(Device(log, cut=1, error=LeaseLost), log))
    assert log.read_text().split() == ["start", "off", "on"]


def test_a_switch_that_fails_is_said_and_tried_again_by_the_next_run(log: Path) -> None:
    device = Device(log)
    switch = {"off": f"echo off >> {log}", "on": "exit 7"}
    measure(phase(device, log, switch=switch))
    assert "THE SUPPLY IS STILL OFF" in log.read_text() and "ended with 7" in log.read_text()
    assert Journal("phone").pending() == [("power", "host", "exit 7")]


def test_a_cut_that_fails_leaves_no_energy_and_the_supply_on(log: Path) -> None:
    evidence = measure(phase(Device(log), log, switch={"off": "echo broken >&2; exit 3", "on": f"echo on >> {log}"}))
    assert evidence.found.energy is None and "broken" in evidence.found.missing
    assert "on" in log.read_text().split()


def test_a_phase_that_ended_badly_has_no_energy(log: Path) -> None:
    device = Device(log, made=replace(run(*rapl()), ended=Ended("signal", message="the worker died of SIGSEGV")))
    evidence = measure(phase(device, log, switch=None))
    assert evidence.found.energy is None and "SIGSEGV" in evidence.found.missing


class Plug:
    """A meter on the host, whose clock starts elsewhere."""

    def start(self) -> None:
        return

    def stop(self) -> Any:
        readings = run(*rapl()).readings[0]
        watts = tuple((5_000_000 if 10 <= t / 1e9 < 40 else 2_000_000) + t % 7 for t in readings.t_ns)
        shifted = tuple(t - 77_000_000_000 for t in readings.t_ns)
        return (replace(readings, source="shelly:plug", quantity="power", unit="uw", t_ns=shifted, value=watts),), 1000


@pytest.mark.parametrize(("drift_s", "codes"), [(0.0, set()), (1.0, {"energy_clock"})])
def test_a_plug_s_times_are_the_device_s(
    log: Path, monkeypatch: pytest.MonkeyPatch, drift_s: float, codes: set[str]
) -> None:
    from pocketbench import meters
    from pocketbench.verdict import energy_reasons

    monkeypatch.setattr(meters, "create", lambda text: Plug())
    offset = 77_000_000_000
    device = Device(log, made=run(), clock=[Echo(offset, 10), Echo(offset + round(drift_s * 1e9), 10)])
    evidence = measure(phase(device, log, switch=None, meter="shelly:plug.lan"))
    assert evidence.found.energy.power_mw == pytest.approx(5000, rel=0.01)
    assert {r.code for r in energy_reasons.judge(evidence)} == codes
