"""Wall plugs with a power meter and an HTTP interface: Shelly (second generation and newer) and Tasmota.

Shelly: `GET /rpc/Switch.GetStatus?id=0` answers {"apower": watts, …}. Tasmota: `GET /cm?cmnd=Status%208` answers
{"StatusSNS": {"ENERGY": {"Power": watts, …}}}; with several channels, Power is a list. Written after their published
formats; not seen on hardware here. A plug measures what the supply draws from the wall, losses included.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from pocketbench.measurement import Reading
from pocketbench.meters import MeterError

INTERVAL_S = 0.2
TIMEOUT_S = 2.0


class HttpPlug:
    """Asked again and again for its power until it is stopped; an answer that is no number leaves a gap."""

    name = "plug"
    path = ""

    def __init__(self, address: str) -> None:
        self._url = (address if "://" in address else f"http://{address}").rstrip("/") + self.path
        self._ended = threading.Event()
        self._t_ns: list[int] = []
        self._microwatts: list[int] = []
        self._bound_ns = 0
        self._failed = ""
        self._thread = threading.Thread(target=self._poll, name=f"{self.name}-meter", daemon=True)

    def start(self) -> None:
        """Ask once, then go on in a thread."""
        self._ask()
        if not self._t_ns:
            raise MeterError(f"the meter at {self._url} tells no power: {self._failed}")
        self._thread.start()

    def stop(self) -> tuple[Sequence[Reading], int]:
        """Its watts as microwatts."""
        self._ended.set()
        self._thread.join(2 * TIMEOUT_S)
        reading = Reading(f"{self.name}:plug", "power", "uw", tuple(self._t_ns), tuple(self._microwatts))
        return (reading,), self._bound_ns

    def power_w(self, answer: Any) -> float:
        """Watts from the answer; KeyError, TypeError or ValueError where it tells none."""
        raise NotImplementedError

    def _poll(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self._ask()

    def _ask(self) -> None:
        sent = time.perf_counter_ns()
        try:
            with urllib.request.urlopen(self._url, timeout=TIMEOUT_S) as answer:
                microwatts = round(self.power_w(json.loads(answer.read(65536))) * 1e6)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, OverflowError) as error:
            self._failed = str(error) or type(error).__name__
            return
        half = (time.perf_counter_ns() - sent) // 2
        self._bound_ns = max(self._bound_ns, half)
        self._t_ns.append(sent + half)
        self._microwatts.append(microwatts)


class Shelly(HttpPlug):
    """A Shelly switch with a meter."""

    name = "shelly"
    path = "/rpc/Switch.GetStatus?id=0"

    def power_w(self, answer: Any) -> float:
        """Of its first switch."""
        return float(answer["apower"])


class Tasmota(HttpPlug):
    """A plug with Tasmota."""

    name = "tasmota"
    path = "/cm?cmnd=Status%208"

    def power_w(self, answer: Any) -> float:
        """Of its first channel."""
        watts = answer["StatusSNS"]["ENERGY"]["Power"]
        return float(watts[0] if isinstance(watts, list) else watts)
