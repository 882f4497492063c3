"""What Android tells through dumpsys and settings. Formats as AOSP prints them; not seen on a phone yet.

`dumpsys battery`: `voltage:` in millivolt, `Charge counter:` in microampere hours, `status:` 1 to 5 (BatteryManager),
`AC powered: true`. `dumpsys thermalservice`: `Thermal Status: 0` to 6 (PowerManager.THERMAL_STATUS_*).
`dumpsys powerstats`: `ChannelId: 10, ChannelName: S9S_VDD_AOC, …`, and where a build prints measurements,
`ChannelId: 10, Timestamp (ms): …, Energy (uWs): …`.
`dumpsys meminfo PID`: rows by name, kB, whose first column is Pss in every version (Android 11 put Rss beside it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pocketbench_agent import device_info
from pocketbench_agent.meters import tools
from pocketbench_agent.meters.sysfs import Series
from pocketbench_agent.rpc import agent_pb2 as pb

PROGRAM = "dumpsys"
MISSING = "no dumpsys is offered"
# BatteryManager.BATTERY_STATUS_* counts from 1 for unknown; the kernel's numbers, which the host knows, from 0.
BATTERY = (
    (r"^\s*voltage: (\d{1,7})\s*$", "battery:dumpsys", "voltage", "mv"),
    (r"^\s*Charge counter: (-?\d{1,12})\s*$", "battery:dumpsys", "charge", "uah"),
)
# Cpusets of what nobody looks at (AOSP's task_profiles.json): some of the cores, mostly the little ones.
BACKGROUND = ("/background", "/system-background", "/restricted")
SUPPLY = re.compile(r"^\s*(AC|USB|Wireless|Dock) powered: (true|false)\s*$", re.MULTILINE)


class _Dumpsys:
    """A meter that asks dumpsys; it costs the system server some milliseconds, hence the long intervals."""

    interval_s = 10.0
    missing = ""

    def start(self) -> None:
        """Find the program."""
        self._program, self._series = tools.find(PROGRAM), Series()

    def stop(self) -> Sequence[pb.Reading]:
        """What came."""
        missing = self.missing if self._program else MISSING
        return self._series.readings() or [pb.Reading(source="dumpsys", quantity="power", missing=missing)]


class Android(_Dumpsys):
    """Thermal status, and once whether the battery saver is on and whether we run in the background."""

    missing = "dumpsys thermalservice tells no status"
    _asked = False

    def sample(self, mono_ns: int) -> None:
        """Read once."""
        if self._program:
            self._series.add("android", "thermal_status", "status", mono_ns, parse_thermal(_ask("thermalservice")))
        if not self._asked and device_info.read_text("/proc/self/cpuset") in BACKGROUND:
            self._series.add("android", "background", "flag", mono_ns, 1)
        settings = None if self._asked else tools.find("settings")
        self._asked = True
        if settings:
            saver = tools.ask(settings, "get", "global", "low_power").strip()
            self._series.add("android", "battery_saver", "flag", mono_ns, int(saver) if saver in ("0", "1") else None)


class AndroidBattery(_Dumpsys):
    """The battery, where sysfs does not tell of it."""

    interval_s = 2.0
    missing = "dumpsys battery tells nothing"

    def sample(self, mono_ns: int) -> None:
        """Read once."""
        for source, quantity, unit, value in parse_battery(_ask("battery")) if self._program else ():
            self._series.add(source, quantity, unit, mono_ns, value)


class PowerStats(_Dumpsys):
    """The rails' energy counters, where the build prints them."""

    interval_s = 2.0
    missing = "dumpsys powerstats prints no energy"

    def sample(self, mono_ns: int) -> None:
        """Read once."""
        for channel, uws in parse_powerstats(_ask("powerstats")).items() if self._program else ():
            self._series.add(f"powerstats:{channel}", "energy", "uws", mono_ns, uws)


def parse_thermal(text: str) -> int | None:
    """The status; None where it is not told."""
    match = re.search(r"^Thermal Status: ([0-6])\s*$", text, re.MULTILINE)
    return int(match[1]) if match else None


def parse_battery(text: str) -> list[tuple[str, str, str, int]]:
    """(source, quantity, unit, value) of what is told."""
    found = []
    for pattern, source, quantity, unit in BATTERY:
        match = re.search(pattern, text, re.MULTILINE | re.ASCII)
        if match:
            found.append((source, quantity, unit, int(match[1])))
    status = re.search(r"^\s*status: ([1-5])\s*$", text, re.MULTILINE)
    if status:
        found.append(("battery:dumpsys", "status", "status", int(status[1]) - 1))
    found += [(f"supply:{name}", "online", "flag", int(on == "true")) for name, on in SUPPLY.findall(text)]
    return found


def parse_powerstats(text: str) -> dict[str, int]:
    """Microwatt seconds of each named channel; the newest where one is told several times."""
    names = dict(re.findall(r"ChannelId: (\d{1,6}), ChannelName: ([^,\s]{1,60})", text, re.ASCII))
    told = re.findall(r"ChannelId: (\d{1,6}), Timestamp \(ms\): \d+,.{0,60}?Energy \(uWs\): (\d{1,18})", text, re.ASCII)
    return {names[channel]: int(uws) for channel, uws in told if channel in names}


def parse_graphics(text: str) -> int | None:
    """Bytes that drivers hold for the process (the mtrack rows and Gfx dev); None where there is no such row."""
    rows = re.findall(r"^[ \t]+(?:GL mtrack|EGL mtrack|Gfx dev)[ \t]+(\d{1,9})\b", text, re.MULTILINE | re.ASCII)
    return 1024 * sum(map(int, rows)) if rows else None


def graphics_bytes(pid: int) -> int | None:
    """What drivers hold for that process; None where there is no Android to ask."""
    return parse_graphics(_ask("meminfo", str(pid)))


def _ask(service: str, *arguments: str) -> str:
    program = tools.find(PROGRAM)
    return tools.ask(program, service, *arguments) if program else ""
