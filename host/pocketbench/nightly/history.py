"""Which earlier nights a series is judged by: since the last cut, and without those that an alarm was about."""

from __future__ import annotations

from collections.abc import Sequence

from pocketbench.nightly.night import Alarm
from pocketbench.store.nights import Earlier

# Metrics of alarms that are a device's own.
OS, DEVICE = "os", "device"


def segment(
    past: Sequence[Earlier],
    fingerprint: str | None,
    metric: str,
    alarms: Sequence[Alarm],
    since: str | None = None,
) -> list[tuple[str, float]]:
    """(night, value) of a metric, oldest first, that tonight may be held against.

    `past` in the order of the nights; `alarms` all that there ever were about this series, or about its device as a
    whole. A device with another fingerprint is another device. `since`: the night of a baseline that a person chose.
    """
    labels = [one.night for one in past]
    start = 0 if since is None else _position(labels, since)
    for position, one in enumerate(past):
        if one.fingerprint != fingerprint:
            start = position + 1
    left_out: set[int] = set()
    for alarm in alarms:
        if alarm.metric not in (metric, DEVICE):
            continue
        opened, closed = _position(labels, alarm.opened), _position(labels, alarm.closed)
        if alarm.accepted:
            start = max(start, opened)
        else:
            left_out |= set(range(opened, closed))
    return [
        (one.night, one.values[metric][0])
        for position, one in enumerate(past)
        if position >= start and position not in left_out and metric in one.values
    ]


def _position(labels: Sequence[str], label: str | None) -> int:
    """Of a night among those of the series; where it has none of that night, of the next."""
    if label is None:
        return len(labels)
    if label in labels:
        return labels.index(label)
    return next((position for position, one in enumerate(labels) if one > label), len(labels))
