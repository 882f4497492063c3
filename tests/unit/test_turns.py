"""Turns: so many at once, given back early or at the end, and no waiting for a run that is stopped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest

from pocketbench.fleet import turns
from pocketbench.fleet.turns import Turns


@pytest.mark.parametrize(("places", "most"), [(2, 2), (None, 6)])
def test_only_so_many_at_once(places: int | None, most: int) -> None:
    made, stop, lock = Turns(places), threading.Event(), threading.Lock()
    barrier = threading.Barrier(6)
    now, seen = 0, [0]

    def start(_: int) -> None:
        nonlocal now
        barrier.wait()
        with made.taken(stop):
            with lock:
                now += 1
                seen.append(now)
            sleep(0.05)
            with lock:
                now -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    assert max(seen) == most


def test_a_turn_given_back_early_is_given_back_once() -> None:
    made, stop = Turns(1), threading.Event()
    with made.taken(stop) as first:
        first()
        with made.taken(stop) as second:
            first()
            second()
        first()
    with made.taken(stop):
        pass


def test_a_stopped_run_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "POLL_S", 0.01)
    made, stop = Turns(1), threading.Event()
    stop.set()
    with made.taken(threading.Event()), made.taken(stop) as late:
        late()
    with made.taken(stop):
        pass
