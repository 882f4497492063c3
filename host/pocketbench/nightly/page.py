"""A night's facts put together for its reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pocketbench import __version__
from pocketbench.documents import from_doc, to_doc
from pocketbench.models import printable
from pocketbench.night import (
    AMBER,
    IMPROVED,
    LEARNING,
    OK,
    RED,
    SUSPECTED,
    Alarm,
    Candidate,
    CaseNight,
    DeviceNight,
    Night,
    Point,
    SeriesNight,
)
from pocketbench.nightly import pairs
from pocketbench.nightly.judge import Judged
from pocketbench.plan import Case
from pocketbench.report.findings import pareto
from pocketbench.results import METRICS, DeviceFacts, Result
from pocketbench.store.nights import Earlier, Stored


@dataclass(frozen=True)
class Found:
    """All that a night came to; mappings by series."""

    suite: str
    label: str
    started_utc: str
    finished_utc: str
    host: str
    spent_s: float
    budget_s: float | None
    tonight: Mapping[str, Stored]
    past: Mapping[str, Sequence[Earlier]]
    judged: Mapping[str, Mapping[str, Judged]]
    baselines: Mapping[str, Result]
    live: Sequence[Alarm]
    changed: Sequence[Alarm]
    left_out: Sequence[Case]
    optional: Collection[str]
    asked: Mapping[str, Case]
    shifts: Mapping[str, float]
    remarks: Sequence[str]
    undecided: Collection[str]
    notes: Mapping[tuple[str, str], str]
    last: Mapping[str, Result]


def title(result: Result) -> str:
    """A case in a few words."""
    recipe = f" [{result.model.recipe}]" if result.model.recipe else ""
    delegate = "" if result.delegate.requested == "cpu" else f" {result.delegate.requested}"
    scenario = "" if result.scenario == "single_stream" else f", {result.scenario}"
    return printable(f"{result.model.name}{recipe} {result.runtime.name}{delegate} x{result.threads}{scenario}")


def system_change(old: DeviceFacts, new: DeviceFacts) -> str:
    """What of a device's system is another now."""
    pairs_of = (("OS", old.os, new.os), ("kernel", old.kernel, new.kernel), ("model", old.model, new.model))
    told = [f"{name} {one} → {two}" for name, one, two in pairs_of if one != two]
    return printable("; ".join(told) or "its system was built anew")


def assemble(found: Found) -> Night:
    """The night."""
    results = {key: stored.result for key, stored in found.tonight.items()}
    trusted = {key: result for key, result in results.items() if result.status == "OK"}
    return Night(
        suite=found.suite,
        label=found.label,
        started_utc=found.started_utc,
        finished_utc=found.finished_utc,
        host=found.host,
        tool_version=__version__,
        spent_s=found.spent_s,
        budget_s=found.budget_s,
        series=[s for key, result in trusted.items() for s in _series(found, key, result)],
        alarms=sorted(found.live, key=lambda alarm: (alarm.color != RED, -abs(alarm.effect))),
        changed=list(found.changed),
        cases=_cases(found, results),
        devices=_devices(found, results),
        candidates=_candidates(trusted),
        measured=len(results),
        remarks=list(found.remarks),
        emulated=any(result.emulated for result in results.values()),
    )


def stored(night: Night) -> dict[str, Any]:
    """The night as the store keeps it: the nights before are there already."""
    doc: dict[str, Any] = to_doc(replace(night, series=[replace(one, points=one.points[-1:]) for one in night.series]))
    return doc


def restored(doc: Mapping[str, Any], past: Mapping[str, Sequence[Earlier]]) -> Night:
    """The night of `stored`, with the nights before from the store."""
    night = from_doc(Night, doc)
    series = [replace(one, points=[*_points(past.get(one.key, ()), one.metric), *one.points]) for one in night.series]
    return replace(night, series=series)


def _series(found: Found, key: str, result: Result) -> list[SeriesNight]:
    made = []
    alarms = {alarm.metric: alarm for alarm in found.live if alarm.series == key}
    for kind in METRICS:
        value = result.metric(kind.name)
        if value is None:
            continue
        judged = found.judged.get(key, {}).get(kind.name)
        past = list(found.past.get(key, ()))
        baseline = found.baselines[key].metric(kind.name) if key in found.baselines else None
        state, note = _state(found, key, kind.name, judged, alarms)
        tonight = Point(found.label, value, *result.interval(kind.name), _marks(found, key, result))
        made.append(
            SeriesNight(
                key=key,
                device=result.device,
                title=title(result),
                metric=kind.name,
                unit=kind.unit,
                direction=kind.direction,
                state=state,
                points=[*_points(past, kind.name), tonight],
                nights=judged.nights if judged else sum(kind.name in one.values for one in past),
                band=judged.band if judged else None,
                baseline=baseline,
                change=judged.change if judged else _relative(value, baseline),
                detectable=judged.detectable if judged else None,
                note=note,
            )
        )
    return made


def _state(found: Found, key: str, metric: str, judged: Judged | None, alarms: Mapping[str, Alarm]) -> tuple[str, str]:
    alarm = alarms.get(metric)
    if alarm is not None:
        return (RED if alarm.color == RED else AMBER), alarm.why
    said = found.notes.get((key, metric), "")
    if judged is None:
        return OK, said
    if judged.state == SUSPECTED:
        if key in found.undecided:
            return SUSPECTED, "suspected, and not confirmed yet"
        return OK, said or "suspected by its history, and not confirmed when it was measured again"
    if judged.state == LEARNING:
        least = f"a change of {judged.detectable:.1%} would show" if judged.detectable is not None else "too few nights"
        return LEARNING, said or judged.why or f"learning, {judged.nights} of 10 nights: {least}"
    if judged.state == IMPROVED:
        # Where nothing of ours is other than the baseline, a better night is a better night.
        differs = key in found.baselines and pairs.treatment(found.baselines[key]).changed(
            pairs.treatment(found.tonight[key].result)
        )
        if not differs:
            return OK, ""
        return IMPROVED, f"better than the nights before; 'bench baseline accept {found.suite} {key}' keeps it"
    return judged.state, judged.why or said


def _points(past: Sequence[Earlier], metric: str) -> list[Point]:
    made: list[Point] = []
    before: Earlier | None = None
    for one in past:
        marks = []
        if before is not None:
            marks += ["model"] * (one.model_sha256 != before.model_sha256)
            marks += ["runtime"] * (one.runtime_version != before.runtime_version)
            marks += ["system"] * (one.fingerprint != before.fingerprint)
        before = one
        if metric in one.values:
            made.append(Point(one.night, *one.values[metric], marks))
    return made


def _marks(found: Found, key: str, result: Result) -> list[str]:
    last = found.last.get(key)
    if last is None:
        return []
    changed = pairs.treatment(result).changed(pairs.treatment(last))
    return [*changed, *["system"] * (result.device_info.fingerprint != last.device_info.fingerprint)]


def _relative(value: float, baseline: float | None) -> float | None:
    return value / baseline - 1 if baseline else None


def _cases(found: Found, results: Mapping[str, Result]) -> list[CaseNight]:
    """What has no trusted number, first what could not be measured at all."""
    made = []
    for key, result in results.items():
        if result.status != "OK":
            reasons = [f"{r.code}: {printable(r.message)}" for r in result.reasons if r.severity == "invalid"]
            made.append(CaseNight(result.device, title(result), result.status, reasons, key in found.optional))
    left = {id(case) for case in found.left_out}
    for key, case in found.asked.items():
        if key not in results:
            why = "the night's budget was spent" if id(case) in left else "no result came of it"
            made.append(CaseNight(case.device, printable(case.label), "SKIPPED", [why], key in found.optional))
    return made


def _devices(found: Found, results: Mapping[str, Result]) -> list[DeviceNight]:
    made = []
    for name in dict.fromkeys(case.device for case in found.asked.values()):
        own = [result for result in results.values() if result.device == name]
        counts: dict[str, int] = {}
        for result in own:
            counts[result.status] = counts.get(result.status, 0) + 1
        heats = [result.temperature_c.max for result in own if result.temperature_c is not None]
        info = own[0].device_info if own else DeviceFacts()
        alarm = next((a for a in found.live if a.device == name and a.series is None), None)
        shift = found.shifts.get(name)
        made.append(
            DeviceNight(
                name=name,
                facts=printable(info.summary),
                counts=counts,
                state=alarm.color if alarm else OK,
                shift=shift or None,
                hottest_c=max(heats, default=None),
                emulated=any(result.emulated for result in own),
                note=alarm.why if alarm else "",
            )
        )
    return made


def _candidates(trusted: Mapping[str, Result]) -> list[Candidate]:
    """What there is to choose from, of each device by itself."""
    made = []
    for device in dict.fromkeys(result.device for result in trusted.values()):
        own = [result for result in trusted.values() if result.device == device]
        best = pareto(own)
        made += [
            Candidate(
                device=device,
                title=title(result),
                latency_ms=p50,
                accuracy=result.accuracy.value if result.accuracy else None,
                accuracy_metric=result.accuracy.metric if result.accuracy else None,
                bytes=result.model.bytes,
                energy_mj=result.metric("energy"),
                best=result.id in best,
            )
            for result in own
            if (p50 := result.metric("latency_p50")) is not None
        ]
    return made
