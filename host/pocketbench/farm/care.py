"""A host's devices that are quarantined: power-cycled once, then checked until they are well again."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping

from pocketbench.config.devices import DeviceEntry
from pocketbench.devices import health as checks
from pocketbench.devices.condition import QUARANTINED, Condition
from pocketbench.errors import StoreError
from pocketbench.store import health
from pocketbench.store.store import Store

# Between two checks of a device; and how long a power cycle may take, and the device to start.
CHECK_S = 600.0
CYCLE_S = 60.0
START_S = 60.0


class Care:
    """Of one worker's devices."""

    def __init__(self, store: Store, entries: Mapping[str, DeviceEntry], say: Callable[[str], None]) -> None:
        self._store, self._entries, self._say = store, entries, say
        self._checked: dict[str, float] = {}

    def quarantined(self) -> Mapping[str, Condition]:
        """Those that are; empty while the store is away."""
        with contextlib.suppress(StoreError):
            found = {name: health.condition_of(self._store, name) for name in self._entries}
            return {name: one for name, one in found.items() if one.state == QUARANTINED}
        return {}

    def due(self, name: str) -> bool:
        """Is it time to check it?"""
        return time.monotonic() - self._checked.get(name, -CHECK_S) >= CHECK_S

    def check(self, name: str) -> None:
        """In a quarantine for the first time: with its power taken away and given back before. The second check follows
        the first one that is passed at once.
        """
        entry = self._entries[name]
        first = name not in self._checked
        # Before all else: whatever goes wrong from here on, the power is not cycled again at the next look.
        self._checked[name] = time.monotonic()
        if first and entry.power_cycle:
            self._cycle(name, entry.power_cycle)
        for _ in range(2):
            wrong = [one for one in checks.check(name, entry, self._store, self._say) if one.verdict == "failed"]
            self._checked[name] = time.monotonic()
            with contextlib.suppress(StoreError):
                checks.keep(name, wrong, self._store)
            if wrong:
                self._say(f"{name}: is quarantined, and its check failed: {wrong[0].check}: {wrong[0].text}")
                return
        self._say(f"{name}: passed two checks: is measured again")
        del self._checked[name]

    def _cycle(self, name: str, command: tuple[str, ...]) -> None:
        self._say(f"{name}: is quarantined: its power is cycled ({command[0]})")
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CYCLE_S, check=False, text=True
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [""])[-1]
                self._say(f"{name}: power_cycle ended with code {done.returncode}: {last}")
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            self._say(f"{name}: power_cycle could not be run: {error}")
            return
        time.sleep(START_S)
