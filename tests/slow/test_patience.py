"""Links that are silent for minutes, devices that vanish or hang, a host that stands still.

All of it happens at once, and while the other tests run: see `stories`.
"""

from __future__ import annotations

import re
import statistics
import time
from concurrent.futures import Future

import pytest

from pocketbench.fleet.link import RETURN_S
from tests.slow.links import needs_root
from tests.slow.stories import ATTEMPT_S, HOLE_S, NOTICED_S, Told

pytestmark = [needs_root, pytest.mark.timeout(600)]
GAP_S = 1.0


@pytest.mark.parametrize("way", ["ssh", "adb"])
def test_a_link_that_is_silent_for_two_minutes(stories: dict[str, Future[Told]], way: str) -> None:
    """The job runs on, and is collected when the link is back; nothing is measured twice."""
    told = stories["holes"].result()
    result, begun = told.run.results[way], told.logs[way].begun()
    assert told.code == 0, told.run.stderr
    assert (result["status"], result["attempt"], result["latency_ms"]["processes"]) == ("OK", 1, 3)
    assert len(begun) == 3 and set(begun.values()) == {1}
    assert told.logs[way].one_at_a_time()
    waited = told.run.when(f"{way}: is back after") - told.at[way]
    assert HOLE_S < waited < HOLE_S + ATTEMPT_S


@pytest.mark.parametrize("name", ["gone", "hung"])
def test_a_device_that_does_not_come_back(stories: dict[str, Future[Told]], name: str) -> None:
    """LOST with what was tried, after the patience of a lane; its agent began nothing twice."""
    told = stories["losses"].result()
    result = told.run.results[name]
    assert (told.code, result["status"], result["reasons"][0]["code"]) == (3, "LOST", "device_lost")
    why = result["reasons"][0]["message"]
    print(why)
    assert re.search({"gone": "cannot be reached", "hung": f"{name}: its agent hangs"}[name], why)
    assert set(told.logs[name].begun().values()) == {1}
    after = told.run.when(f"{name}: .*: LOST") - told.at[name]
    assert RETURN_S < after < NOTICED_S + RETURN_S + ATTEMPT_S


def test_the_others_are_not_disturbed(stories: dict[str, Future[Told]]) -> None:
    """This machine measures all the time, is OK, and no process waited for what happened elsewhere."""
    told = stories["losses"].result()
    result, gaps = told.run.results["local"], told.logs["local"].gaps()
    assert (result["status"], result["latency_ms"]["processes"]) == ("OK", 44)
    print(f"gaps: {statistics.median(gaps):.2f} s, at most {max(gaps):.2f} s")
    assert len(gaps) == 43
    assert max(gaps) < statistics.median(gaps) + GAP_S
    last = told.logs["local"].jobs()[-1][0] - time.time() + time.monotonic()
    assert last > told.at["local"] + RETURN_S, "it measured until the others were given up"


def test_a_host_that_stood_still(stories: dict[str, Future[Told]]) -> None:
    """It lost the device to another host: it measures and stores nothing more, and says why."""
    told = stories["frozen"].result()
    log = told.logs["board"]
    assert told.code == 3, told.run.stderr
    assert told.run.results == {}
    assert re.search(r"^board: .*(somebody else took it|in use by)", told.run.stderr, re.MULTILINE)
    assert log.one_at_a_time() and set(log.begun().values()) == {1}
    runs = [job.partition(".")[0] for _, job, what in log.jobs() if what == "begins"]
    first = runs[0]
    assert runs.index(first) == 0 and runs == sorted(runs, key=lambda run: run != first), "none of the first's later"
