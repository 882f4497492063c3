"""Programs of the device that tell what no file does: vcgencmd, dumpsys, settings."""

from __future__ import annotations

import subprocess

from pocketbench_agent import driven
from pocketbench_agent.device_info import root
from pocketbench_agent.errors import LinkGone

FOLDERS = ("usr/bin", "opt/vc/bin", "bin", "system/bin", "usr/local/bin")
TIMEOUT_S = 2.0


def find(name: str) -> str | None:
    """The program below the root; None where the device has none."""
    link = driven.link()
    if link is not None:
        return link.programs.get(name)
    found = (root() / folder / name for folder in FOLDERS)
    return next((str(path) for path in found if path.is_file()), None)


def ask(program: str, *arguments: str) -> str:
    """What it prints; empty where it fails or hangs."""
    link = driven.link()
    if link is not None:
        try:
            return driven.ask(link, program, *arguments)
        except LinkGone:
            return ""
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
