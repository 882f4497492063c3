"""Nothing is lost: hosts, agents and workers that die, two hosts at once, full disks, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import DIGITS, QUICK, TIMEOUT_S, Bench, wait_until, workers

# Six processes of about a second: long enough to be cut anywhere.
PLAN = ("--processes", "6", "--min-time", "0.2", "--max-time", "0.5", "--cooldown", "0", "--format", "json")


def stored(bench: Bench) -> list[tuple[str, int]]:
    """(case, round) of every process in the store."""
    import sqlite3

    path = bench.home / "xdg_data_home" / "pocketbench" / "results.db"
    if not path.exists():
        return []
    with sqlite3.connect(path) as connection:
        try:
            rows = connection.execute("select case_key, round from process order by 1, 2").fetchall()
        except sqlite3.OperationalError:
            return []
    connection.close()
    return rows


def samples_of(bench: Bench) -> dict[tuple[str, int, str], bytes]:
    """Every stored sample blob."""
    import sqlite3

    connection = sqlite3.connect(bench.home / "xdg_data_home" / "pocketbench" / "results.db")
    rows = connection.execute("select case_key, round, name, data from sample").fetchall()
    connection.close()
    return {(key, index, name): data for key, index, name, data in rows}


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for it."""
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stdout, stderr


def two_models(bench: Bench) -> list[object]:
    """Two cases on this machine."""
    return ["--device", "local", "--model", bench.null("a", sleep_ms=1), "--model", bench.null("b", sleep_ms=2), *PLAN]


def test_a_killed_host_loses_nothing_and_resumes(bench: Bench) -> None:
    """SIGKILL twice in the middle: every stored process is kept as it was, and only what is missing is measured."""
    arguments = two_models(bench)
    kept: dict[tuple[str, int, str], bytes] = {}
    for wanted, resume in ((2, []), (5, ["--resume"])):
        process = bench.start(*arguments, *resume)
        assert wait_until(lambda wanted=wanted: len(stored(bench)) >= wanted, 60)  # type: ignore[misc]
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert wait_until(lambda: not bench.agents(), 20), "the agent ends with its host"
        now = samples_of(bench)
        assert kept.items() <= now.items()
        kept = now
    before = len(stored(bench))
    assert before < 12
    ended = bench(*arguments, "--resume")
    assert ended.code == 0, ended.stderr
    assert kept.items() <= samples_of(bench).items()
    assert len(stored(bench)) == 12
    assert [r["latency_ms"]["processes"] for r in ended.results] == [6, 6]
    assert bench(*arguments, "--resume").code == 2, "there is nothing left to resume"


SCORED = """
from pathlib import Path
import numpy as np
from pocketbench.workload import Score

def score(predict):
    hits = []
    for item in range(20):
        # A bare except, as users write them.
        try:
            predict(np.full(predict.inputs[0].shape, item / 20, np.float32))
        except:
            raise
        hits.append(0.25 + item / 40)
    with Path(LOG).open("a") as log:
        log.write("scored ")
    return Score("hits", hits, others={"misses": 0.5}, resamples=50)
"""


def test_what_was_scored_is_not_scored_again(bench: Bench) -> None:
    """Scores may take longer than all else; and the first item still feeds the runs that are left."""
    log = bench.home / "scored.log"
    workload = bench.home / "w.py"
    workload.write_text(SCORED.replace("LOG", repr(str(log))))
    models = [word for name in ("float", "int8") for word in ("--model", DIGITS / f"digits-{name}.tflite")]
    arguments = ["--device", "local", *models, "--workload", workload, *PLAN]
    process = bench.start(*arguments)
    assert wait_until(lambda: len(stored(bench)) >= 3, 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert wait_until(lambda: not bench.agents(), 20)
    assert sum(name == "score" for _, _, name in samples_of(bench)) == 2
    ended = bench(*arguments, "--resume")
    assert ended.code == 0, ended.stderr
    assert log.read_text() == "scored scored "
    for result in ended.results:
        accuracy = result["accuracy"]
        assert (accuracy["metric"], accuracy["n"], accuracy["others"]) == ("hits", 20, {"misses": 0.5})
        assert accuracy["ci95"][0] < accuracy["value"] < accuracy["ci95"][1]
        assert "inputs_random" not in [reason["code"] for reason in result["reasons"]]
    assert not [name for _, _, name in samples_of(bench) if name == "score"], "kept for no longer than needed"


def test_a_store_survives_kills_at_any_moment(bench: Bench) -> None:
    """Killed after random times, the database stays whole and readable."""
    arguments = two_models(bench)
    path = bench.home / "xdg_data_home" / "pocketbench" / "results.db"
    for delay in (0.0, 0.3, 0.9, 1.7):
        process = bench.start(*arguments)
        assert wait_until(path.exists, 60)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert wait_until(lambda: not bench.agents(), 20)
    import sqlite3

    connection = sqlite3.connect(path)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()
    assert bench("history").code == 0


def test_ctrl_c_once_stops_well(bench: Bench) -> None:
    """Exit code 130, what was measured is kept and reported as far as it is complete, and it can be resumed."""
    arguments = two_models(bench)
    process = bench.start(*arguments)
    assert wait_until(lambda: len(stored(bench)) >= 3, 60)
    os.kill(process.pid, signal.SIGINT)
    code, stdout, stderr = end(process)
    assert code == 130
    assert json.loads(stdout)["results"] == []
    assert "--resume goes on" in stderr
    resumed = bench(*arguments, "--resume")
    assert resumed.code == 0
    assert len(stored(bench)) == 12


def test_ctrl_c_twice_quits_at_once(bench: Bench) -> None:
    """Even while a model hangs; nothing is left running."""
    hangs = bench.null(fail={"stage": "load", "how": "hang"})
    process = bench.start("--device", "local", "--model", hangs, *PLAN)
    assert wait_until(lambda: bool(workers(bench)), 60)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    code, _, _ = end(process)
    assert code == 130
    assert wait_until(lambda: not bench.agents(), 20)


def test_two_runs_at_once_on_one_device(bench: Bench) -> None:
    """The second is told who has it and until when, and harms nothing."""
    process = bench.start(*two_models(bench))
    assert wait_until(lambda: bool(workers(bench)), 60)
    second = bench("--device", "local", "--model", bench.null("c"), *QUICK, "--format", "json")
    result = second.results[0]
    assert (second.code, result["status"]) == (3, "SKIPPED")
    reason = result["reasons"][0]
    assert reason["code"] == "device_busy"
    assert f"(process {process.pid}) until " in reason["message"]
    code, stdout, _ = end(process)
    assert code == 0
    assert [r["status"] for r in json.loads(stdout)["results"]] == ["OK", "OK"]


def test_another_store_does_not_hide_a_busy_device(bench: Bench) -> None:
    """Without a common store the agent's own lock tells."""
    process = bench.start(*two_models(bench))
    assert wait_until(lambda: bool(workers(bench)), 60)
    second = bench(
        *("--device", "local", "--model", bench.null("c"), "--store", bench.home / "other.db"),
        *(*QUICK, "--format", "json"),
    )
    assert second.results[0]["reasons"][0]["code"] == "device_busy"
    assert end(process)[0] == 0


def test_a_killed_agent_is_started_again(bench: Bench) -> None:
    """The case it ran is measured once more, and says so."""
    process = bench.start(*two_models(bench))
    assert wait_until(lambda: len(stored(bench)) >= 2 and bool(workers(bench)), 60)
    agents = [pid for pid in bench.agents() if pid not in workers(bench)]
    os.kill(agents[0], signal.SIGKILL)
    code, stdout, stderr = end(process)
    results = json.loads(stdout)["results"]
    assert code == 0, stderr
    assert [r["status"] for r in results] == ["OK", "OK"]
    assert sorted(r["attempt"] for r in results) == [1, 2]


def test_a_killed_worker_ends_its_case_alone(bench: Bench) -> None:
    """SIGKILL from outside: CRASHED with the signal, the other case is OK."""
    process = bench.start(*two_models(bench))
    assert wait_until(lambda: bool(workers(bench)), 60)
    os.kill(workers(bench)[0], signal.SIGKILL)
    code, stdout, _ = end(process)
    results = json.loads(stdout)["results"]
    assert code == 3
    assert sorted(r["status"] for r in results) == ["CRASHED", "OK"]
    crashed = next(r for r in results if r["status"] == "CRASHED")
    assert "SIGKILL" in crashed["reasons"][0]["message"]


def in_a_small_disk(bench: Bench, variable: str, size: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run with one of the folders on a tmpfs of that size, in a mount namespace of its own."""
    folder = Path(bench.env()[variable])
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here: a small disk cannot be made")
    probe = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this kernel allows no mount namespace: a small disk cannot be made")
    mount = 'mount -t tmpfs -o size="$0" none "$1" && shift && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", mount, size, str(folder), *bench.command(*arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=bench.home, env=bench.env(), timeout=TIMEOUT_S, check=False
    )


def test_no_space_on_the_device(bench: Bench) -> None:
    """A cache that cannot take the model: FAILED while pushing, in words with numbers."""
    done = in_a_small_disk(
        bench, "XDG_CACHE_HOME", "8m", "--device", "local", "--model", bench.null(), *QUICK, "--format", "json"
    )
    result: dict[str, Any] = json.loads(done.stdout)["results"][0]
    assert done.returncode == 3
    assert (result["status"], result["stage"]) == ("FAILED", "push")
    assert "MB are free on the device's disk" in result["reasons"][0]["message"]


def test_no_space_for_the_store(bench: Bench) -> None:
    """A database that cannot grow: rows are spooled, the report is whole, and the next open replays them, once."""
    models: list[object] = []
    for number in range(4):
        models += ["--model", bench.null(f"m{number}", sleep_ms=1 + number)]
    assert bench("history").code == 0, "the empty database is made without the limit"
    command = bench.command("--device", "local", *models, *PLAN, "--processes", "3")
    # Blocks of 512 bytes: room for the empty database and its log, not for what is measured.
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -f 300 && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        cwd=bench.home,
        env=bench.env(),
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "Traceback" not in limited.stderr, limited.stderr
    spool = bench.home / "xdg_state_home" / "pocketbench" / "spool"
    assert list(spool.glob("*.json")), limited.stderr
    results = json.loads(limited.stdout)["results"]
    assert [r["status"] for r in results] == ["OK"] * 4
    history = bench("history", "--format", "json")
    assert {r["id"] for r in json.loads(history.stdout)} == {r["id"] for r in results}
    assert len(stored(bench)) == 12
    assert not list(spool.glob("*.json"))


def test_resuming_a_run_that_still_runs_is_refused(bench: Bench) -> None:
    """It says who has the device, and the first run's results are its own."""
    arguments = two_models(bench)
    process = bench.start(*arguments)
    assert wait_until(lambda: len(stored(bench)) >= 2, 60)
    second = bench(*arguments, "--resume")
    assert second.code == 2
    assert "in use by" in second.stderr.splitlines()[0]
    code, stdout, _ = end(process)
    assert code == 0
    printed = {r["id"] for r in json.loads(stdout)["results"]}
    assert {r["id"] for r in json.loads(bench("history", "--format", "json").stdout)} == printed


def test_a_device_that_somebody_else_took(bench: Bench) -> None:
    """Its host, too long asleep, stores nothing more; a table without rows is no success, and it can be resumed."""
    import sqlite3

    arguments = two_models(bench)
    process = bench.start(*arguments)
    assert wait_until(lambda: len(stored(bench)) >= 2, 60)
    path = bench.home / "xdg_data_home" / "pocketbench" / "results.db"
    connection = sqlite3.connect(path, timeout=10)
    with connection:
        connection.execute("update lease set owner = 'bob@elsewhere (process 1)', epoch = epoch + 1")
    code, stdout, stderr = end(process)
    assert (code, json.loads(stdout)["results"]) == (3, []), stderr
    assert "the lease ended while this host stood still, and somebody else took it" in stderr
    assert "incomplete: 0 of 2 cases have a result; the same command with --resume goes on" in stderr
    with connection:
        connection.execute("update lease set expires_s = 0")
    connection.close()
    assert bench(*arguments, "--resume").code == 0
    assert len(stored(bench)) == 12


def test_ctrl_c_while_a_model_hangs_in_scoring(bench: Bench) -> None:
    """The first Ctrl-C ends it."""
    workload = bench.home / "w.py"
    workload.write_text(
        "import numpy as np\nfrom pocketbench.workload import Score\n"
        "def score(predict):\n    return Score('m', [predict(np.ones((1, 4)))[0].mean() for _ in range(99)])\n"
    )
    hangs = bench.null(fail={"stage": "run", "how": "hang", "after": 3})
    process = bench.start("--device", "local", "--model", hangs, "--workload", workload, *PLAN)
    assert wait_until(lambda: bool(workers(bench)), 60)
    time.sleep(1.5)
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    code, _, _ = end(process)
    assert code == 130
    assert time.monotonic() - begin < 15


def test_an_agent_with_a_lease_is_not_idle(tmp_path: Path) -> None:
    """However long the host rests between two processes."""
    from tests.integration.agents import agent, session

    with agent(tmp_path / "home", "--idle", "1") as running, session(running) as opened:
        time.sleep(3.5)
        assert opened.observe(0.0).boot_id
