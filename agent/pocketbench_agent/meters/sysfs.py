"""Sampling small integer files of sysfs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pocketbench_agent.device_info import read_text, root
from pocketbench_agent.rpc import agent_pb2 as pb

# What fits a signed 64-bit reading; nothing that a kernel writes is longer.
_INTEGER = re.compile(r"-?[0-9]{1,18}")


@dataclass
class Gauge:
    """One file: what it holds and what was read."""

    path: str
    source: str
    quantity: str
    unit: str
    t_ns: list[int] = field(default_factory=list)
    value: list[int] = field(default_factory=list)

    def sample(self, mono_ns: int) -> None:
        """Read once; text that is no integer is skipped."""
        text = read_text(self.path)
        if text is not None and _INTEGER.fullmatch(text):
            self.t_ns.append(mono_ns)
            self.value.append(int(text))

    def reading(self) -> pb.Reading:
        """What was read, or that nothing could be."""
        missing = "" if self.value else f"{self.path} cannot be read"
        return pb.Reading(
            source=self.source,
            quantity=self.quantity,
            unit=self.unit,
            t_ns=self.t_ns,
            value=self.value,
            missing=missing,
        )


def readings(gauges: Sequence[Gauge], source: str, quantity: str, unit: str, missing: str) -> list[pb.Reading]:
    """One reading a gauge; where there is no gauge, one that says why."""
    if not gauges:
        return [pb.Reading(source=source, quantity=quantity, unit=unit, missing=missing)]
    return [gauge.reading() for gauge in gauges]


def find(pattern: str) -> list[str]:
    """Paths below the root that match, relative to it, sorted."""
    base = root()
    return sorted(str(path.relative_to(base)) for path in base.glob(pattern.lstrip("/")))
