"""Batteries and supplies below /sys/class/power_supply.

The kernel's ABI (Documentation/ABI/testing/sysfs-class-power): current_now in microampere, negative while discharging;
voltage_now in microvolt; charge_now in microampere hours; energy_now in microwatt hours; power_now in microwatt.
Vendors differ in sign and unit, so what is sent is what the file holds, and the host decides what it means. The same
file names below a USB supply speak of the bus and not of the battery: of other supplies only `online` is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent.device_info import read_text
from pocketbench_agent.meters.sysfs import Gauge, Series, find, readings
from pocketbench_agent.rpc import agent_pb2 as pb

MISSING = "no battery is offered"
FILES = {
    "current_now": ("current", "ua"),
    "voltage_now": ("voltage", "uv"),
    "charge_now": ("charge", "uah"),
    "charge_counter": ("charge", "uah"),
    "energy_now": ("energy", "uwh"),
    "power_now": ("power", "uw"),
}
# The kernel's own numbers (include/linux/power_supply.h).
STATUS = {"Unknown": 0, "Charging": 1, "Discharging": 2, "Not charging": 3, "Full": 4}


class Battery:
    """What every system battery holds, and whether anything feeds it."""

    interval_s = 0.1

    def start(self) -> None:
        """Find them."""
        self._gauges: list[Gauge] = []
        self._status: list[tuple[str, str]] = []
        self._series = Series()
        for path in find("/sys/class/power_supply/*/type"):
            supply = PurePosixPath(path).parent
            if read_text(path) != "Battery":
                self._gauges += [Gauge(p, f"supply:{supply.name}", "online", "flag") for p in find(f"/{supply}/online")]
            elif read_text(str(supply / "scope")) != "Device":
                # The scope of a mouse's battery is Device.
                self._add(supply)

    def _add(self, supply: PurePosixPath) -> None:
        source, taken = f"battery:{supply.name}", set()
        for name, (quantity, unit) in FILES.items():
            if find(f"/{supply / name}") and quantity not in taken:
                taken.add(quantity)
                self._gauges.append(Gauge(str(supply / name), source, quantity, unit))
        self._status.append((source, str(supply / "status")))

    def sample(self, mono_ns: int) -> None:
        """Read each."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)
        for source, path in self._status:
            self._series.add(source, "status", "status", mono_ns, STATUS.get(read_text(path) or ""))

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a supply and quantity."""
        if not self._status:
            return [pb.Reading(source="battery", quantity="power", missing=MISSING)]
        return [*readings(self._gauges, "battery", "power", "uw", MISSING), *self._series.readings()]
