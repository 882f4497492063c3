"""Pairs for what changed and for what is suspected: only what they confirm twice turns red."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import UsageError
from pocketbench.models import printable
from pocketbench.night import AMBER, LEARNING, RED, Alarm
from pocketbench.nightly import judge, page, pairs, regression
from pocketbench.nightly.alarms import Finding
from pocketbench.nightly.judge import Judged
from pocketbench.nightly.parts import Clock, Part, estimate_s
from pocketbench.plan import Case
from pocketbench.results import Result
from pocketbench.store.nights import Stored
from pocketbench.store.store import Store

# Fewer trusted pairs confirm nothing.
LEAST_PAIRS = 3


@dataclass
class Confirming:
    """What it takes to measure again tonight; mappings by series.

    `pending` are series that wait for their pairs since an earlier night, and afterwards those that wait for the next.
    """

    entries: Mapping[str, DeviceEntry]
    store: Store
    thresholds: Mapping[str, float]
    clock: Clock
    case_s: Mapping[str, float]
    asked: Mapping[str, tuple[Case, Part]]
    last: Mapping[str, Stored]
    baselines: Mapping[str, Stored]
    live: Sequence[Alarm]
    segment: Callable[[str, Result, str], list[float]]
    runs: Callable[[Part], pairs.Run]
    pending: set[str]
    remarks: list[str] = field(default_factory=list)
    # What the pairs of a series and metric said where they confirmed nothing.
    notes: dict[tuple[str, str], str] = field(default_factory=dict)

    def confirm(
        self, trusted: Mapping[str, Stored], judged: Mapping[str, Mapping[str, Judged]], shifts: Mapping[str, float]
    ) -> list[Finding]:
        """Pairs for what changed and for what is suspected, the largest effect first, while there is time."""
        waiting = []
        for key, stored in trusted.items():
            effect = max((abs(j.change or 0) for j in judged[key].values() if j.suspicion), default=0.0)
            changed = self._changed(key, stored.result)
            watched = any(a.series == key and a.metric in judge.MEASURED for a in self.live)
            calm = watched and not effect and not any(j.state == LEARNING for j in judged[key].values())
            if changed or calm or (effect and not watched):
                waiting.append((bool(changed), effect, key))
        findings: list[Finding] = []
        self.pending = set()
        keys = [key for _, _, key in sorted(waiting, reverse=True)]
        for position, key in enumerate(keys):
            case, part = self.asked[key]
            seconds = 2 * regression.FIRST_PAIRS * estimate_s([case], part.request.plan, self.case_s)
            if not self.clock.has(seconds):
                self.pending |= set(keys[position:])
                self.remarks.append(
                    f"{len(self.pending)} suspected or changed cases could not be confirmed: the night's budget was "
                    "spent; they come first tomorrow"
                )
                break
            findings += self._decide(key, trusted[key].result, judged[key], shifts)
        return findings

    def _changed(self, key: str, result: Result) -> list[str]:
        """What is another treatment than last night's, or waits for its pairs since; nothing without a baseline."""
        last, baseline = self.last.get(key), self.baselines.get(key)
        if last is None or baseline is None:
            return []
        mine = pairs.treatment(result)
        changed = mine.changed(pairs.treatment(last.result))
        if not changed and key in self.pending:
            changed = mine.changed(pairs.treatment(baseline.result))
        return changed

    def _decide(
        self, key: str, result: Result, judged: Mapping[str, Judged], shifts: Mapping[str, float]
    ) -> list[Finding]:
        baseline = self.baselines[key]
        case, part = self.asked[key]
        differs = pairs.treatment(result).changed(pairs.treatment(baseline.result))
        if not differs:
            return self._same_files(key, result, judged, shifts)
        try:
            _, asked = self.store.run_request(baseline.run_id)
            doc = next(one for one in asked["cases"] if one.get("key") == baseline.case_key)
            arms = pairs.arms(case, result, baseline.result, doc)
            first = self._pairs(arms, part, regression.FIRST_PAIRS, False)
            if any(self._undecided(metric, ratios) for metric, ratios in first[0].items()):
                more = self._pairs(arms, part, regression.FIRST_PAIRS, True)
                first = ({m: [*r, *more[0].get(m, ())] for m, r in first[0].items()}, [*first[1], *more[1]])
            if max(map(len, first[0].values()), default=0) < LEAST_PAIRS:
                self.pending.add(key)
                self.remarks.append(f"{page.title(result)}: its pairs cannot be trusted: {_why(first[1])}")
                return []
            worse = {m: c for m, r in first[0].items() if (c := self._confirmed(m, r)) is not None and c.stands}
            second = self._pairs(arms, part, regression.SECOND_PAIRS, True) if worse else ({}, [])
        except (UsageError, StopIteration) as error:
            told = str(error) or "the store does not say how the baseline was measured"
            self.remarks.append(f"{page.title(result)}: cannot be paired with its baseline: {told}")
            return []
        found = []
        for metric in first[0]:
            again = self._confirmed(metric, second[0].get(metric, ()))
            stands = metric in worse and again is not None and again.stands
            effect = again.change if again is not None and stands else 0.0
            why = ""
            if again is not None and stands:
                why = (
                    f"{again.change:+.1%} (at least {again.at_least:+.1%}) in {len(second[0][metric])} pairs with the "
                    f"baseline, after {worse[metric].change:+.1%} in {len(first[0][metric])}; "
                    f"changed: {', '.join(differs)}"
                )
            found.append(Finding(result.device, key, metric, page.title(result), RED if stands else None, effect, why))
            once = self._confirmed(metric, first[0][metric])
            if once is not None and not stands:
                twice = f", then {again.change:+.1%} in {len(second[0][metric])}" if again is not None else ""
                told = f"{once.change:+.1%} in {len(first[0][metric])} pairs with the baseline{twice}: not confirmed"
                self.notes[key, metric] = f"changed: {', '.join(differs)}; {told}"
        found += self._scored(key, result, first[1])
        return found

    def _pairs(
        self, arms: pairs.Arms, part: Part, count: int, mirrored: bool
    ) -> tuple[dict[str, list[float]], list[Result]]:
        return pairs.measure(arms, self.entries, part.request, count, mirrored, self.runs(part))

    def _confirmed(self, metric: str, ratios: Sequence[float]) -> regression.Confirmation | None:
        if len(ratios) < LEAST_PAIRS:
            return None
        return regression.confirm(ratios, self._least(metric))

    def _undecided(self, metric: str, ratios: Sequence[float]) -> bool:
        return len(ratios) >= LEAST_PAIRS and regression.undecided(ratios, self._least(metric))

    def _least(self, metric: str) -> float:
        return self.thresholds.get(metric, regression.LEAST_CONFIRMED)

    def _scored(self, key: str, result: Result, new: Sequence[Result]) -> list[Finding]:
        """Accuracy of a metric that is no mean of items, from the pairs' own difference."""
        accuracy = next((one.accuracy for one in new if one.accuracy and one.accuracy.difference_ci95), None)
        if accuracy is None or accuracy.difference is None or accuracy.difference_ci95 is None:
            return []
        sign = 1 if accuracy.higher_is_better else -1
        surely = max(sign * end for end in accuracy.difference_ci95) < 0
        lost = -sign * accuracy.difference
        if not surely or lost <= self.thresholds.get("accuracy", 0.0):
            return []
        lo, hi = accuracy.difference_ci95
        why = f"{accuracy.metric} {accuracy.difference:+.4f} [{lo:+.4f}, {hi:+.4f}] against the baseline"
        return [Finding(result.device, key, "accuracy", page.title(result), RED, accuracy.difference, why)]

    def _same_files(
        self, key: str, result: Result, judged: Mapping[str, Judged], shifts: Mapping[str, float]
    ) -> list[Finding]:
        """Nothing of ours changed: run it again, and where it is as slow then, the device is not what it was."""
        case, part = self.asked[key]
        suspected = [metric for metric, one in judged.items() if one.suspicion is not None]
        results: list[Result] = []
        if suspected:
            results = pairs.again(case, part.request, self.entries, regression.RERUNS, self.runs(part))
        found = []
        for metric in judged:
            values = [v for one in results if one.status == "OK" and (v := one.metric(metric)) is not None and v > 0]
            effect = self._still(key, result, metric, values, shifts) if metric in suspected and values else None
            why = (
                f"{effect:+.1%}, again when it was run again; no file of ours changed: the device did" if effect else ""
            )
            title = page.title(result)
            found.append(Finding(result.device, key, metric, title, AMBER if effect else None, effect or 0.0, why))
        return found

    def _still(
        self, key: str, result: Result, metric: str, values: Sequence[float], shifts: Mapping[str, float]
    ) -> float | None:
        shift = shifts.get(result.device, 0.0) if metric == "latency_p50" else 0.0
        history = [math.log(value) for value in self.segment(key, result, metric)]
        least = self.thresholds.get(metric, regression.LEAST_SUSPECT)
        return regression.again(history, [math.log(value) - shift for value in values], least)


def _why(results: Sequence[Result]) -> str:
    reasons = [r.message for one in results if one.status != "OK" for r in one.reasons if r.severity == "invalid"]
    return printable(reasons[0]) if reasons else "none has a number"
