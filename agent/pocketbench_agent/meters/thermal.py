"""Thermal zones (https://docs.kernel.org/driver-api/thermal/sysfs-api.html): millidegrees Celsius."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent import meters
from pocketbench_agent.device_info import read_text
from pocketbench_agent.meters.sysfs import Gauge, find, readings
from pocketbench_agent.rpc import agent_pb2 as pb

MISSING = "no thermal zone is offered"


class Thermal:
    """Every thermal zone's temperature."""

    interval_s = 1.0

    def start(self) -> None:
        """Find the zones."""
        self._gauges = _gauges()

    def sample(self, mono_ns: int) -> None:
        """Read each zone."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)

    def stop(self) -> Sequence[pb.Reading]:
        """Millidegrees, one reading a zone."""
        return readings(self._gauges, "thermal", "temperature", "millicelsius", MISSING)


def read_once(mono_ns: int) -> list[pb.Reading]:
    """One sample of every zone."""
    return meters.read_once("thermal", mono_ns)


def _gauges() -> list[Gauge]:
    made = []
    for path in find("/sys/class/thermal/thermal_zone*/temp"):
        zone = PurePosixPath(path).parent
        kind = read_text(str(zone / "type")) or zone.name
        made.append(Gauge(path, f"thermal:{zone.name}:{kind}", "temperature", "millicelsius"))
    return made
