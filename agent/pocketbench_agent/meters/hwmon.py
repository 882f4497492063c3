"""Power monitors below /sys/class/hwmon: INA2xx, INA3221 and their like.

https://docs.kernel.org/hwmon/sysfs-interface.html: powerN_input in microwatt, inN_input in millivolt, currN_input in
milliampere. https://docs.kernel.org/hwmon/ina3221.html: channel k is ink and currk with ink_label; in4 to in6 are shunt
voltages and no rails, in7 and curr4 sums of what is read already; the label NC says that nothing is connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent.device_info import read_text
from pocketbench_agent.meters.sysfs import Gauge, find, readings
from pocketbench_agent.rpc import agent_pb2 as pb

MISSING = "no power monitor is offered"


class Hwmon:
    """Every rail's power, or its voltage and current."""

    interval_s = 0.1

    def start(self) -> None:
        """Find the rails."""
        self._gauges: list[Gauge] = []
        for path in find("/sys/class/hwmon/hwmon*/name"):
            chip = PurePosixPath(path).parent
            name = read_text(path) or chip.name
            add = self._ina3221 if name == "ina3221" else self._powers
            add(chip, f"hwmon:{chip.name}/{name}")

    def _powers(self, chip: PurePosixPath, source: str) -> None:
        for path in find(f"/{chip}/power*_input"):
            label = read_text(path.replace("_input", "_label")) or PurePosixPath(path).name.removesuffix("_input")
            self._gauges.append(Gauge(path, f"{source}:{label}", "power", "uw"))

    def _ina3221(self, chip: PurePosixPath, source: str) -> None:
        for channel in (1, 2, 3):
            label = read_text(str(chip / f"in{channel}_label")) or f"channel{channel}"
            voltage, current = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            if label != "NC" and find(f"/{voltage}") and find(f"/{current}"):
                self._gauges.append(Gauge(str(voltage), f"{source}:{label}", "voltage", "mv"))
                self._gauges.append(Gauge(str(current), f"{source}:{label}", "current", "ma"))

    def sample(self, mono_ns: int) -> None:
        """Read each."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a rail and quantity."""
        return readings(self._gauges, "hwmon", "power", "uw", MISSING)
