"""Cooling devices (https://docs.kernel.org/driver-api/thermal/sysfs-api.html): cur_state 0 is no cooling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent.device_info import read_text
from pocketbench_agent.meters.sysfs import Gauge, find, readings
from pocketbench_agent.rpc import agent_pb2 as pb

MISSING = "no cooling device is offered"


class Cooling:
    """The state of every cooling device, fans among them."""

    interval_s = 1.0

    def start(self) -> None:
        """Find them."""
        self._gauges = []
        for path in find("/sys/class/thermal/cooling_device*/cur_state"):
            device = PurePosixPath(path).parent
            kind = read_text(str(device / "type")) or device.name
            self._gauges.append(Gauge(path, f"cooling:{device.name}:{kind}", "state", "state"))

    def sample(self, mono_ns: int) -> None:
        """Read each."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a device."""
        return readings(self._gauges, "cooling", "state", "state", MISSING)
