"""Clock and its ceiling of every core (https://docs.kernel.org/admin-guide/pm/cpufreq.html): kHz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent.meters.sysfs import Gauge, find, readings
from pocketbench_agent.rpc import agent_pb2 as pb

MISSING = "no cpufreq is offered"


class CpuFreq:
    """Current frequency and scaling_max_freq of each policy."""

    def start(self) -> None:
        """Find the policies."""
        self._gauges = [
            Gauge(path, f"cpufreq:{PurePosixPath(path).parent.name}", quantity, "khz")
            for name, quantity in (("scaling_cur_freq", "frequency"), ("scaling_max_freq", "ceiling"))
            for path in find(f"/sys/devices/system/cpu/cpufreq/policy*/{name}")
        ]

    def sample(self, mono_ns: int) -> None:
        """Read each."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)

    def stop(self) -> Sequence[pb.Reading]:
        """kHz, one reading a policy and quantity."""
        return readings(self._gauges, "cpufreq", "frequency", "khz", MISSING)


def read_once(mono_ns: int) -> list[pb.Reading]:
    """One sample of every policy."""
    meter = CpuFreq()
    meter.start()
    meter.sample(mono_ns)
    return list(meter.stop())
