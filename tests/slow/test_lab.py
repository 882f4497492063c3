"""A lab in which hosts and databases go away: nothing is lost, nothing is measured twice."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from pocketbench.devices.condition import GOOD
from pocketbench.store import health
from pocketbench.store.store import Store
from tests.integration.conftest import ROOT, wait_until
from tests.integration.labs import LONGER, QUICK, Lab, lab
from tests.peers import netns

__all__ = ["lab"]


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
    assert [(row["state"], row["where"]) for row in lab.queue()] == [("waits", "no worker")]
    (lab.bench.home / "lab-b.log").unlink()
    lab.begin("lab-b")
    # The stop was no try: what is lost after it is begun once more, as ever.
    assert wait_until(lambda: bool(lab.bodies()), 30)
    for pid in lab.bodies():
        os.kill(pid, signal.SIGKILL)
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


def tree(pid: int) -> list[int]:
    """A process with all that it started, directly and not."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(") ")[2].split()[1]) == pid:
                found += tree(int(path.parent.name))
    return found


def send(number: int, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def rounds(lab: Lab, run_id: str) -> list[tuple[str, int, str]]:
    """All processes of a run: case, round, and all that is known of it."""
    query = "SELECT case_key, round, doc::text FROM process WHERE run_id = :r ORDER BY case_key, round"
    return [tuple(row) for row in lab.rows(query, r=run_id)]


def test_one_host_is_killed_and_one_frozen_for_longer_than_its_lease(lab: Lab) -> None:
    """Both of their cases are measured by whoever comes next, once; what wakes up adds nothing, and serves on."""
    models = [lab.bench.null(name, sleep_ms=20) for name in ("killed", "frozen")]
    plan = ("--processes", "3", "--min-time", "4", "--max-time", "5", "--cooldown", "0", "--format", "json")
    running = lab.start("--device", "any:box", "--model", models[0], "--model", models[1], *plan)
    assert wait_until(lambda: len(lab.bodies()) == 2, 30)
    run_id = lab.newest_run()
    assert wait_until(lambda: len({key for key, _, _ in rounds(lab, run_id)}) == 2, 60)
    begun = rounds(lab, run_id)
    killed, frozen = tree(lab.workers["lab-a"].pid), tree(lab.workers["lab-b"].pid)
    assert len(killed) > 3 and len(frozen) > 3
    send(signal.SIGKILL, killed)
    send(signal.SIGSTOP, frozen)
    try:
        lab.workers["lab-a"].wait(10)
        (lab.bench.home / "lab-a.log").unlink()
        # As a service manager does.
        lab.begin("lab-a")
        stdout, stderr = running.communicate(timeout=290)
        measured = rounds(lab, run_id)
        assert running.returncode == 0, stderr + lab.log("lab-a")
        results = json.loads(stdout)["results"]
        assert [(r["status"], r["device"]) for r in results] == [("OK", "a1")] * 2
    finally:
        send(signal.SIGCONT, frozen)
    assert len(measured) == 6 and len({(key, number) for key, number, _ in measured}) == 6
    # Of two devices nothing is put together: what was killed on a1 went on there, what b1 had begun was begun anew.
    kept = [one for one in begun if one in measured]
    assert {key for key, _, _ in kept} < {key for key, _, _ in begun}
    assert wait_until(lambda: not lab.bodies(), 60), "the one that woke up stops measuring"
    time.sleep(5)
    assert rounds(lab, run_id) == measured
    assert lab.rows("SELECT count(*) FROM result WHERE run_id = :r", r=run_id) == [(2,)]
    assert lab.queue() == []
    ended = lab("--device", "b1", "--model", models[0], *QUICK, "--format", "json")
    assert (ended.code, ended.results[0]["status"]) == (0, "OK"), ended.stderr + lab.log("lab-b")


def test_a_quarantined_device_is_power_cycled_and_checked_until_it_is_well(lab: Lab) -> None:
    """By its worker, with nobody there."""
    store = Store(lab.url)
    for number in range(3):
        health.keep_check(store, "a2", False, f"the cable, {number}")
        time.sleep(0.002)
    assert wait_until(lambda: health.condition_of(store, "a2").state == GOOD, 200), lab.log("lab-a")
    store.close()
    assert (lab.bench.home / "cycled").read_text() == "once\n"
    ended = lab("--device", "a2", "--model", lab.bench.null(), *QUICK, "--format", "json")
    assert (ended.code, ended.results[0]["status"]) == (0, "OK"), ended.stderr


def test_a_lab_to_try(tmp_path: Path) -> None:
    """`make lab`: what it says one should type works, and so does a host whose cable was out for a while."""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    cables = 0 if netns.why_not() else 3
    command = [sys.executable, "-m", "tests.peers.lab"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment
    )
    try:
        assert running.stdout is not None
        lines = [running.stdout.readline().strip() for _ in range(5 + cables)]
        devices = lines[0].removeprefix("export POCKETBENCH_DEVICES=")

        def begin(line: str) -> subprocess.Popen[str]:
            words = [sys.executable, "-m", "pocketbench", *shlex.split(line)[1:]]
            words += [] if "queue" in words else ["--devices", devices]
            return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

        quick = " --processes 1 --min-time 0.05 --max-time 0.2 --format json"
        for line in (lines[1] + quick, lines[3]):
            done = begin(line)
            stdout, stderr = done.communicate(timeout=170)
            assert done.returncode == 0, stderr
            if "queue" in line:
                assert "attic serves dev12, dev3, dev6, dev9" in stdout
            else:
                assert [r["status"] for r in json.loads(stdout)["results"]] == ["OK"] * 3
        if cables:
            down = shlex.split(lines[5], comments=True)
            done = begin(
                lines[1].replace("any:red", "dev2").replace("any:blue", "dev3") + " --min-time 1 --format json"
            )
            time.sleep(6)
            subprocess.run(down, check=True)
            time.sleep(10)
            subprocess.run([*down[:-1], "up"], check=True)
            stdout, stderr = done.communicate(timeout=170)
            assert done.returncode == 0, stderr
            assert [r["status"] for r in json.loads(stdout)["results"]] == ["OK"] * 3
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(90) == 0
        running.communicate()
