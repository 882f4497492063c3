"""Shared libraries that a user sends: what can be told of one before it is loaded."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

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
    if made_for != platform.machine():
        raise StageError(f"{path.name} is made for {made_for}, and this device is {platform.machine()}")
