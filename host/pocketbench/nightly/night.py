"""What one night found, as plain data: stored as JSON, and all that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# From bad to good; a cell, a series, a device and a whole night have one of them.
RED, AMBER, SUSPECTED, IMPROVED, LEARNING, OK = "red", "amber", "suspected", "improved", "learning", "ok"
COLORS = (RED, AMBER, SUSPECTED, IMPROVED, LEARNING, OK)


@dataclass(frozen=True)
class Treatment:
    """What a team changes on purpose, by content: a change of any part is measured as pairs the same night."""

    model: str
    runtime: str
    delegate: str
    agent: str

    def changed(self, other: Treatment) -> list[str]:
        """The parts that differ, as words."""
        pairs = {"model": (self.model, other.model), "runtime": (self.runtime, other.runtime)}
        pairs |= {"delegate": (self.delegate, other.delegate), "agent": (self.agent, other.agent)}
        return [name for name, (one, two) in pairs.items() if one != two]


@dataclass(frozen=True)
class Point:
    """One night's value of a series, in the metric's unit. `marks`: what was changed that night."""

    night: str
    value: float
    lo: float | None = None
    hi: float | None = None
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class SeriesNight:
    """A series tonight, with the nights before. `band`: what one more night stays within if nothing changed; relative:
    `change` of tonight to the mean of the nights before, `detectable` the smallest change that one night shows.
    """

    key: str
    device: str
    title: str
    metric: str
    unit: str
    direction: int
    state: str
    points: Sequence[Point]
    nights: int
    band: Sequence[float] | None = None
    baseline: float | None = None
    change: float | None = None
    detectable: float | None = None
    note: str = ""


@dataclass(frozen=True)
class CaseNight:
    """A case tonight that has no trusted number, or that could not be measured: why, in sentences."""

    device: str
    title: str
    status: str
    reasons: Sequence[str]
    optional: bool = False


@dataclass(frozen=True)
class DeviceNight:
    """A device tonight. `shift`: what all its latencies moved by, relative."""

    name: str
    facts: str
    counts: Mapping[str, int]
    state: str = OK
    shift: float | None = None
    hottest_c: float | None = None
    emulated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Alarm:
    """Something that changed: open, then acknowledged by somebody or not, and fixed in the end.

    `series` None: the device's own. `effect` is relative; for accuracy and coverage a difference of fractions.
    """

    id: str
    suite: str
    device: str
    series: str | None
    metric: str
    color: str
    state: str
    opened: str
    title: str
    effect: float
    why: str
    closed: str | None = None
    by: str | None = None
    # Fixed because somebody took what is now for the baseline: history goes on from there, not from before.
    accepted: bool = False


@dataclass(frozen=True)
class Candidate:
    """A row of the Pareto page: what one case costs, in the metrics' units."""

    device: str
    title: str
    latency_ms: float
    accuracy: float | None
    accuracy_metric: str | None
    bytes: int
    energy_mj: float | None
    best: bool


@dataclass(frozen=True)
class Night:
    """One night of a suite."""

    suite: str
    label: str
    started_utc: str
    finished_utc: str
    host: str
    tool_version: str
    spent_s: float
    budget_s: float | None
    series: Sequence[SeriesNight]
    alarms: Sequence[Alarm]
    changed: Sequence[Alarm]
    cases: Sequence[CaseNight]
    devices: Sequence[DeviceNight]
    candidates: Sequence[Candidate]
    measured: int
    remarks: Sequence[str] = ()
    emulated: bool = field(default=False)

    @property
    def color(self) -> str:
        """The worst of its alarms; an acknowledged one is somebody's already."""
        colors = {alarm.color for alarm in self.alarms if alarm.state == "open"}
        return next((color for color in (RED, AMBER) if color in colors), OK)

    @property
    def exit_code(self) -> int:
        """1 an open red alarm, 3 a case that is not OK and not optional, 0 all well."""
        if self.color == RED:
            return 1
        return 3 if any(case.status != "OK" and not case.optional for case in self.cases) else 0
