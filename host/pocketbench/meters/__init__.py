"""Meters beside the device, read by this host: one Protocol, found through a literal table.

Their times are the host's; the session's echoes say how that clock stands to the device's, and how surely.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from pocketbench.measurement import Reading

METERS: Mapping[str, str] = {
    "shelly": "pocketbench.meters.http_plug:Shelly",
    "tasmota": "pocketbench.meters.http_plug:Tasmota",
}


class HostMeter(Protocol):
    """Something that measures a device's power from outside."""

    def start(self) -> None:
        """Begin to read, in a thread of its own. MeterError where it does not answer."""

    def stop(self) -> tuple[Sequence[Reading], int]:
        """What was read, at `time.perf_counter_ns` of this host, and how far off those times may be, nanoseconds."""


class MeterError(Exception):
    """The meter cannot be read; says which and why."""


def create(text: str) -> HostMeter:
    """The meter of `NAME:ADDRESS`, as devices.yaml has it."""
    name, _, address = text.partition(":")
    module, _, attribute = METERS[name].partition(":")
    made: HostMeter = getattr(importlib.import_module(module), attribute)(address)
    return made
