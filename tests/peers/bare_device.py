"""A device that has a shell and toybox, and no Python: its path, and what it says of itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

TOYBOX, MKSH = shutil.which("toybox"), shutil.which("mksh")
PROPERTIES = "[ro.product.manufacturer]: [Acme]\n[ro.product.model]: [Phone 3]\n[ro.build.version.release]: [9]\n"
# Nothing of it is this machine's.
FACTS: Mapping[str, str] = {
    "proc/sys/kernel/random/boot_id": "11111111-2222-4333-8444-555555555555\n",
    "proc/sys/kernel/hostname": "acme\n",
    "proc/sys/kernel/osrelease": "4.9.186-acme\n",
    "proc/cpuinfo": "".join(f"processor\t: {n}\n" for n in range(3)) + "Hardware\t: Acme X1\n",
    "proc/meminfo": "MemTotal:        3000000 kB\n",
    "proc/stat": "cpu  100 0 50 1000 0 0 0 0 0 0\ncpu0 25 0 12 250 0 0 0 0 0 0\n",
    "proc/loadavg": "7.25 1.00 0.50 1/100 4242\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-acme\n",
    "sys/class/thermal/thermal_zone0/temp": "41500\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1234000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1456000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "acmegov\n",
    "getprop.txt": PROPERTIES,
}


def programs(folder: Path) -> Path:
    """toybox by all its names, and mksh as `sh`: all that there is on the path."""
    assert TOYBOX is not None and MKSH is not None
    folder.mkdir(parents=True)
    for name in subprocess.run([TOYBOX], capture_output=True, text=True, check=True, timeout=10).stdout.split():
        (folder / name).symlink_to(TOYBOX)
    (folder / "sh").symlink_to(MKSH)
    return folder


def root(folder: Path, **more: str) -> Path:
    """A tree of what its kernel shows."""
    for name, text in {**FACTS, **more}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    # Its battery saver is on.
    program = folder / "system" / "bin" / "settings"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\n[ "$*" = "get global low_power" ] && echo 1\n')
    program.chmod(0o755)
    return folder
