"""Clock, its ceiling and its governor, of every policy (https://docs.kernel.org/admin-guide/pm/cpufreq.html): kHz.

`stats/time_in_state` has lines `<kHz> <time>`, time in units of 10 ms
(https://docs.kernel.org/cpu-freq/cpufreq-stats.html); its sums tell the mean clock between two moments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent import meters
from pocketbench_agent.device_info import read_text
from pocketbench_agent.meters.sysfs import Gauge, Series, find, readings
from pocketbench_agent.rpc import agent_pb2 as pb

MISSING = "no cpufreq is offered"
POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"


class CpuFreq:
    """Current frequency, scaling_max_freq and time in states of each policy."""

    interval_s = 1.0

    def start(self) -> None:
        """Find the policies."""
        self._gauges = [
            Gauge(path, _name(path), quantity, "khz")
            for name, quantity in (("scaling_cur_freq", "frequency"), ("scaling_max_freq", "ceiling"))
            for path in find(f"{POLICIES}/{name}")
        ]
        self._states = find(f"{POLICIES}/stats/time_in_state")
        self._governors = find(f"{POLICIES}/scaling_governor")
        self._series = Series()

    def sample(self, mono_ns: int) -> None:
        """Read each."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)
        for path in self._states:
            states = time_in_state(read_text(path) or "")
            if states:
                source = _name(path.removesuffix("/stats/time_in_state") + "/x")
                self._series.add(source, "cycles", "cycles", mono_ns, sum(khz * ms for khz, ms in states))
                self._series.add(source, "clocked", "ms", mono_ns, sum(ms for _, ms in states))

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a policy and quantity."""
        governors = [
            pb.Reading(source=_name(path), quantity="governor", text=(read_text(path) or "")[:40])
            for path in self._governors
        ]
        clocks = readings(self._gauges, "cpufreq", "frequency", "khz", MISSING)
        return [*clocks, *self._series.readings(), *governors]


def time_in_state(text: str) -> list[tuple[int, int]]:
    """(kHz, milliseconds) for each line; nothing where one is not such a line."""
    lines = [re.fullmatch(r"([0-9]{1,10}) ([0-9]{1,15})", line.strip(), re.ASCII) for line in text.splitlines()]
    return [(int(m[1]), 10 * int(m[2])) for m in lines if m] if all(lines) else []


def read_once(mono_ns: int) -> list[pb.Reading]:
    """One sample of every policy."""
    return meters.read_once("cpufreq", mono_ns)


def _name(path: str) -> str:
    return f"cpufreq:{PurePosixPath(path).parent.name}"
