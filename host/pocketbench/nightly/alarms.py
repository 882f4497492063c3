"""Alarms: open, acknowledged, fixed. Pure functions; each takes alarms and gives new ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pocketbench.nightly.night import AMBER, RED, Alarm

OPEN, ACKNOWLEDGED, FIXED = "open", "acknowledged", "fixed"
LIVE = (OPEN, ACKNOWLEDGED)


@dataclass(frozen=True)
class Finding:
    """What tonight says of one thing that an alarm could be about. `color` None: nothing is wrong with it.

    `effect` is relative (for accuracy and coverage a difference of fractions), `why` a sentence for people.
    """

    device: str
    series: str | None
    metric: str
    title: str
    color: str | None
    effect: float = 0.0
    why: str = ""


def about(alarm: Alarm | Finding) -> tuple[str, str | None, str]:
    """What an alarm is about: there is one live alarm of each."""
    return alarm.device, alarm.series, alarm.metric


def advance(
    suite: str, label: str, live: Sequence[Alarm], findings: Iterable[Finding]
) -> tuple[list[Alarm], list[Alarm]]:
    """(live alarms after tonight, those whose state changed tonight, the fixed ones among them).

    What nothing is known of tonight (it was not measured, or not judged) stays as it is.
    """
    by_subject = {about(alarm): alarm for alarm in live}
    changed: dict[str, Alarm] = {}
    for finding in findings:
        known = by_subject.get(about(finding))
        if finding.color is None:
            if known is not None:
                fixed = replace(known, state=FIXED, closed=label)
                changed[fixed.id] = fixed
                del by_subject[about(finding)]
        elif known is None:
            made = _new(suite, label, finding)
            by_subject[about(finding)] = changed[made.id] = made
        elif known.color == AMBER and finding.color == RED:
            # Worse than what somebody may have acknowledged: it is a new one to them.
            worse = replace(known, color=RED, state=OPEN, effect=finding.effect, why=finding.why)
            by_subject[about(finding)] = changed[worse.id] = worse
    return list(by_subject.values()), list(changed.values())


def acknowledged(alarm: Alarm, by: str) -> Alarm:
    """Somebody looks into it: it is shown, and no longer turns the night red."""
    return replace(alarm, state=ACKNOWLEDGED, by=by)


def accepted(alarm: Alarm, label: str, by: str) -> Alarm:
    """Somebody takes what is now for the baseline."""
    return replace(alarm, state=FIXED, closed=label, by=by, accepted=True)


def _new(suite: str, label: str, finding: Finding) -> Alarm:
    assert finding.color is not None
    parts = "\n".join((suite, label, *(part or "" for part in about(finding))))
    return Alarm(
        id=hashlib.sha256(parts.encode()).hexdigest()[:12],
        suite=suite,
        device=finding.device,
        series=finding.series,
        metric=finding.metric,
        color=finding.color,
        state=OPEN,
        opened=label,
        title=finding.title,
        effect=finding.effect,
        why=finding.why,
    )
