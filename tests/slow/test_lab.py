"""A lab in which hosts and databases go away: nothing is lost, nothing is measured twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from tests.integration.conftest import wait_until
from tests.integration.labs import Lab, two_hosts

QUICK = ("--processes", "2", "--min-time", "0.05", "--max-time", "0.3", "--cooldown", "0")
LONGER = ("--processes", "3", "--min-time", "1", "--max-time", "2", "--cooldown", "0", "--format", "json")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts of three devices."""
    with two_hosts(tmp_path_factory.mktemp("lab")) as made:
        yield made


def test_a_host_that_asked_and_died_goes_on(lab: Lab) -> None:
    """The lab measures all the same; --resume collects it."""
    words = ("--device", "a1", "--device", "b1", "--model", lab.bench.null("r", sleep_ms=4), *QUICK)
    asking = lab.start(*words)
    assert wait_until(lambda: len(lab.bodies()) == 2, 30)
    asking.kill()
    asking.communicate()
    run_id = lab.newest_run()
    assert wait_until(lambda: lab.rows("SELECT count(*) FROM result WHERE run_id = :r", r=run_id) == [(2,)], 60)
    assert wait_until(lambda: not lab.bodies(), 30)
    ended = lab(*words, "--resume", "--format", "json")
    assert (ended.code, [r["status"] for r in ended.results]) == (0, ["OK", "OK"]), ended.stderr
    assert ended.results[0]["plan"]["run_id"] == run_id
    assert lab.rows("SELECT count(*) FROM process WHERE run_id = :r", r=run_id) == [(4,)]


def test_a_worker_that_is_stopped_gives_its_work_back(lab: Lab) -> None:
    slow = lab.bench.null("longer", sleep_ms=20)
    running = lab.start("--device", "b1", "--model", slow, *LONGER)
    assert wait_until(lambda: bool(lab.bodies()), 30)
    run_id = lab.newest_run()
    counted = "SELECT count(*) FROM process WHERE run_id = :r"
    assert wait_until(lambda: lab.rows(counted, r=run_id) >= [(1,)], 30)
    worker = lab.workers["lab-b"]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(40) == 0
    assert [(row["state"], row["where"]) for row in lab.queue()] == [("waits, attempt 2", "no worker")]
    (lab.bench.home / "lab-b.log").unlink()
    lab.begin("lab-b")
    stdout, stderr = running.communicate(timeout=90)
    assert running.returncode == 0, stderr
    assert json.loads(stdout)["results"][0]["status"] == "OK"
    assert lab.rows(counted, r=run_id) == [(3,)]


def test_a_database_that_crashes_in_the_middle_costs_nothing(lab: Lab) -> None:
    slow = lab.bench.null("crash", sleep_ms=10)
    running = lab.start("--device", "a1", "--device", "b1", "--model", slow, *LONGER)
    assert wait_until(lambda: len(lab.bodies()) == 2, 30)
    run_id = lab.newest_run()
    assert wait_until(lambda: lab.rows("SELECT count(*) FROM process WHERE run_id = :r", r=run_id) >= [(1,)], 30)
    lab.server.stop("immediate")
    time.sleep(6)
    lab.server.start()
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 0, stderr
    assert [r["status"] for r in json.loads(stdout)["results"]] == ["OK", "OK"]
    assert lab.rows("SELECT count(*), count(DISTINCT case_key || round) FROM process WHERE run_id = :r", r=run_id) == [
        (6, 6)
    ]
    assert not list((lab.bench.home / "xdg_state_home" / "pocketbench" / "spool").glob("*"))
