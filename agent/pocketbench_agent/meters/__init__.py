"""Meters: what is sampled beside a job, in a process of its own (`python -m pocketbench_agent.meters`).

A sampling thread inside the worker was seen to move p99 of a short model from 1.5 to 7 microseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from pocketbench_agent.rpc import agent_pb2 as pb

METERS: Mapping[str, str] = {
    "thermal": "pocketbench_agent.meters.thermal:Thermal",
    "cpufreq": "pocketbench_agent.meters.cpufreq:CpuFreq",
}


class Meter(Protocol):
    """Something that is read again and again while a job runs."""

    def start(self) -> None:
        """Find the sensors; nothing is read yet."""

    def sample(self, mono_ns: int) -> None:
        """Read once."""

    def stop(self) -> Sequence[pb.Reading]:
        """Everything read since the start, or the reason why there is nothing."""


def create(name: str) -> Meter:
    """The meter of that name; KeyError for an unknown one."""
    module, _, attribute = METERS[name].partition(":")
    made: Meter = getattr(importlib.import_module(module), attribute)()
    return made
