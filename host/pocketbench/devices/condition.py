"""A device's condition, from the facts that the store has of it: good, suspect or quarantined. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

GOOD, SUSPECT, QUARANTINED = "good", "suspect", "quarantined"
FAULT, PASSED = "fault", "passed"
# So many faults in so long, and a device is measured no more; so many health checks passed in a row, and it is again.
FAULTS, WITHIN, PASSES = 3, timedelta(hours=24), 2


@dataclass(frozen=True)
class Fact:
    """Something that happened to a device: a fault of its own or of what leads to it, or a health check passed."""

    at: datetime
    kind: str
    text: str


@dataclass(frozen=True)
class Condition:
    """What follows from its facts; `why` in words, empty where it is good. `passes` count towards its return."""

    state: str
    why: str = ""
    passes: int = 0


def condition(facts: Iterable[Fact], now: datetime) -> Condition:
    """Of a device now. A quarantine ends by health checks that are passed, never by time alone."""
    recent: list[Fact] = []
    since: Fact | None = None
    passes = 0
    for fact in sorted(facts, key=lambda one: one.at):
        if fact.kind == PASSED:
            passes += 1
            if passes >= PASSES:
                recent, since = [], None
            continue
        passes = 0
        recent = [one for one in recent if fact.at - one.at < WITHIN] + [fact]
        if len(recent) >= FAULTS:
            since = fact
    if since is not None:
        told = f"{FAULTS} faults within {WITHIN / timedelta(hours=1):.0f} h, the last {since.at:%Y-%m-%d %H:%M} UTC"
        return Condition(QUARANTINED, f"{told}: {since.text}", passes)
    recent = [one for one in recent if now - one.at < WITHIN]
    if recent:
        return Condition(SUSPECT, f"{len(recent)} fault(s), the last {recent[-1].at:%H:%M} UTC: {recent[-1].text}")
    return Condition(GOOD)
