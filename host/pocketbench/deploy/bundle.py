"""The bundle: a relocatable Python for devices that have none, installed here as a wheel of its own.

`make bundle` builds it (bundle/build.py); the wheel is data only, so that a host on any system can install it.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from pocketbench.errors import NotReachable


@dataclass(frozen=True)
class Bundle:
    """An installed bundle."""

    archive: Path
    sha256: str
    python: tuple[int, int, int]
    unpacked_bytes: int

    @property
    def name(self) -> str:
        """Of its folder on a device."""
        return self.sha256[:16]


def find(device: str, arch: str) -> Bundle:
    """The bundle for a processor. NotReachable says how to get it."""
    spec = importlib.util.find_spec(f"pocketbench_bundle_{arch}") if arch.isidentifier() else None
    if spec is None or spec.origin is None:
        remedy = "make bundle, then pip install its wheel" if arch == "aarch64" else "there is one for aarch64 only"
        raise NotReachable(
            f"{device}: has no Python 3.10 or newer (or 'python: bundle' asks for ours), and the bundle for {arch} is "
            f"not installed on this machine: {remedy}"
        )
    folder = Path(spec.origin).parent
    told = json.loads((folder / "bundle.json").read_text())
    major, minor, patch = (int(part) for part in told["python"].split("."))
    return Bundle(folder / "bundle.tar.gz", told["sha256"], (major, minor, patch), told["unpacked_bytes"])
