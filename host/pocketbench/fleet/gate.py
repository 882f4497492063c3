"""The gate before each process: wait until the device is as cool and as quiet as it was at the start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from pocketbench.measurement import Observation
from pocketbench.verdict import heat

WINDOW_S = 0.1
MARGIN_MILLICELSIUS = 3_000
HEAT_WAIT_S = 300.0
POLL_S = 2.0
# Without a sensor: long enough for turbo budgets and page caches to settle, short enough for a whole matrix.
REST_S = 0.5
BUSY_MILLICORES = 500
LOAD_WAIT_S = 30.0


@dataclass(frozen=True)
class Passed:
    """How a process was let through."""

    hot_start: bool
    boot_id: str


class Gate:
    """One device's gate; its idle baseline is what it sees first.

    Without `wait_for_load` it waits for heat alone.
    """

    def __init__(
        self,
        observe: Callable[[float], Observation],
        cooldown_s: float | None,
        stop: Event,
        wait_for_load: bool = True,
        say: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._observe, self._cooldown_s, self._stop, self._say = observe, cooldown_s, stop, say
        first = observe(WINDOW_S)
        self._baseline = heat.hottest(first.readings)
        load = first.values("load_avg")
        self.load_avg = load[0] / 1000 if load else None
        self._load_budget_s = LOAD_WAIT_S if wait_for_load else 0.0

    @property
    def has_sensor(self) -> bool:
        """Can heat be seen here?"""
        return self._baseline is not None

    def wait(self) -> Passed:
        """Wait for heat (300 s a process at most) and load (30 s a session at most); a given cooldown replaces both."""
        if self._cooldown_s is not None:
            self._stop.wait(self._cooldown_s)
            return Passed(False, self._observe(0.0).boot_id)
        if not self.has_sensor:
            self._stop.wait(REST_S)
        begin, told = time.monotonic(), False
        while True:
            seen = self._observe(WINDOW_S)
            hot = self._hot(seen)
            if self._stop.is_set() or not (hot or self._busy(seen)):
                return Passed(False, seen.boot_id)
            if hot and time.monotonic() - begin > HEAT_WAIT_S:
                return Passed(True, seen.boot_id)
            if not told:
                told = True
                self._say(self._why(seen))
            if not hot:
                self._load_budget_s -= POLL_S
            self._stop.wait(POLL_S)

    def _why(self, seen: Observation) -> str:
        if self._hot(seen):
            now, idle = (heat.hottest(seen.readings) or 0) / 1000, (self._baseline or 0) / 1000
            return f"waits to cool down, {HEAT_WAIT_S:.0f} s at most: {now:.0f} degrees, {idle:.0f} when it was idle"
        return f"waits for other load to end, {self._load_budget_s:.0f} s at most"

    def _hot(self, seen: Observation) -> bool:
        temperature = heat.hottest(seen.readings)
        if temperature is None or self._baseline is None:
            return False
        return temperature > self._baseline + MARGIN_MILLICELSIUS

    def _busy(self, seen: Observation) -> bool:
        busy = seen.values("busy")
        return bool(busy) and busy[0] > BUSY_MILLICORES and self._load_budget_s > 0
