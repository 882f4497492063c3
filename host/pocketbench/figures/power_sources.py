"""Which source of power is believed, and its readings as rails: counters (joules) or gauges (watts).

Rules of sources, units and signs are in docs/energy.md. Nothing here judges (verdict/energy_reasons.py does).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.measurement import Reading

Values = NDArray[np.float64]
# Nothing that is measured here takes more, so a counter that seems to have done so was read wrongly or set anew.
MOST_W = 2000.0
# What a phone or a board draws while it works: the ranges by which a vendor's unit is told.
CURRENT_A = (0.02, 8.0)
VOLTAGE_V = (2.5, 30.0)
UNITS: Mapping[str, float] = {
    **{"uw": 1e-6, "mw": 1e-3, "w": 1.0, "ua": 1e-6, "ma": 1e-3, "a": 1.0, "uv": 1e-6, "mv": 1e-3, "v": 1.0},
    **{"uj": 1e-6, "uws": 1e-6, "uwh": 3.6e-3, "uah": 3.6e-3},
}
# Of several that answer, the first: rails that tell most of the processor, then whole devices.
SOURCES = ("odpm", "hwmon", "iio", "pmic", "rapl", "powerstats", "battery")
MONITORS = re.compile(r"hwmon:hwmon\d+/(ina|ltc|pac19|max34)")
BATTERY_TELLS = ("power", "current", "energy", "charge")
INPUTS = ("POM_5V_IN", "VDD_IN")


@dataclass(frozen=True)
class Settings:
    """What devices.yaml says of a device's power; None: to be found out.

    sign: 1 where discharging is negative, as the kernel has it, -1 where it is positive. unit: of current or power.
    """

    source: str | None = None
    sign: int | None = None
    unit: str | None = None
    rails: tuple[str, ...] = ()
    external_supply: bool = False


@dataclass(frozen=True)
class Rail:
    """One rail's joules (counter) or watts (gauge) at moments, nanoseconds of the device's monotonic clock.

    raw: of a gauge, what its file held; watts also move with a voltage that is read beside a current.
    """

    name: str
    counter: bool
    t_ns: Values
    value: Values
    wraps: int = 0
    rejected: int = 0
    raw: Values | None = None

    @property
    def moved(self) -> NDArray[np.intp]:
        """Where it said something new: however often it is asked, in between it says nothing."""
        return np.flatnonzero(np.diff(self.value if self.raw is None else self.raw)) + 1

    @property
    def points(self) -> tuple[Values, Values]:
        """Moments and values; of a counter, only those at which it moved."""
        return (self.t_ns[self.moved], self.value[self.moved]) if self.counter else (self.t_ns, self.value)


@dataclass(frozen=True)
class Source:
    """What was chosen: its rails, how its readings were understood, and what is wrong with them in words."""

    name: str
    rails: tuple[Rail, ...]
    understood: str = ""
    problem: str = ""
    battery: bool = False


def choose(
    readings: Sequence[Reading], settings: Settings, work_ns: tuple[int, int] | None
) -> tuple[Source | None, str]:
    """The source that is believed, or why there is none. Without a window: what could be measured at all."""
    wanted = (settings.source,) if settings.source else SOURCES
    why = []
    for name in wanted:
        rails_of: Builder = BUILDERS.get(name, _host_meter)
        source = rails_of(name, readings, settings, work_ns)
        if source is not None and source.rails:
            return source, ""
        why += [r.missing for r in readings if r.missing and r.source.split(":")[0] in (name, _agent_meter(name))]
    # A meter that is there and does not answer says more than all those that are not there.
    there = [text for text in dict.fromkeys(why) if not text.endswith("is offered")]
    return None, "; ".join(there) or f"no {' or '.join(wanted)} is offered"


def unwrap(t_ns: Values, raw: Sequence[int], joules_each: float, span: int | None) -> tuple[Values, Values, int, int]:
    """(moments, joules, wraps, readings left out) of a counter that only rises and starts again after `span`.

    A reading is left out where it would take more power than anything here can draw: text that was half written, or a
    counter that was set to zero.
    """
    times: list[float] = []
    joules: list[float] = []
    wraps = rejected = 0
    last = 0
    for t, value, following in zip(t_ns, raw, [*raw[1:], None], strict=True):
        if not times:
            if value != 0 or following in (0, None):
                times, joules, last = [t], [0.0], value
            continue
        change = value - last
        if change < 0 and following is not None and following >= last:
            # Down and up again at once: not a counter's doing.
            rejected += 1
            continue
        wrapped = change < 0 and span is not None
        if wrapped:
            assert span is not None
            # The range is the largest value, so the counter has one more.
            change += span + 1
        elapsed_s = max(t - times[-1], 1e6) / 1e9
        # A counter's update may carry the energy of a second, however soon it follows the last reading.
        if change < 0 or change * joules_each > MOST_W * (elapsed_s + 1.0):
            rejected += 1
            continue
        wraps += wrapped
        times.append(t)
        joules.append(joules[-1] + change * joules_each)
        last = value
    return np.array(times), np.array(joules), wraps, rejected


def _counters(name: str, readings: Sequence[Reading], settings: Settings) -> list[Rail]:
    made = []
    for reading in _of(name, readings, settings):
        if reading.quantity == "energy" and reading.value:
            told = _partner(reading, "range", readings)
            span = told.value[0] if told is not None and told.value[0] > 0 else None
            each = UNITS[reading.unit]
            made.append(Rail(_rail(reading), True, *unwrap(_times(reading), reading.value, each, span)))
    return made


def _gauges(name: str, readings: Sequence[Reading], settings: Settings) -> list[Rail]:
    """Rails with their power, or with voltage and current read together."""
    made = []
    for reading in _of(name, readings, settings):
        if reading.quantity == "power" and reading.value:
            watts = _scaled(reading, settings.unit)
            made.append(_gauge(_rail(reading), _times(reading), watts, watts))
        elif reading.quantity == "current" and reading.value:
            volts = _partner(reading, "voltage", readings)
            if volts is not None:
                amperes = _scaled(reading, settings.unit)
                made.append(_gauge(_rail(reading), _times(reading), amperes * _at(volts, reading), amperes))
    return made


def _gauge(name: str, t_ns: Values, watts: Values, raw: Values, battery: bool = False) -> Rail:
    """Without what no device draws, and without the zeros of a gauge that did not know.

    A battery feeds all there is, so it never gives 0 W where it mostly gives something. A rail may be off for a while:
    of it only a zero that stands alone among other values is left out.
    """
    good = np.abs(watts) <= MOST_W
    zero = watts == 0
    if battery:
        good &= ~zero | (np.mean(zero) >= 0.5)
    elif len(watts) > 2:
        good[1:-1] &= ~(zero[1:-1] & ~zero[:-2] & ~zero[2:])
    return Rail(name, False, t_ns[good], watts[good], 0, int((~good).sum()), raw[good])


def _rails(name: str, readings: Sequence[Reading], settings: Settings, _: tuple[int, int] | None) -> Source | None:
    """ODPM and powerstats: all rails that are named, which do not contain each other."""
    return Source(name, tuple(_counters(name, readings, settings)))


def _rapl(name: str, readings: Sequence[Reading], settings: Settings, _: tuple[int, int] | None) -> Source | None:
    """The whole platform where it is metered (psys), which contains the packages; else the packages."""
    rails = _counters(name, readings, settings)
    whole = [rail for rail in rails if rail.name == "psys"]
    return Source(name, tuple(whole or [rail for rail in rails if rail.name.startswith("package")]))


def _monitors(name: str, readings: Sequence[Reading], settings: Settings, _: tuple[int, int] | None) -> Source | None:
    """The input rail where there is one, which contains the others; else the sum of all."""
    if name == "hwmon" and settings.source != name:
        # Batteries, graphics cards and power supplies offer power files too; those have to be asked for by name.
        readings = [r for r in readings if r.source.split(":")[0] != name or MONITORS.match(r.source)]
    rails = _gauges(name, readings, settings)
    whole = [rail for rail in rails if rail.name in INPUTS and not settings.rails]
    return Source(name, tuple(whole[:1] or rails))


def _battery(
    name: str, readings: Sequence[Reading], settings: Settings, work_ns: tuple[int, int] | None
) -> Source | None:
    """Current and voltage where the battery tells them, else its counters; of one battery, the system's own."""
    told = [r for r in readings if r.source.startswith("battery:") and r.value and r.quantity in BATTERY_TELLS]
    names = list(dict.fromkeys(r.source for r in told))
    if name == "dumpsys":
        names = [source for source in names if source.endswith(":dumpsys")]
    if not names:
        return None
    rank = {source: (source.endswith(":dumpsys"), source.lower() != "battery:battery") for source in names}
    source = min(names, key=lambda one: rank[one])
    mine = {r.quantity: r for r in readings if r.source == source and r.value}
    label = source.partition(":")[2]
    for kind in ("power", "current"):
        # One look tells whether there is a gauge, a whole phase whether it moves.
        if kind in mine and (len(set(mine[kind].value)) > 1 or (work_ns is None and mine[kind].value[0] != 0)):
            return _battery_gauge(label, mine, kind, settings, work_ns)
    for kind in ("energy", "charge"):
        if kind in mine and (kind == "energy" or "voltage" in mine):
            return _battery_counter(label, mine, kind)
    for kind in ("power", "current"):
        if kind in mine and set(mine[kind].value) != {0}:
            return _battery_gauge(label, mine, kind, settings, work_ns)
    return None


def _battery_gauge(
    label: str, mine: Mapping[str, Reading], kind: str, settings: Settings, work_ns: tuple[int, int] | None
) -> Source | None:
    reading = mine[kind]
    times, raw = _times(reading), np.array(reading.value, float)
    inside = (times >= work_ns[0]) & (times <= work_ns[1]) if work_ns else np.ones(len(times), bool)
    size = float(np.median(np.abs(raw[inside]))) if inside.any() else 0.0
    problem = ""
    unit: str | None = (settings.unit or "").lower() or reading.unit
    if kind == "current":
        if not settings.unit:
            unit = _unit(size, ("ua", "ma"), CURRENT_A)
            problem = "" if unit else f"a current of {size:.0f} is neither microampere nor milliampere: set power.unit"
        if "voltage" not in mine:
            return None
        volts = np.interp(times, _times(mine["voltage"]), _volts(mine["voltage"]))
        watts = raw * UNITS[unit or "ua"] * volts
    else:
        watts = raw * UNITS[unit or reading.unit]
    signs = np.sign(watts[inside])
    signs = signs[signs != 0]
    drawn = -1 if settings.sign is None else -settings.sign
    how = "as set" if settings.sign is not None else "discharging is negative"
    if settings.sign is None and len(signs) and np.mean(signs > 0) > 0.95:
        drawn, how = 1, "discharging is positive"
    elif settings.sign is None and len(signs) and not np.mean(signs < 0) > 0.95 and not problem:
        problem = "the current has both signs while the device worked: set power.sign"
    told = f"{kind}_now in {unit or 'an unknown unit'}, {how}"
    return Source("battery", (_gauge(label, times, drawn * watts, raw, battery=True),), told, problem, battery=True)


def _battery_counter(label: str, mine: Mapping[str, Reading], kind: str) -> Source | None:
    """What is left in the battery, turned round so that it counts what was drawn."""
    reading = mine[kind]
    full = max(reading.value)
    drawn = [full - value for value in reading.value]
    times, joules, _, rejected = unwrap(_times(reading), drawn, UNITS[reading.unit], None)
    if kind == "charge":
        volts = np.interp(times, _times(mine["voltage"]), _volts(mine["voltage"]))
        joules = np.concatenate(([0.0], np.cumsum(np.diff(joules) * volts[1:]))) if len(joules) else joules
    rail = Rail(label, True, times, joules, 0, rejected)
    return Source("battery", (rail,), f"{kind} counter", battery=True)


def _host_meter(name: str, readings: Sequence[Reading], settings: Settings, _: Any) -> Source | None:
    return Source(name, tuple(_gauges(name, readings, settings)))


Builder = Callable[[str, Sequence[Reading], Settings, tuple[int, int] | None], "Source | None"]
BUILDERS: Mapping[str, Builder] = {
    "odpm": _rails,
    "powerstats": _rails,
    "rapl": _rapl,
    "hwmon": _monitors,
    "iio": _monitors,
    "pmic": _monitors,
    "battery": _battery,
    "dumpsys": _battery,
}


def _agent_meter(name: str) -> str:
    return {"powerstats": "dumpsys"}.get(name, name)


def _of(name: str, readings: Sequence[Reading], settings: Settings) -> list[Reading]:
    found = [r for r in readings if r.source.split(":")[0] == name]
    return [r for r in found if not settings.rails or _rail(r) in settings.rails]


def _rail(reading: Reading) -> str:
    return reading.source.rpartition(":")[2]


def _partner(reading: Reading, quantity: str, readings: Sequence[Reading]) -> Reading | None:
    return next((r for r in readings if (r.source, r.quantity) == (reading.source, quantity) and r.value), None)


def _at(other: Reading, reading: Reading) -> Values:
    """Another reading's values at this one's moments."""
    return np.asarray(np.interp(_times(reading), _times(other), _scaled(other, None)), float)


def _scaled(reading: Reading, unit: str | None) -> Values:
    return np.array(reading.value, float) * UNITS[(unit or reading.unit).lower()]


def _volts(reading: Reading) -> Values:
    raw = np.array(reading.value, float)
    return raw * UNITS[_unit(float(np.median(raw)), ("uv", "mv"), VOLTAGE_V) or reading.unit]


def _unit(size: float, units: Sequence[str], between: tuple[float, float]) -> str | None:
    """The unit in which that size lies where such things lie."""
    return next((unit for unit in units if between[0] <= size * UNITS[unit] <= between[1]), None)


def _times(reading: Reading) -> Values:
    return np.array(reading.t_ns, float)
