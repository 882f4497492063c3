"""Transports: how a device is reached. One Protocol, found through a literal table."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import NotReachable

TRANSPORTS: Mapping[str, str] = {
    "local": "pocketbench.transports.local:Local",
    "ssh": "pocketbench.transports.ssh:Ssh",
    "adb": "pocketbench.transports.adb:Adb",
}


# What a command prints is kept whole: one that prints more is ended, for a device could fill this machine's memory.
MOST_OUTPUT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Completed:
    """A command that ended on the device."""

    code: int
    stdout: bytes
    stderr: bytes


class Spawned(Protocol):
    """A process on the device that outlives the call that started it."""

    def read_line(self, timeout_s: float) -> str:
        """The next line of its stdout, with its line feed; empty at the end. NotReachable after the timeout."""

    def log_tail(self) -> str:
        """The last lines of its stderr, for when something went wrong."""

    def end(self) -> None:
        """Ask it to end, wait a little, then make it."""


Sent = Callable[[int], None]


def unheard(so_far: int) -> None:
    """Where nobody wants to know how far it is."""


class Transport(Protocol):
    """A way to a device. Every method may raise NotReachable or DeviceLost with the device's name."""

    def open(self) -> None:
        """Connect."""

    def push(self, source: Path, target: str, sent: Sent = unheard) -> None:
        """Copy a file to the device; `sent` is told the bytes so far, now and then."""

    def run(self, command: Sequence[str], timeout_s: float) -> Completed:
        """Run a command to its end. NotReachable: it does not end in time, or prints more than MOST_OUTPUT_BYTES."""

    def spawn(self, command: Sequence[str], first_line: str) -> Spawned:
        """Start a process and write one line to its stdin, which stays open."""

    def forward(self, port: int) -> str:
        """A `host:port` on this machine that leads to the device's loopback port."""

    def close(self) -> None:
        """Give everything back."""


def create(name: str, entry: DeviceEntry) -> Transport:
    """The transport of a device. NotReachable where this version has none of that name."""
    target = TRANSPORTS.get(entry.transport)
    if target is None:
        raise NotReachable(f"{name}: this version cannot reach devices over {entry.transport}")
    module, _, attribute = target.partition(":")
    made: Transport = getattr(importlib.import_module(module), attribute)(name, entry)
    return made
