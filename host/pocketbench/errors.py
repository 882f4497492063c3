"""Everything that can go wrong, as one tree.

PocketbenchError
├── UsageError          exit 2: what was asked cannot be done; found before anything runs
│   └── ConfigError     a file of ours (devices.yaml) is wrong; names file and line
├── StoreError          exit 2: the results store cannot be used
└── DeviceError         ends cases, not the run
    ├── NotReachable    never reached: the cases are SKIPPED
    ├── DeviceBusy      somebody else holds it: SKIPPED
    ├── Quarantined     barred after too many faults: SKIPPED
    └── DeviceLost      gone after the session opened: LOST
        └── LeaseLost   by this host, which stood still: it may be somebody else's by now
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PocketbenchError(Exception):
    """The message says what failed, on which device, and what to do next."""

    exit_code = 2


class UsageError(PocketbenchError):
    """Wrong options or files, found before anything runs."""


class ConfigError(UsageError):
    """A configuration file is wrong."""


class StoreError(PocketbenchError):
    """The store cannot be opened, read or written."""


class DeviceError(PocketbenchError):
    """Something about one device."""

    exit_code = 3


class NotReachable(DeviceError):
    """The device, or what runs on it, could not be reached at all.

    `state` is the word for it in a list of devices; `host_key` the key that an unknown SSH server showed.
    """

    def __init__(self, message: str, state: str = "unreachable", host_key: str = "") -> None:
        super().__init__(message)
        self.state, self.host_key = state, host_key


class DeviceBusy(DeviceError):
    """Another owner has the lease; `holder` is who, where that is known."""

    def __init__(self, message: str, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class Quarantined(DeviceError):
    """Too many faults, and no health checks passed since."""


class DeviceLost(DeviceError):
    """The device or the link was lost after the session had opened."""


class LeaseLost(DeviceLost):
    """The lease ended while this host stood still; whoever opens the device anew sees who has it now."""


def overtaken(device: str) -> DeviceBusy:
    """Of a host whose lease has ended: it may neither measure nor store any more."""
    return DeviceBusy(f"{device}: the lease ended while this host stood still, and somebody else took it")


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' where one of the known words is near, else an empty string."""
    found = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
