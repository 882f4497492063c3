"""Shared libraries that a user sends: what can be told of one before it is loaded."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from pocketbench_agent.device_info import machine
from pocketbench_agent.errors import StageError

# ELF's e_machine (elf(5)).
MACHINES = {3: "i386", 40: "arm (32 bits)", 62: "x86_64", 164: "hexagon", 183: "aarch64", 243: "riscv64"}


def check(path: Path, kind: str = "shared library") -> None:
    """StageError where the loader would refuse it; its own words for a wrong processor are 'no such file'."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        raise StageError(f"{path.name} is not a {kind}")
    (number,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
    made_for = MACHINES.get(number, f"processor {number}")
    # The same processor has several names where it has 32 bits: armv7l, armv8l, i686.
    this = re.sub(r"^i[3-6]86$", MACHINES[3], re.sub(r"^armv\w+$", MACHINES[40], machine()))
    if made_for != this:
        raise StageError(f"{path.name} is made for {made_for}, and this device is {this}")
