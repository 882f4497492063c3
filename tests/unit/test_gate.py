"""The gate: it waits for heat and load, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from pocketbench.fleet import gate
from pocketbench.fleet.gate import Gate, Passed
from pocketbench.measurement import Observation, Reading


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits: what is tested is when it waits, not how long."""
    monkeypatch.setattr(gate, "POLL_S", 0.001)
    monkeypatch.setattr(gate, "REST_S", 0.05)
    monkeypatch.setattr(gate, "LOAD_WAIT_S", 0.0045)


def seen(celsius: float | None = 40.0, busy: int | None = 20, load: int | None = 250) -> Observation:
    readings = [Reading("thermal:z0", "temperature", "millicelsius", (1,), (30_000,))] if celsius is not None else []
    if celsius is not None:
        readings.append(Reading("thermal:z1", "temperature", "millicelsius", (1,), (round(celsius * 1000),)))
    if busy is not None:
        readings.append(Reading("system", "busy", "milli-core", (1,), (busy,)))
    if load is not None:
        readings.append(Reading("system", "load_avg", "milli", (1,), (load,)))
    return Observation(tuple(readings), "boot")


class Device:
    """Shows one observation after the other, the last one again and again."""

    def __init__(self, *observations: Observation) -> None:
        self._rest: Iterator[Observation] = iter(observations)
        self._last = observations[-1]
        self.looks = 0

    def observe(self, window_s: float) -> Observation:
        assert window_s >= 0
        self.looks += 1
        return next(self._rest, self._last)


class Stop(Event):
    """Adds up what is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return super().wait(timeout)


def test_a_cool_and_quiet_device_is_let_through_at_once() -> None:
    device, stop = Device(seen()), Stop()
    assert Gate(device.observe, None, stop).wait() == Passed(False, "boot")
    assert (device.looks, stop.waited) == (2, [])


def test_it_waits_until_the_hottest_zone_is_near_its_baseline() -> None:
    device, stop = Device(seen(40), seen(50), seen(43.001), seen(43.0)), Stop()
    assert Gate(device.observe, None, stop).wait() == Passed(False, "boot")
    assert (device.looks, stop.waited) == (4, [0.001, 0.001])


def test_the_baseline_is_what_the_gate_saw_first() -> None:
    device, stop = Device(seen(60), seen(62)), Stop()
    assert not Gate(device.observe, None, stop).wait().hot_start
    assert stop.waited == []


def test_it_gives_up_on_heat_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HEAT_WAIT_S", 0.02)
    device, stop = Device(seen(40), seen(70)), Stop()
    assert Gate(device.observe, None, stop).wait() == Passed(True, "boot")
    assert len(stop.waited) > 1


def test_without_a_sensor_it_rests() -> None:
    device, stop = Device(seen(None)), Stop()
    made = Gate(device.observe, None, stop)
    assert not made.has_sensor
    assert made.wait() == Passed(False, "boot")
    assert stop.waited == [0.05]


def test_a_cooldown_that_was_given_stands_for_heat_and_load() -> None:
    device, stop = Device(seen(40), seen(90, busy=4000)), Stop()
    made = Gate(device.observe, 0.01, stop)
    assert made.has_sensor
    assert made.wait() == Passed(False, "boot")
    assert stop.waited == [0.01]


def test_no_cooldown_at_all() -> None:
    stop = Stop()
    assert not Gate(Device(seen(None)).observe, 0.0, stop).wait().hot_start
    assert sum(stop.waited) == 0


def test_it_waits_for_load_but_only_so_long_in_a_session() -> None:
    device, stop = Device(seen(busy=20), seen(busy=501)), Stop()
    made = Gate(device.observe, None, stop)
    assert made.wait() == Passed(False, "boot")
    assert len(stop.waited) == 5
    assert made.wait() == Passed(False, "boot")
    assert len(stop.waited) == 5


def test_half_a_core_is_quiet() -> None:
    device, stop = Device(seen(busy=500)), Stop()
    Gate(device.observe, None, stop).wait()
    assert stop.waited == []


def test_load_that_ends_ends_the_wait() -> None:
    device, stop = Device(seen(), seen(busy=2000), seen(busy=20)), Stop()
    Gate(device.observe, None, stop).wait()
    assert len(stop.waited) == 1


def test_the_wait_ends_when_the_run_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "POLL_S", 60.0)
    stop = Event()
    made = Gate(Device(seen(40), seen(90)).observe, None, stop)
    stop.set()
    assert made.wait() == Passed(False, "boot")


def test_the_load_average_is_that_of_the_start() -> None:
    assert Gate(Device(seen(load=250), seen(load=9000)).observe, None, Event()).load_avg == 0.25
    assert Gate(Device(seen(load=None)).observe, None, Event()).load_avg is None


def test_lanes_of_one_machine_do_not_wait_for_each_other() -> None:
    stop = Stop()
    assert Gate(Device(seen(busy=1_900)).observe, None, stop, wait_for_load=False).wait() == Passed(False, "boot")
    assert stop.waited == []


def test_whoever_waits_is_told_once_what_for() -> None:
    told: list[str] = []
    busy = Device(seen(busy=20), seen(busy=501))
    Gate(busy.observe, None, Stop(), say=told.append).wait()
    hot = Device(seen(40), seen(70), seen(70), seen(41))
    Gate(hot.observe, None, Stop(), say=told.append).wait()
    assert told == [
        "waits for other load to end, 0 s at most",
        "waits to cool down, 300 s at most: 70 degrees, 40 when it was idle",
    ]


@pytest.mark.parametrize("millicelsius", [45, -274_000, 1_000], ids=["whole degrees", "off", "a degree"])
def test_a_zone_that_cannot_be_believed_is_no_sensor(millicelsius: int) -> None:
    zone = Reading("thermal:z0", "temperature", "millicelsius", (1,), (millicelsius,))
    only = Observation((zone,), "boot")
    assert not Gate(Device(only).observe, 0.0, Event()).has_sensor
    beside = Observation((zone, *seen(40).readings), "boot")
    assert Gate(Device(beside).observe, 0.0, Event()).has_sensor
