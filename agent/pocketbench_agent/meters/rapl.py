"""RAPL: /sys/class/powercap/intel-rapl:N (https://docs.kernel.org/power/powercap/powercap.html).

energy_uj counts microjoules and wraps at max_energy_range_uj. A package holds its core and uncore subzones
(intel-rapl:N:M), so those are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent.device_info import read_text
from pocketbench_agent.meters.sysfs import Gauge, find, readings
from pocketbench_agent.rpc import agent_pb2 as pb

MISSING = "no RAPL is offered"


class Rapl:
    """The energy counter of every top zone, and where it wraps."""

    interval_s = 0.1

    def start(self) -> None:
        """Find the zones, and where each wraps."""
        self._gauges, self._ranges = [], []
        for path in find("/sys/class/powercap/intel-rapl:*/energy_uj"):
            zone = PurePosixPath(path).parent
            if re.fullmatch(r"intel-rapl:[0-9]+", zone.name):
                source = f"rapl:{zone.name}:{read_text(str(zone / 'name')) or 'zone'}"
                self._gauges.append(Gauge(path, source, "energy", "uj"))
                self._ranges.append(Gauge(str(zone / "max_energy_range_uj"), source, "range", "uj"))
        for gauge in self._ranges:
            gauge.sample(0)

    def sample(self, mono_ns: int) -> None:
        """Read each."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a zone, and its range."""
        found = readings(self._gauges, "rapl", "energy", "uj", MISSING)
        return [*found, *(gauge.reading() for gauge in self._ranges)]
