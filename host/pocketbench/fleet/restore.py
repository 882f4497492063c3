"""What was changed on or around a device and has to be put back, also after this process has died.

Before a change the way back is written to a file of the user's; the next run that opens the device goes it first.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

COMMAND_S = 60.0


class CommandFailed(Exception):
    """A command of devices.yaml did not do what it should; says which and why."""


class Journal:
    """One device's way back: commands of this host's shell (`host`) and of the device's (`device`)."""

    def __init__(self, device: str) -> None:
        folder = Path(platformdirs.user_state_dir("pocketbench")) / "restore"
        self._path = folder / f"{''.join(c if c.isalnum() or c in '._-' else '_' for c in device)}.json"

    def pending(self) -> list[tuple[str, str, str]]:
        """(what, where, command) of everything that is not put back yet, the last change first."""
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))
            return [(str(what), str(where), str(command)) for what, where, command in told][::-1]
        except (OSError, ValueError, TypeError):
            return []

    def remember(self, what: str, where: str, command: str) -> None:
        """To be called before the change; the oldest way back is the right one."""
        known = self.pending()[::-1]
        if not any(one == what for one, _, _ in known):
            self._write([*known, (what, where, command)])

    def forget(self, what: str) -> None:
        """It is put back."""
        self._write([one for one in self.pending()[::-1] if one[0] != what])

    def _write(self, entries: Sequence[tuple[str, str, str]]) -> None:
        if not entries:
            self._path.unlink(missing_ok=True)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(entries), encoding="utf-8")
        fresh.replace(self._path)


def run_here(command: str, device: str, environment: Mapping[str, str] | None = None) -> None:
    """A command of devices.yaml, by this host's shell. CommandFailed names it."""
    try:
        done = subprocess.run(
            command,
            shell=True,
            capture_output=True,
            timeout=COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {}), "POCKETBENCH_DEVICE": device},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"{device}: {command!r} failed: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise CommandFailed(f"{device}: {command!r} ended with {done.returncode}: {said[-1] if said else ''}")
