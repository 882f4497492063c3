"""Links that are silent for minutes, devices that vanish or hang, a host that stands still. All happens at once."""

from __future__ import annotations

import os
import platform
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketbench.deploy.remote import archive
from pocketbench.lane import RETURN_S
from tests.integration.conftest import QUICK, Bench, benched, wait_until
from tests.peers.faults import Faults
from tests.slow.links import check_peers, far, needs_root
from tests.slow.stories import Log, Watched, agents_of, devices, killed, system_python, until, watched

pytestmark = [needs_root, pytest.mark.timeout(600)]
HOLE_S = 120.0
# A host's leases last 90 s.
FROZEN_S = 96.0
# Until a dead link is noticed, and one more attempt to open it after the last that was allowed.
NOTICED_S, ATTEMPT_S = 25.0, 40.0
END_S = 400.0
GAP_S = 1.0
JSON = ("--cooldown", "0", "--format", "json")
# Three processes of about two seconds.
THREE = ("--processes", "3", "--min-runs", "8", "--min-time", "1.2", *JSON)
# Busy for longer than a device is waited for.
LONG = ("--processes", "44", "--min-runs", "8", "--min-time", "4", "--max-time", "5", *JSON)


@dataclass(frozen=True)
class Told:
    """What became of a run."""

    code: int
    run: Watched
    logs: dict[str, Log]
    at: dict[str, float]
    """When the misfortune of each began."""


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[dict[str, Future[Told]]]:
    """All of them, under way: each waits for minutes and works for seconds."""
    check_peers()
    told: tuple[Callable[[Bench], Told], ...] = (holes, losses, frozen)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(told)) as pool:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("user")))
        patch.setenv("XDG_CACHE_HOME", str(cache))
        archive(platform.machine(), system_python(), sources_only=False)

        def tell(story: Callable[[Bench], Told]) -> Told:
            with benched(tmp_path_factory.mktemp(story.__name__)) as bench:
                bench.environment["XDG_CACHE_HOME"] = str(cache)
                return story(bench)

        yield {story.__name__: pool.submit(tell, story) for story in told}


def holes(bench: Bench) -> Told:
    """Two devices whose links are black holes from the middle of a job on."""
    with ExitStack() as stack:
        found = {way: stack.enter_context(far(way, bench.home / f"far-{way}")) for way in ("ssh", "adb")}
        logs = devices(bench, **{way: to.entry for way, (to, _) in found.items()})
        command = ("--device", "ssh", "--device", "adb", "--model", bench.null(sleep_ms=10), *THREE)
        run = stack.enter_context(watched(bench.start(*command)))
        with ThreadPoolExecutor(len(found)) as pool:
            begun = {way: pool.submit(_hole, logs[way], knobs) for way, (_, knobs) in found.items()}
        return Told(run.end(END_S), run, logs, {way: future.result() for way, future in begun.items()})


def _hole(log: Log, knobs: Faults) -> float:
    until(log, 1)
    knobs.hole = True
    begin = time.monotonic()
    time.sleep(HOLE_S)
    knobs.hole = False
    return begin


def losses(bench: Bench) -> Told:
    """One device vanishes for good, the agent of another stops for good, and this machine measures."""
    with ExitStack() as stack, killed(bench):
        vanishing = stack.enter_context(ExitStack())
        gone, _ = vanishing.enter_context(far("ssh", bench.home / "far-gone"))
        hung, _ = stack.enter_context(far("ssh", bench.home / "far-hung"))
        logs = devices(bench, gone=gone.entry, hung=hung.entry)
        names = ("--device", "gone", "--device", "hung", "--device", "local")
        run = stack.enter_context(watched(bench.start(*names, "--model", bench.null(sleep_ms=10), *LONG)))
        for log in logs.values():
            until(log, 1)
        (agent,) = agents_of(bench, "hung")
        begin = time.monotonic()
        os.kill(agent, signal.SIGSTOP)
        vanishing.close()
        logs["local"] = Log(Path(bench.environment["XDG_CACHE_HOME"]) / "pocketbench" / "agent" / "agent.log")
        return Told(run.end(END_S), run, logs, dict.fromkeys(logs, begin))


def frozen(bench: Bench) -> Told:
    """A host stands still between two jobs until its leases have ended, and wakes while another one measures."""
    with ExitStack() as stack:
        to, _ = stack.enter_context(far("ssh", bench.home / "far"))
        logs = devices(bench, board=to.entry)
        models = [("--device", "board", "--model", bench.null(name, sleep_ms=10)) for name in ("first", "second")]
        first = stack.enter_context(watched(bench.start(*models[0], *THREE)))
        until(logs["board"], 1)
        os.kill(first.process.pid, signal.SIGSTOP)
        try:
            # A job that had begun by then ends.
            assert wait_until(lambda: not logs["board"].in_the_middle(1), 60)
            time.sleep(FROZEN_S)
            second = stack.enter_context(watched(bench.start(*models[1], *THREE)))
            before = len(logs["board"].begun())
            assert wait_until(lambda: len(logs["board"].begun()) > before, 120), second.stderr
        finally:
            os.kill(first.process.pid, signal.SIGCONT)
        code = second.end(END_S)
        assert (code, second.results["board"]["status"]) == (0, "OK"), second.stderr
        assert second.results["board"]["attempt"] == 1
        ended = first.end(END_S)
        stored = bench("history", "--format", "json").doc
        assert [each["model"]["name"] for each in stored] == ["second"]
        assert bench("--device", "board", "--model", bench.null("third"), *QUICK).code == 0
        return Told(ended, first, logs, {})


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
    assert re.search({"gone": "cannot be reached", "hung": f"{name}: in use by "}[name], why)
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
