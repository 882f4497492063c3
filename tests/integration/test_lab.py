"""A lab through the command line: shares go to the hosts that have the devices, and come back as one table."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from sqlalchemy import text

from pocketbench.devices.condition import SUSPECT
from pocketbench.farm.queue import Queue
from pocketbench.store import health
from pocketbench.store.store import Store
from tests.integration.conftest import wait_until
from tests.integration.labs import LONGER, QUICK, Lab, lab

__all__ = ["lab"]


def test_a_run_is_measured_by_the_hosts_that_have_its_devices(lab: Lab) -> None:
    """Pinned cases on their device, those for a kind on any of it, one table, one run, everything once."""
    models = [lab.bench.null("m", sleep_ms=2), lab.bench.null("n", sleep_ms=3)]
    # Its content is all that reaches the others.
    asked = [word for model in models for word in ("--model", model)]
    devices = ("--device", "a1", "--device", "b1", "--device", "any:box")
    ended = lab(*devices, *asked, *QUICK, "--format", "json", "--label", "team=red")
    assert ended.code == 0, ended.stderr
    results = ended.results
    assert [(r["status"], r["device"]) for r in results[:4]] == [("OK", name) for name in ("a1", "a1", "b1", "b1")]
    assert {r["status"] for r in results} == {"OK"} and {r["device"] for r in results[4:]} <= {"a1", "b1"}
    assert {r["labels"]["team"] for r in results} == {"red"}
    # The devices' cases were measured by turns, and samples are there to compare them by.
    assert all(len(r["samples_ns"]) == 2 for r in results)
    assert [r["plan"]["order"] for r in results[:2]] == [results[0]["plan"]["order"]] * 2
    assert len(results[0]["plan"]["order"][0]) == 2
    run_id = ended.doc["session"]["id"] if "session" in ended.doc else results[0]["plan"]["run_id"]
    assert lab.rows("SELECT count(*), count(DISTINCT case_key || round) FROM process WHERE run_id = :r", r=run_id) == [
        (12, 12)
    ]
    assert lab.rows("SELECT finished_utc IS NOT NULL FROM run WHERE id = :r", r=run_id) == [(True,)]
    assert "a1: measured by lab-a on a1" in ended.stderr and "b1: measured by lab-b on b1" in ended.stderr
    assert lab.queue() == []


def test_files_travel_and_code_does_not(lab: Lab, tmp_path: Path) -> None:
    """A worker has its own folders: it has no model but what the store gives it, and runs no file that it was sent."""
    import numpy as np

    model = Path(__file__).parents[1] / "data" / "two_signatures.tflite"
    moved = tmp_path / "sums.tflite"
    moved.write_bytes(model.read_bytes())
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, **{"0": np.ones((1, 4), np.float32), "1": np.ones((1, 4), np.float32)})  # type: ignore[arg-type]
    waiting = lab.start("--device", "a2", "--model", moved, "--signature", "add", "--inputs", inputs, *QUICK)
    assert wait_until(lambda: bool(lab.bodies()), 30)
    # The worker's host does not see where they lay.
    moved.unlink()
    inputs.unlink()
    stdout, stderr = waiting.communicate(timeout=90)
    assert (waiting.returncode, "inputs_random" in stdout) == (0, False), stdout + stderr
    workload = tmp_path / "work.py"
    workload.write_text("def score(predict): raise SystemExit('must not run')\n")
    waiting = lab.start("--device", "away", "--model", lab.bench.null(), "--workload", workload, *QUICK)
    assert wait_until(lambda: any(row["target"] == "away" for row in lab.queue()), 30)
    rows = lab.rows("SELECT args::text FROM procrastinate_jobs WHERE status = 'todo'")
    assert "must not run" not in rows[0][0] and str(workload) in rows[0][0]
    assert b"must not run" not in b"".join(bytes(row[0]) for row in lab.rows("SELECT data FROM blob"))
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=30)


def test_a_workload_that_is_another_file_there_is_not_run(lab: Lab, tmp_path: Path) -> None:
    """It has changed between the question and the worker's look: no fault of the device."""
    workload, ran = tmp_path / "work.py", tmp_path / "ran"
    workload.write_text("def score(predict): raise SystemExit('of the one who asked')\n")
    worker = lab.workers["lab-b"]
    worker.send_signal(signal.SIGSTOP)
    try:
        asking = lab.start(
            "--device", "b1", "--model", lab.bench.null(), "--workload", workload, *QUICK, "--format", "json"
        )
        assert wait_until(lambda: any(row["target"] == "b1" for row in lab.queue()), 30)
        workload.write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\ndef score(predict): ...\n")
    finally:
        worker.send_signal(signal.SIGCONT)
    stdout, stderr = asking.communicate(timeout=60)
    (result,) = json.loads(stdout)["results"]
    assert (asking.returncode, result["status"], result["reasons"][0]["code"]) == (3, "SKIPPED", "not_served"), stderr
    assert str(workload) in result["reasons"][0]["message"] and not ran.exists()
    assert "1 fault" not in lab("devices").stdout


def test_what_nobody_serves_is_said_and_can_be_called_off(lab: Lab) -> None:
    waiting = lab.start("--device", "away", "--device", "any:box", "--model", lab.bench.null(), *QUICK)
    assert wait_until(lambda: [row["target"] for row in lab.queue()][:1] == ["away"], 30)
    shown = lab("queue").stdout
    assert "away: no worker serves them: start 'bench worker'" in shown
    assert "lab-a serves a1, a2" in shown and "lab-b serves b1, sick" in shown
    assert next(row for row in lab.queue() if row["target"] == "away")["where"] == "no worker"
    assert wait_until(lambda: [row["target"] for row in lab.queue()] == ["away"], 60), "the other is measured meanwhile"
    waiting.send_signal(signal.SIGINT)
    _, stderr = waiting.communicate(timeout=30)
    assert waiting.returncode == 130, stderr
    assert "away: no worker serves it: start 'bench worker' on nowhere within 5 min" in stderr
    assert "1 of 2 cases are complete" in stderr
    assert lab.queue() == []
    # Called off by somebody else.
    waiting = lab.start("--device", "away", "--model", lab.bench.null(), *QUICK, "--format", "json")
    assert wait_until(lambda: [row["target"] for row in lab.queue()] == ["away"], 30)
    store = Store(lab.url)
    queue = Queue(store)
    queue.cancel([entry.id for entry in queue.entries()])
    queue.close()
    store.close()
    stdout, stderr = waiting.communicate(timeout=30)
    result = json.loads(stdout)["results"][0]
    assert (waiting.returncode, result["status"], result["reasons"][0]["code"]) == (3, "SKIPPED", "not_served"), stderr


def test_a_device_has_one_worker(lab: Lab, tmp_path: Path) -> None:
    again = lab("worker", "--host", "lab-b")
    assert again.code == 2 and "b1 (local b1 of lab-b) is served by lab-b already" in again.stderr
    none = lab("worker", "--host", "lab-c")
    assert none.code == 2 and "lab_host: lab-c (there are: lab-a, lab-b, nowhere)" in none.stderr
    file = lab.bench("worker", "--host", "lab-c", "--devices", lab.bench.home / "devices.yaml")
    assert file.code == 2
    devices = tmp_path / "devices.yaml"
    devices.write_text(
        "devices:\n  x: {transport: adb, serial: S1, lab_host: one}\n  y: {transport: adb, serial: S1, lab_host: one}\n"
        "  z: {transport: ssh, host: board.invalid, lab_host: two}\n"
        "  w: {transport: ssh, host: board.invalid, user: other, lab_host: three}\n"
    )
    twice = lab("worker", "--host", "one", "--devices", devices)
    assert twice.code == 2 and "y and x of devices.yaml are one device (adb S1 0)" in twice.stderr
    first = lab.start("worker", "--host", "two", "--devices", devices)
    try:
        assert wait_until(lambda: "two serves z" in lab("queue").stdout, 30)
        other = lab("worker", "--host", "three", "--devices", devices)
        assert other.code == 2 and "w (ssh board.invalid 22) is served by two already, as z" in other.stderr
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        first.communicate()
    assert "two serves" not in lab("queue").stdout


def test_a_file_is_no_store_for_several_hosts(lab: Lab) -> None:
    for command in (("worker", "--host", "lab-a"), ("queue",)):
        ended = lab.bench(*command, "--store", lab.bench.home / "file.db")
        assert ended.code == 2 and "is a file: several hosts share a PostgreSQL" in ended.stderr
    # There the lab's devices are measured here, as ever.
    ended = lab.bench(
        *("--device", "a2", "--device", "any:box", "--model", lab.bench.null(), *QUICK, "--format", "json"),
        *("--store", lab.bench.home / "file.db"),
    )
    assert [(r["device"], r["status"]) for r in ended.results] == [("a2", "OK"), ("a1", "OK")], ended.stderr


def test_a_device_with_three_faults_is_left_alone_until_it_is_well(lab: Lab) -> None:
    """By facts in the store: whoever asks is told why, and two passed checks end it."""
    words = ("--device", "sick", "--model", lab.bench.null(), *QUICK, "--format", "json")
    assert lab(*words).results[0]["reasons"][0]["code"] == "not_available"
    assert lab("devices", "check", "sick").code == 3
    store = Store(lab.url)
    assert health.condition_of(store, "sick").state == SUSPECT
    health.keep_check(store, "sick", False, "the cable")
    refused = lab(*words)
    result = refused.results[0]
    assert (refused.code, result["status"], result["reasons"][0]["code"]) == (3, "SKIPPED", "quarantined")
    assert "3 faults within 24 h" in result["reasons"][0]["message"]
    shown = lab("devices").stdout
    assert "unreachable, quarantined" in shown and "sick: quarantined: 3 faults within 24 h" in shown
    for _ in range(2):
        health.keep_check(store, "sick", True, "passed")
        time.sleep(0.002)
    store.close()
    assert lab(*words).results[0]["reasons"][0]["code"] == "not_available"


def test_a_process_that_dies_is_tried_once_more(lab: Lab) -> None:
    """What it had measured is not measured again; the second time it is lost, and the others never notice."""
    slow = lab.bench.null("slow", sleep_ms=20)
    running = lab.start("--device", "b1", "--model", slow, *LONGER)
    counted = "SELECT count(*) FROM process p JOIN run r ON r.id = p.run_id WHERE r.finished_utc IS NULL"
    assert wait_until(lambda: bool(lab.bodies()), 30)
    run_id = lab.newest_run()
    assert wait_until(lambda: lab.rows(counted + " AND r.id = :r", r=run_id) >= [(1,)], 30)
    before = lab.rows("SELECT round, doc::text FROM process WHERE run_id = :r ORDER BY round", r=run_id)
    lab.kill_body()
    stdout, stderr = running.communicate(timeout=90)
    result = json.loads(stdout)["results"][0]
    assert (running.returncode, result["status"]) == (0, "OK"), stderr
    assert "b1: measured by lab-b on b1, attempt 2" in stderr
    after = lab.rows("SELECT round, doc::text FROM process WHERE run_id = :r ORDER BY round", r=run_id)
    assert after[: len(before)] == before and len(after) == 3
    running = lab.start("--device", "b1", "--model", slow, *LONGER)
    for _ in range(2):
        lab.kill_body()
    stdout, stderr = running.communicate(timeout=60)
    result = json.loads(stdout)["results"][0]
    assert (running.returncode, result["status"], result["reasons"][0]["code"]) == (3, "LOST", "device_lost"), stderr
    assert "b1: its process ended with signal 9" in result["reasons"][0]["message"]


def test_a_share_that_takes_longer_than_it_may_is_ended(lab: Lab) -> None:
    """By its worker, which then goes on with the next one."""
    slow = lab.bench.null("slow", sleep_ms=20)
    first = lab.start("--device", "b1", "--model", slow, *LONGER)
    assert wait_until(lambda: bool(lab.bodies()), 30)
    second = lab.start("--device", "b1", "--model", lab.bench.null("late", sleep_ms=20), *LONGER)
    assert wait_until(lambda: len(lab.queue()) == 2, 30)
    store = Store(lab.url)
    with store.database.writing() as connection:
        changed = "UPDATE procrastinate_jobs SET args = jsonb_set(args, '{deadline_s}', '2') WHERE status = 'todo'"
        assert connection.execute(text(changed)).rowcount == 1
    store.close()
    stdout, stderr = second.communicate(timeout=90)
    result = json.loads(stdout)["results"][0]
    assert (second.returncode, result["status"], result["reasons"][0]["code"]) == (3, "TIMEOUT", "timed_out"), stderr
    assert "took longer than 2 s" in result["reasons"][0]["message"]
    stdout, stderr = first.communicate(timeout=60)
    assert (first.returncode, json.loads(stdout)["results"][0]["status"]) == (0, "OK"), stderr
    assert wait_until(lambda: not lab.bodies(), 20)
    ended = lab("--device", "b1", "--model", lab.bench.null(), *QUICK, "--format", "json")
    assert ended.results[0]["status"] == "OK", ended.stderr


def test_suites_and_reruns_go_to_the_lab_as_well(lab: Lab) -> None:
    lab.bench.null("m", sleep_ms=2)
    suite = lab.bench.home / "suite.yaml"
    suite.write_text(
        "suite: labs\ndevices: [a1, b1]\nmeasure:\n  - models: [m.null]\n"
        "plan: {processes: 2, min_time_s: 0.05, max_time_s: 0.3}\n"
    )
    ran = lab("suite", "run", suite, "--format", "json")
    assert ran.code == 0, ran.stderr
    assert {(r["device"], r["status"]) for r in ran.results} == {("a1", "OK"), ("b1", "OK")}
    assert "a1: measured by lab-a on a1" in ran.stderr and "b1: measured by lab-b on b1" in ran.stderr
    mine = next(r["id"] for r in ran.results if r["device"] == "b1")
    again = lab("rerun", mine, "--format", "json")
    assert again.code == 0, again.stderr
    assert [(r["device"], r["status"]) for r in again.results] == [("b1", "OK")]
    assert "b1: measured by lab-b on b1" in again.stderr
