"""`bench suite nightly`: run, suspect, confirm, confirm again, report."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from pocketbench.config.devices import DeviceEntry
from pocketbench.config.suite import SuiteFile
from pocketbench.errors import UsageError
from pocketbench.fleet import fleet
from pocketbench.fleet.fleet import Outcome
from pocketbench.fleet.progress import Progress
from pocketbench.models import printable
from pocketbench.night import AMBER, RED, Alarm, Night
from pocketbench.nightly import alarms as alarming
from pocketbench.nightly import judge, kept, page, pairs, regression
from pocketbench.nightly.alarms import Finding
from pocketbench.nightly.confirm import Confirming
from pocketbench.nightly.history import DEVICE, OS, segment
from pocketbench.nightly.judge import Judged
from pocketbench.nightly.parts import MEASURING, Clock, Part, batches, estimate_s, parts
from pocketbench.plan import Case, Request
from pocketbench.results import METRICS, Result
from pocketbench.series import series_key, series_of_case
from pocketbench.store import nights
from pocketbench.store.nights import Pinned, Stored
from pocketbench.store.store import Store, now, request_doc

# Of these a device or a network is to blame, not the model: they turn nothing red.
BROKEN = frozenset({"FAILED", "CRASHED", "TIMEOUT", "FALLBACK"})
STATUS = "status"
# Who pinned what nobody pinned.
BY_ITSELF = "bench"


class Interrupted(Exception):
    """Ctrl-C: what was measured is kept, and the night is not over."""


@dataclass
class Nightly:
    """One night of a suite, from the first case to its page."""

    suite: SuiteFile
    label: str
    entries: Mapping[str, DeviceEntry]
    store: Store
    shown: Progress
    clock: Clock
    debug: bool = False
    started_utc: str = field(default_factory=now)
    remarks: list[str] = field(default_factory=list)

    def run(self) -> Night:
        """Measure, judge, confirm, store. Interrupted when the user stops it."""
        self.prepare()
        self.measure()
        return self._conclude()

    def prepare(self) -> None:
        """Read the suite's files and the store; UsageError before anything runs."""
        self._id = nights.night_id(self.suite.suite, self.label)
        before = [row for row in nights.nights(self.store, self.suite.suite) if row.label != self.label][::-1]
        self._labels = [row.label for row in before]
        self._states = [row.state for row in before]
        self._parts = parts(self.suite, self.entries, self._id)
        self._asked: dict[str, tuple[Case, Part]] = {}
        for part in self._parts:
            for case in part.request.cases:
                other, _ = self._asked.setdefault(series_of_case(case), (case, part))
                if other is not case:
                    raise UsageError(
                        f"{case.model.path} and {other.model.path} ({case.runtime} x{case.threads} on {case.device}) "
                        "are one series: give the files different names, and ask for one version of a runtime"
                    )
        self.remarks += [remark for part in self._parts for remark in part.remarks]
        self._alarms = nights.alarms(self.store, self.suite.suite)
        self._pinned = nights.baselines(self.store, self.suite.suite)
        ids = [nights.night_id(self.suite.suite, label) for label in self._labels]
        self._last = nights.newest(self.store, list(self._asked), ids)
        self._past = nights.earlier(self.store, self.suite.suite, list(self._asked), self._labels)
        self._baselines = {key: nights.result(self.store, pinned.result_id) for key, pinned in self._pinned.items()}
        newest = self._states[-1] if self._states else {}
        self._pending: set[str] = set(newest.get("pending", ()))
        self._case_s: dict[str, float] = dict(newest.get("case_s", {}))
        self._left_out: list[Case] = []

    def measure(self) -> None:
        """Every case that has no trusted result of tonight yet."""
        nights.begin(self.store, self.suite.suite, self.label, {})
        done = {stored.series for stored in self.tonight() if stored.result.status == "OK"}
        for part in self._parts:
            cases = [case for case in part.request.cases if series_of_case(case) not in done]
            for batch in batches(cases, self._risk, self.clock.budget_s is not None):
                if not self.clock.has(estimate_s(batch, part.request.plan, self._case_s), MEASURING):
                    self._left_out += batch
                    continue
                begun = self.clock.spent_s
                self._run(replace(part.request, cases=tuple(batch)), self.entries, part)
                took = self.clock.spent_s - begun
                for device in {case.device for case in batch}:
                    self._case_s[device] = took / sum(case.device == device for case in batch)
        if self._left_out:
            self.remarks.append(f"{len(self._left_out)} cases were left out: the night's budget was spent")

    def _risk(self, case: Case) -> float:
        """What has changed first, then what is being watched, then what is new, then the rest."""
        key = series_of_case(case)
        last = self._last.get(key)
        if last is None:
            return 1.0
        files = last.result.environment.get("model_files") or {}
        changed = sorted(files.values()) != sorted(file.sha256 for file in case.model.files)
        watched = any(alarm.series == key for alarm in self._live())
        return 3.0 * changed + 2.0 * (watched or key in self._pending)

    def _run(self, request: Request, entries: Mapping[str, DeviceEntry], part: Part) -> Outcome:
        run_id = self.store.create_run(request, request_doc(request))
        fed = fleet.feed(request, part.seen)
        outcome = fleet.measure(request, entries, self.store, run_id, self.shown, fed, False, self.debug)
        if outcome.interrupted:
            raise Interrupted
        return outcome

    def _runs(self, part: Part) -> pairs.Run:
        return lambda request, entries: self._run(request, entries, part)

    def optional(self, result: Result) -> bool:
        """Does the suite let this case fail?"""
        asked = self._asked.get(series_key(result))
        return asked is not None and asked[1].optional

    @property
    def cases(self) -> int:
        """How many the suite has."""
        return len(self._asked)

    def tonight(self) -> list[Stored]:
        """What was measured so far, oldest first."""
        return nights.results(self.store, self._id)

    def _live(self) -> list[Alarm]:
        return [alarm for alarm in self._alarms if alarm.state in alarming.LIVE]

    def _conclude(self) -> Night:
        tonight = {stored.series: stored for stored in self.tonight() if stored.series in self._asked}
        findings = [*self._cuts(tonight), *self._broken(tonight)]
        trusted = {key: stored for key, stored in tonight.items() if stored.result.status == "OK"}
        shifts, of_devices = self._shifts(trusted)
        findings += of_devices
        judged = {key: self._judge(key, stored.result, shifts) for key, stored in trusted.items()}
        findings += [found for key, stored in trusted.items() for found in self._exact(key, stored)]
        confirming = Confirming(
            entries=self.entries,
            store=self.store,
            thresholds=self.suite.thresholds,
            clock=self.clock,
            case_s=self._case_s,
            asked=self._asked,
            last=self._last,
            baselines=self._baselines,
            live=self._live(),
            segment=self._segment,
            runs=self._runs,
            pending=self._pending,
        )
        findings += confirming.confirm(trusted, judged, shifts)
        self._pending = confirming.pending
        self.remarks += confirming.remarks
        live, changed = alarming.advance(self.suite.suite, self.label, self._live(), findings)
        self._pin(trusted)
        night = page.assemble(
            page.Found(
                suite=self.suite.suite,
                label=self.label,
                started_utc=self.started_utc,
                finished_utc=now(),
                host=socket.gethostname(),
                spent_s=self.clock.spent_s,
                budget_s=self.clock.budget_s,
                tonight=tonight,
                past=self._past,
                judged=judged,
                baselines={key: stored.result for key, stored in self._baselines.items()},
                live=live,
                changed=changed,
                left_out=self._left_out,
                optional={key for key, (_, part) in self._asked.items() if part.optional},
                asked={key: case for key, (case, _) in self._asked.items()},
                shifts=shifts,
                remarks=self.remarks,
                undecided=frozenset(self._pending),
                notes=confirming.notes,
                last={key: stored.result for key, stored in self._last.items()},
            )
        )
        state = {
            "page": page.stored(night),
            "shifts": shifts,
            "case_s": self._case_s,
            "pending": sorted(self._pending),
        }
        nights.finish(self.store, self.suite.suite, self.label, state, changed)
        return night

    def _alarms_on(self, key: str, device: str) -> list[Alarm]:
        return [a for a in self._alarms if a.series == key or (a.series is None and a.device == device)]

    def _segment(self, key: str, result: Result, metric: str) -> list[float]:
        past, fingerprint = self._past.get(key, []), result.device_info.fingerprint
        chosen = self._pinned.get(key)
        night = self._baselines[key].night if chosen is not None and chosen.by != BY_ITSELF else None
        since = night.partition("/")[2] if night else None
        return [value for _, value in segment(past, fingerprint, metric, self._alarms_on(key, result.device), since)]

    def _judge(self, key: str, result: Result, shifts: Mapping[str, float]) -> dict[str, Judged]:
        found = {}
        for metric in judge.MEASURED:
            value = result.metric(metric)
            if value is not None:
                shift = shifts.get(result.device, 0.0) if metric == "latency_p50" else 0.0
                least = self.suite.thresholds.get(metric)
                found[metric] = judge.measured(self._segment(key, result, metric), value, least, shift)
        return found

    def _shifts(self, trusted: Mapping[str, Stored]) -> tuple[dict[str, float], list[Finding]]:
        """What each device as a whole moved by (logarithms), and what its own series says of that."""
        shifts: dict[str, float] = {}
        findings = []
        for device in {stored.result.device for stored in trusted.values()}:
            own = {key: s.result for key, s in trusted.items() if s.result.device == device}
            values = {key: p50 for key, r in own.items() if (p50 := r.metric("latency_p50")) is not None}
            before = {key: self._segment(key, own[key], "latency_p50") for key in values}
            shift = judge.device_shift(values, before)
            shifts[device] = shift
            history = [state["shifts"][device] for state in self._states if device in state.get("shifts", {})]
            suspicion = regression.suspect(history, shift) if shift else None
            # It stays until a person accepts it, or the device is as it was.
            if suspicion is not None:
                why = f"all latencies of this device moved by {suspicion.change:+.1%} tonight (median of {len(values)})"
                findings.append(Finding(device, None, DEVICE, device, AMBER, suspicion.change, why))
            elif len(history) >= regression.LEARNING:
                findings.append(Finding(device, None, DEVICE, device, None))
        return shifts, findings

    def _cuts(self, tonight: Mapping[str, Stored]) -> list[Finding]:
        """Devices whose system is another one than last night: nothing can be paired, so the step is told."""
        steps: dict[str, list[float]] = {}
        words: dict[str, str] = {}
        for key, stored in tonight.items():
            new, last = stored.result, self._last.get(key)
            if last is None or new.device_info.fingerprint in (None, last.result.device_info.fingerprint):
                continue
            old = last.result.device_info
            words[new.device] = page.system_change(old, new.device_info)
            values = [v for _, v in segment(self._past.get(key, []), old.fingerprint, "latency_p50", ())]
            p50 = new.metric("latency_p50")
            if p50 is not None and values:
                steps.setdefault(new.device, []).append(p50 / median(values[-regression.WINDOW :]) - 1)
        found = []
        for device, word in words.items():
            step = median(steps[device]) if device in steps else 0.0
            told = f"latency {step:+.1%} (median of {len(steps[device])} series)" if device in steps else "no latency"
            found.append(Finding(device, None, OS, device, AMBER, step, f"{word}: {told}; 'bench baseline accept'"))
        return found

    def _broken(self, tonight: Mapping[str, Stored]) -> list[Finding]:
        """What ran last night and does not tonight, tried once more."""
        found = []
        for key, stored in tonight.items():
            result, last = stored.result, self._last.get(key)
            if result.status == "OK":
                found.append(Finding(result.device, key, STATUS, page.title(result), None))
                continue
            if result.status not in BROKEN or last is None:
                continue
            case, part = self._asked[key]
            again = pairs.again(case, part.request, self.entries, 1, self._runs(part))
            if any(one.status == "OK" for one in again):
                self.remarks.append(f"{page.title(result)}: {result.status} at first, OK when it was run again")
                continue
            why = f"{result.status}, {last.result.status} before: " + next((r.message for r in result.reasons), "")
            found.append(Finding(result.device, key, STATUS, page.title(result), RED, 0.0, printable(why)))
        return found

    def _exact(self, key: str, stored: Stored) -> Iterable[Finding]:
        """Size, accuracy and coverage against the baseline's."""
        baseline = self._baselines.get(key)
        if baseline is None:
            return
        new, old = stored.result, baseline.result
        for kind in METRICS:
            one, two = new.metric(kind.name), old.metric(kind.name)
            if kind.name not in judge.EXACT or one is None or two is None:
                continue
            least = self.suite.thresholds.get(kind.name)
            effect = one / two - 1 if kind.name == "size" and two > 0 else one - two
            if kind.name == "accuracy":
                assert new.accuracy is not None
                scores = nights.items(self.store, baseline), nights.items(self.store, stored)
                if scores[0] is None or scores[1] is None or not _counted(*scores):
                    continue
                why = judge.items(scores[0].tolist(), scores[1].tolist(), new.accuracy.higher_is_better, least or 0.0)
            else:
                why = judge.exact(kind.name, kind.direction, two, one, least)
            yield Finding(new.device, key, kind.name, page.title(new), RED if why else None, effect, why or "")

    def _pin(self, trusted: Mapping[str, Stored]) -> None:
        """The first trusted night of a series is its baseline, until somebody says otherwise."""
        for key, stored in trusted.items():
            if key in self._pinned:
                continue
            try:
                kept.keep(self._asked[key][0], stored.result.environment.get("agent_build"))
            except OSError as error:
                self.remarks.append(f"the files of {page.title(stored.result)} could not be kept: {error.strerror}")
            nights.pin(self.store, self.suite.suite, key, stored.result.id, BY_ITSELF, "its first trusted night")
            self._pinned[key] = Pinned(key, stored.result.id, now(), BY_ITSELF, "its first trusted night")
            self._baselines[key] = stored


def _counted(before: Any, after: Any) -> bool:
    """Is every item right or wrong, before and after?"""
    return bool(((before == 0) | (before == 1)).all() and ((after == 0) | (after == 1)).all())
