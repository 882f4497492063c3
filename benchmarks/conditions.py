"""Under which conditions a benchmark ran, in one line: half of what its numbers mean."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def conditions(distributions: Sequence[str]) -> str:
    """CPU, load, stolen time and versions."""
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ":")
    stolen = Path("/proc/stat").read_text().split()[8]
    versions = ", ".join(f"{name} {version(name)}" for name in distributions)
    return (
        f"{cpu.partition(':')[2].strip()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}, "
        f"stolen ticks since boot {stolen}; Python {platform.python_version()}, {versions}"
    )
