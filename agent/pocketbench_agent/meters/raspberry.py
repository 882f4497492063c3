"""What a Raspberry Pi's firmware tells through vcgencmd.

`pmic_read_adc` (Raspberry Pi 5): lines such as `VDD_CORE_A current(7)=0.57152000A` and `VDD_CORE_V volt(15)=0.87…V`.
EXT5V and BATT have a voltage only, so the sum over the rails stays below what the wall delivers.
`get_throttled`: `throttled=0x50005`; bits 0 to 3 hold now, 16 to 19 have held since boot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pocketbench_agent.meters import tools
from pocketbench_agent.meters.sysfs import Series, micro
from pocketbench_agent.rpc import agent_pb2 as pb

PROGRAM = "vcgencmd"
MISSING = "no vcgencmd is offered"
RAIL = re.compile(r"(\w{1,40})_(A|V) (?:current|volt)\([0-9]+\)=(-?[0-9.]{1,20})(A|V)", re.ASCII)


class Pmic:
    """Current and voltage of every rail that has both."""

    interval_s = 0.5

    def start(self) -> None:
        """Find the program."""
        self._program, self._series = tools.find(PROGRAM), Series()

    def sample(self, mono_ns: int) -> None:
        """Read all rails at once."""
        rails = parse_adc(tools.ask(self._program, "pmic_read_adc")) if self._program else {}
        for rail, (current_ua, voltage_uv) in rails.items():
            self._series.add(f"pmic:{rail}", "current", "ua", mono_ns, current_ua)
            self._series.add(f"pmic:{rail}", "voltage", "uv", mono_ns, voltage_uv)

    def stop(self) -> Sequence[pb.Reading]:
        """One reading a rail and quantity."""
        missing = "vcgencmd pmic_read_adc names no rail" if self._program else MISSING
        return self._series.readings() or [pb.Reading(source="pmic", quantity="power", missing=missing)]


class Throttled:
    """The bits of get_throttled."""

    interval_s = 1.0

    def start(self) -> None:
        """Find the program."""
        self._program, self._series = tools.find(PROGRAM), Series()

    def sample(self, mono_ns: int) -> None:
        """Read once."""
        if self._program:
            bits = parse_throttled(tools.ask(self._program, "get_throttled"))
            self._series.add("raspberry", "throttled", "bits", mono_ns, bits)

    def stop(self) -> Sequence[pb.Reading]:
        """One reading."""
        missing = "vcgencmd get_throttled does not answer" if self._program else MISSING
        return self._series.readings() or [pb.Reading(source="raspberry", quantity="throttled", missing=missing)]


def parse_adc(text: str) -> dict[str, tuple[int, int]]:
    """(microampere, microvolt) of every rail that has both."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        match = RAIL.fullmatch(line.strip())
        value = micro(match[3]) if match and match[2] == match[4] else None
        if match and value is not None:
            found.setdefault(match[1], {})[match[2]] = value
    return {rail: (both["A"], both["V"]) for rail, both in found.items() if len(both) == 2}


def parse_throttled(text: str) -> int | None:
    """The bits; None where it is no such line."""
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text.strip())
    return int(match[1], 16) if match else None
