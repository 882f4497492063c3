"""Databases that are locked, away, full, newer or broken, and what becomes of results meanwhile."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from tests.faults.conftest import DEADLINE_S, LONG, OK, QUICK, Lab, in_a_namespace, piped, wait_until
from tests.faults.test_hosts import finished, ordinary
from tests.peers import postgresql


def test_a_database_that_is_locked_for_a_while(lab: Lab) -> None:
    """Three seconds: the write waits, and nothing is spooled."""
    running = lab.start("--device", "local", "--model", lab.bench.null("m", sleep_ms=10), *LONG)
    lab.in_the_middle()
    other = sqlite3.connect(lab.database, isolation_level=None, timeout=20)
    other.execute("BEGIN EXCLUSIVE")
    time.sleep(3)
    assert not lab.spool
    other.execute("ROLLBACK")
    other.close()
    lab.check(running, 0, {"m": OK})
    assert lab.processes() == 6


def test_a_database_that_is_deleted(lab: Lab) -> None:
    """In the middle of a run: the report is whole, and says where the results are not."""
    running = lab.start("--device", "local", "--model", lab.bench.null("m", sleep_ms=10), *LONG)
    lab.in_the_middle()
    for path in lab.database.parent.glob("results.db*"):
        path.unlink()
    lab.check(running, 0, {"m": OK}, leaves=("spool",))


def test_a_disk_that_is_full(lab: Lab) -> None:
    """Store and spool on one small disk: the run ends with both paths, and what was said to be stored is readable."""
    folder = lab.home / "disk"
    folder.mkdir()
    lab.bench.environment.update(XDG_STATE_HOME=str(folder / "state"))
    models = [word for n in range(30) for word in ("--model", lab.bench.null(f"m{n}", sleep_ms=0.01))]
    many = ("--processes", "1", "--min-runs", "8", "--min-time", "0.05", "--max-time", "0.1", "--cooldown", "0")
    kept = f"mount -t tmpfs -o size=600k none {folder} && trap 'cp -r {folder} {lab.home}/kept' EXIT"
    words = ("--device", "local", *models, *many, "--format", "json", "--store", folder / "results.db")
    process = in_a_namespace(lab, kept, *words, keep=True)
    ended = finished(process, 150)
    assert "Traceback" not in ended.stderr and ended.code == 3, ended.stderr
    assert f"{folder}/results.db cannot be written" in ended.stderr and "--resume" in ended.stderr
    found = [one["id"] for one in ended.results]
    assert f"incomplete: {len(found)} of 30 cases" in ended.stderr
    connection = sqlite3.connect(lab.home / "kept" / "results.db")
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    assert connection.execute("select count(*) from process").fetchone()[0] >= 5
    assert {one for (one,) in connection.execute("select id from result")} <= set(found)
    connection.close()
    assert not list((lab.home / "kept").rglob("*.partial"))


def test_a_store_that_is_newer_or_broken(lab: Lab) -> None:
    """Refused before anything runs, and not changed."""
    assert lab.bench("history").code == 0
    good = lab.database.read_bytes()
    connection = sqlite3.connect(lab.database)
    connection.execute("update meta set value = '99'")
    connection.commit()
    connection.close()
    for broken, word in ((lab.database.read_bytes(), "newer"), (good[:5000], ""), (b"no database", "")):
        for path in lab.database.parent.glob("results.db*"):
            path.unlink()
        lab.database.write_bytes(broken)
        ended = finished(piped(lab, lab.bench.command(*ordinary(lab))))
        assert (ended.code, ended.stdout, "Traceback" in ended.stderr) == (2, "", False), ended.stderr
        assert str(lab.database) in ended.stderr and word in ended.stderr
        assert lab.database.read_bytes() == broken
        lab.nothing_is_left(leaves=("lease",))


@pytest.mark.parametrize("where", [".", "/proc/gone/results.db", "/dev/null", "postgresql://127.0.0.1:1/none"])
def test_a_store_that_cannot_be(lab: Lab, where: str) -> None:
    """A folder, a folder that is not there, no file, a server that is not there."""
    ended = lab.check(lab.start(*ordinary(lab), "--store", where), 2, {})
    assert ended.stderr.startswith("Error: ") and len(ended.stderr.splitlines()) <= 2


def test_an_output_that_cannot_be_written_any_more(lab: Lab) -> None:
    """Its folder goes while the run goes on: the report goes to stdout, the result is stored."""
    (lab.home / "out").mkdir()
    arguments = ("--model", lab.bench.null("m", sleep_ms=10), *LONG, "--output", lab.home / "out" / "x.json")
    running = lab.start("--device", "local", *arguments)
    lab.in_the_middle()
    (lab.home / "out").rmdir()
    ended = lab.check(running, 2, {"m": OK})
    assert "the report went to stdout" in ended.stderr


@pytest.mark.skipif(postgresql.why_not() is not None, reason=str(postgresql.why_not()))
def test_a_server_that_dies_in_the_middle(lab: Lab) -> None:
    """At once, and is started again: rows wait on disk, and are stored once."""
    with postgresql.postgresql() as server:
        url = server.database()
        run = ("--device", "local", "--model", lab.bench.null("m", sleep_ms=10), *LONG, "--store", url)
        running = lab.start(*run)
        assert wait_until(lambda: bool(lab.workers()), DEADLINE_S)
        time.sleep(1)
        server.stop("immediate")
        assert wait_until(lambda: bool(lab.spool), DEADLINE_S)
        server.start()
        ended = lab.check(running, 0, {"m": OK})
        told = lab.bench("history", "--format", "json", "--store", url)
        assert [one["id"] for one in told.doc] == [ended.results[0]["id"]]
        assert ended.results[0]["latency_ms"]["processes"] == 6
        assert postgresql.PASSWORD not in ended.stderr


def test_results_that_waited_are_stored_once(lab: Lab) -> None:
    """A store whose file cannot grow: rows are spooled; the next command that opens it stores them."""
    assert lab.bench("history").code == 0
    words = ["sh", "-c", 'ulimit -f 300 && exec "$@"', "sh", *lab.bench.command(*models(lab))]
    ended = finished(piped(lab, words))
    lab.judge(ended, {}, 0, dict.fromkeys(("m", "n", "o", "p"), OK), leaves=("spool", "lease"))
    assert lab.spool
    ids = {one["id"] for one in lab.bench("history", "--format", "json").doc}
    assert ids == {one["id"] for one in ended.results} and not lab.spool
    assert lab.processes() == 12


def models(lab: Lab) -> list[object]:
    """Four, in three processes each."""
    found = [word for n in "mnop" for word in ("--model", lab.bench.null(n, sleep_ms=1))]
    return ["--device", "local", *found, "--processes", "3", *QUICK[2:]]


def test_two_runs_into_one_store(pair: Lab, tmp_path: Path) -> None:
    """Side by side, on two devices: each has its own results."""
    model = ("--model", pair.bench.null("m", sleep_ms=5), *LONG)
    first, second = pair.start("--device", "a", *model), pair.start("--device", "b", *model)
    other = finished(second.process)
    assert other.code == 0, other.stderr
    pair.check(first, 0, {"m": OK})
    assert len(pair.rows()) == 2 and pair.processes() == 12
