"""Power meters below /sys/bus/iio/devices.

ODPM (Pixel 6 and newer): `energy_value` has a line `t=473848` and one a rail,
`CH1(T=473848)[VSYS_PWR_MODEM], 48480309`: T in milliseconds since boot, the value in microwatt seconds and only rising.
Device numbers are not fixed.
Jetson with JetPack 4 (INA3221 as IIO device): `rail_name_N` and `in_powerN_input` in milliwatt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from pocketbench_agent.device_info import clocks, read_text
from pocketbench_agent.meters.sysfs import Gauge, Series, find, readings, why_missing
from pocketbench_agent.rpc import agent_pb2 as pb

MS = 1_000_000
LINE = re.compile(r"CH[0-9]+\(T=([0-9]{1,15})\)\[([^\]]{1,60})\], ([0-9]{1,18})", re.ASCII)


class Odpm:
    """The energy counter of every rail, with the time that the sensor itself gives."""

    interval_s = 0.2

    def start(self) -> None:
        """Find the devices."""
        self._paths = find("/sys/bus/iio/devices/iio:device*/energy_value")
        self._series = Series()
        self._seen: dict[str, int] = {}

    def sample(self, mono_ns: int) -> None:
        """Read each; a rail whose time has not moved has nothing new to say."""
        now = clocks()
        ahead_ns = (now.boottime_ns or now.mono_ns) - now.mono_ns
        for path in self._paths:
            device = PurePosixPath(path).parent.name
            for t_ms, rail, uws in LINE.findall(read_text(path) or ""):
                source, taken_ns = f"odpm:{device}:{rail}", int(t_ms) * MS - ahead_ns
                if taken_ns > mono_ns + 1000 * MS:
                    # Not this boot's clock: then the moment of reading is the best there is.
                    taken_ns = mono_ns
                if self._seen.get(source, -1) < taken_ns:
                    self._seen[source] = taken_ns
                    self._series.add(source, "energy", "uws", taken_ns, int(uws))

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a rail."""
        found = self._series.readings()
        if found:
            return found
        missing = why_missing(self._paths[0]) if self._paths else "no ODPM is offered"
        return [pb.Reading(source="odpm", quantity="energy", unit="uws", missing=missing)]


class Ina:
    """Every named rail's power."""

    interval_s = 0.1

    def start(self) -> None:
        """Find the rails."""
        self._gauges = []
        for path in find("/sys/bus/iio/devices/iio:device*/in_power*_input"):
            number = re.sub(r"\D", "", PurePosixPath(path).name)
            device = PurePosixPath(path).parent
            label = read_text(str(device / f"rail_name_{number}"))
            if label and label != "NC":
                self._gauges.append(Gauge(path, f"iio:{device.name}:{label}", "power", "mw"))

    def sample(self, mono_ns: int) -> None:
        """Read each."""
        for gauge in self._gauges:
            gauge.sample(mono_ns)

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a rail."""
        return readings(self._gauges, "iio", "power", "mw", "no INA below iio is offered")
