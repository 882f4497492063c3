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
    "cooling": "pocketbench_agent.meters.cooling:Cooling",
    "throttled": "pocketbench_agent.meters.raspberry:Throttled",
    "android": "pocketbench_agent.meters.android:Android",
    "battery": "pocketbench_agent.meters.battery:Battery",
    "odpm": "pocketbench_agent.meters.iio:Odpm",
    "iio": "pocketbench_agent.meters.iio:Ina",
    "hwmon": "pocketbench_agent.meters.hwmon:Hwmon",
    "rapl": "pocketbench_agent.meters.rapl:Rapl",
    "pmic": "pocketbench_agent.meters.raspberry:Pmic",
    "dumpsys": "pocketbench_agent.meters.android:AndroidBattery",
    "powerstats": "pocketbench_agent.meters.android:PowerStats",
}


class Meter(Protocol):
    """Something that is read again and again while a job runs, every `interval_s` seconds."""

    interval_s: float

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


def read_once(name: str, mono_ns: int) -> list[pb.Reading]:
    """One sample of a meter."""
    meter = create(name)
    meter.start()
    meter.sample(mono_ns)
    return list(meter.stop())
