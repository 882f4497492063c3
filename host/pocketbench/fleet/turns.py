"""Turns: what lanes on one machine start, they start one after the other.

A worker takes a core for a third of a second to start. Lanes that begin together stay in step: a fair scheduler lets
all of them finish late, round after round. With as many places as cores they fall out of step in the first round, and
hardly ever wait after it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

POLL_S = 0.2


class Turns:
    """So many at a time; without a number, everybody at once."""

    def __init__(self, places: int | None = None) -> None:
        self._places = threading.BoundedSemaphore(places) if places else None

    @contextlib.contextmanager
    def taken(self, stop: threading.Event) -> Iterator[Callable[[], None]]:
        """A turn, given back by the function that this gives, at the latest at the end; none once `stop` is set."""
        held = self._places is not None and self._wait(stop)
        lock = threading.Lock()

        def give_back() -> None:
            nonlocal held
            with lock:
                if held and self._places is not None:
                    held = False
                    self._places.release()

        try:
            yield give_back
        finally:
            give_back()

    def _wait(self, stop: threading.Event) -> bool:
        assert self._places is not None
        while not self._places.acquire(timeout=POLL_S):
            if stop.is_set():
                return False
        return True
