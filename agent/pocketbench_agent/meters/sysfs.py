"""Sampling small integer files of sysfs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pocketbench_agent.device_info import root
from pocketbench_agent.rpc import agent_pb2 as pb

# What fits a signed 64-bit reading; nothing that a kernel writes is longer.
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def _read(path: str) -> str:
    """A few bytes, stripped; empty where they cannot be read. Several times a second: no object more than needed."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(file, 64).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(file)


@dataclass
class Gauge:
    """One file: what it holds and what was read."""

    path: str
    source: str
    quantity: str
    unit: str
    t_ns: list[int] = field(default_factory=list)
    value: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._whole = str(root() / self.path.lstrip("/"))

    def sample(self, mono_ns: int) -> None:
        """Read once; text that is no integer is skipped."""
        text = _read(self._whole)
        if _INTEGER.fullmatch(text):
            self.t_ns.append(mono_ns)
            self.value.append(int(text))

    def reading(self) -> pb.Reading:
        """What was read, or that nothing could be."""
        missing = "" if self.value else why_missing(self.path)
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


def why_missing(path: str) -> str:
    """In words, for a file that gave no number."""
    try:
        text = (root() / path.lstrip("/")).read_text(errors="replace").strip()
    except PermissionError:
        return f"{path} cannot be read: permission denied (needs root, or a udev rule that lets this user read it)"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return f"{path} cannot be read as a number: {text[:40]!r}"


def micro(text: str) -> int | None:
    """A decimal number of at most nine digits before its point, in millionths; None for anything else."""
    match = re.fullmatch(r"(-?)([0-9]{1,9})(?:\.([0-9]+))?", text)
    if match is None:
        return None
    value = int(match[2]) * 1_000_000 + int((match[3] or "0")[:6].ljust(6, "0"))
    return -value if match[1] else value


@dataclass
class Series:
    """Values that come many at a time, each under a name of its own."""

    found: dict[tuple[str, str, str], tuple[list[int], list[int]]] = field(default_factory=dict)

    def add(self, source: str, quantity: str, unit: str, t_ns: int, value: int | None) -> None:
        """One value; None is skipped."""
        if value is not None and abs(value) < 2**63:
            times, values = self.found.setdefault((source, quantity, unit), ([], []))
            times.append(t_ns)
            values.append(value)

    def readings(self) -> list[pb.Reading]:
        """One a name."""
        return [
            pb.Reading(source=source, quantity=quantity, unit=unit, t_ns=times, value=values)
            for (source, quantity, unit), (times, values) in self.found.items()
        ]
