"""What a driven device says of itself, as files below a folder: the root that the agent reads its sensors from.

The device's shell sends lines of `PATH:TEXT` and `.NAME:TEXT` (scripts.WATCH), and `end` after each round. Only paths
of the list below are written, each bounded; whoever sends more than any device has is not believed at all.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pocketbench.models import printable

# Below the root, and how many lines of it at most.
ONCE = {
    "getprop.txt": 2_000,
    "proc/sys/kernel/random/boot_id": 1,
    "etc/machine-id": 1,
    "etc/os-release": 400,
    "sys/class/dmi/id/product_name": 1,
    "sys/devices/soc0/machine": 1,
    "proc/device-tree/model": 1,
    "proc/device-tree/compatible": 1,
    "proc/cpuinfo": 400,
    "proc/meminfo": 400,
}
THERMAL = "sys/class/thermal"
POLICY = "sys/devices/system/cpu/cpufreq/policy[0-9]{1,4}"
AGAIN = {
    "proc/stat": 1,
    "proc/loadavg": 1,
    f"{THERMAL}/thermal_zone[0-9]{{1,4}}/(?:temp|type)": 1,
    f"{THERMAL}/cooling_device[0-9]{{1,4}}/(?:cur_state|type)": 1,
    f"{POLICY}/scaling_(?:cur_freq|max_freq|governor)": 1,
    f"{POLICY}/stats/time_in_state": 200,
}
LISTED = tuple(
    (re.compile(pattern, re.ASCII), lines)
    for pattern, lines in {**{re.escape(name): lines for name, lines in ONCE.items()}, **AGAIN}.items()
)
FACTS = "facts.txt"
NAMES = ("system", "node", "release", "machine", "df")
PROGRAM = re.compile(r"program\.(vcgencmd|dumpsys|settings|taskset)")
MAX_TEXT = 400
# Of one round: no device has more zones, policies and properties, even together.
MAX_LINES, MAX_FILES = 8_000, 2_000
END = "end"


class Nonsense(ValueError):
    """No device sends that."""


class Mirror:
    """Lines in, files out. `line` is called by one thread; `programs` are paths on the device by name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._facts: dict[str, str] = {}
        self._round: dict[str, list[str]] = {}
        self._written: dict[str, str] = {}
        self._lines = 0
        self.programs: dict[str, str] = {}

    def line(self, line: str) -> bool:
        """Take one; did it end a round, so that everything is there? Nonsense where there is no end of them."""
        text = line.rstrip("\r\n")
        if text == END:
            self._write()
            return True
        self._lines += 1
        if self._lines > MAX_LINES:
            raise Nonsense(f"it says more than {MAX_LINES} lines of itself at once")
        name, colon, told = text.partition(":")
        shown = printable(" ".join(told[:MAX_TEXT].split()))
        if not colon or not shown:
            return False
        if name.startswith("."):
            self._fact(name[1:], shown)
        elif most := allowed(name):
            kept = self._round.setdefault(name.lstrip("/"), [])
            if len(kept) < most:
                kept.append(shown)
        if len(self._round) > MAX_FILES:
            raise Nonsense(f"it has more than {MAX_FILES} sensors")
        return False

    def clear(self) -> None:
        """What it said holds no longer."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._written.clear()

    def _fact(self, name: str, told: str) -> None:
        found = PROGRAM.fullmatch(name)
        if found and told.startswith("/"):
            self.programs[found[1]] = told
        elif name in NAMES:
            self._facts[name] = told

    def _write(self) -> None:
        wanted = {name: "\n".join(lines) + "\n" for name, lines in self._round.items()}
        wanted[FACTS] = "".join(f"{name}={told}\n" for name, told in self._facts.items())
        for name, text in wanted.items():
            if self._written.get(name) != text:
                place(self._root / name, text)
        # What was there a round ago and is not now; what is told once stays.
        for name in [
            name for name in self._written if name not in wanted and name not in ONCE and not _told_once(name)
        ]:
            (self._root / name).unlink(missing_ok=True)
            del self._written[name]
        self._written |= wanted
        self._round, self._lines = {}, 0


def allowed(name: str) -> int:
    """How many lines of such a file may be kept; 0 for a path that is none of ours."""
    if not name.startswith("/"):
        return 0
    return next((lines for pattern, lines in LISTED if pattern.fullmatch(name[1:])), 0)


def place(path: Path, text: str) -> None:
    """The whole file at once: the agent reads it at any time. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(text)
    partial.replace(path)


def _told_once(name: str) -> bool:
    return name.endswith("/type")
