"""What a store goes through: many writers, hosts that are killed, a database that is locked for long, a full disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from pocketbench.plan import Plan, Request
from pocketbench.store import engine, spool
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

REQUEST = Request((facts.case(),), Plan(seed=5))
# Says what was committed, after it was.
WRITER = """
import os, random, signal, sys, time
from pathlib import Path
from pocketbench.plan import Plan, Request
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

request = Request((facts.case(),), Plan(seed=5))

def write(url, name, results, said):
    opened = Store(url)
    print("open", file=said, flush=True)
    for number in range(results):
        run_id = opened.create_run(request, request_doc(request))
        key = f"{name}.{number}"
        opened.save_process(run_id, key, facts.process())
        print("process", key, file=said, flush=True)
        opened.save_result(run_id, key, facts.result(id=key, device=name))
        print("result", key, file=said, flush=True)
        opened.finish_run(run_id)
    opened.close()
"""
ONE = """
write(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.stdout)
print("done")
"""
# Three at a time, each killed at some moment after it has opened the store.
KILLED = """
chance = random.Random(5)
for first in range(0, 30, 3):
    children = []
    for number in range(first, first + 3):
        path = Path(sys.argv[2]) / f"host{number}"
        child = os.fork()
        if child == 0:
            with path.open("w") as said:
                write(sys.argv[1], f"host{number}", 10_000, said)
            os._exit(1)
        children.append((child, path))
    for child, path in children:
        while not path.exists() or not path.read_text():
            time.sleep(0.005)
    time.sleep(chance.uniform(0.02, 0.3))
    for child, _ in children:
        os.kill(child, signal.SIGKILL)
    for child, _ in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""
METRICS, SAMPLES = 4, 3


def start(url: str, name: str, results: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER + ONE, url, name, str(results)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def stored(opened: Store) -> dict[str, set[str]]:
    """Names of what is there; AssertionError where something is there by halves."""
    with opened.database.reading() as connection:
        results = connection.execute(
            text("SELECT r.id, count(m.name) FROM result r LEFT JOIN metric m ON m.result_id = r.id GROUP BY r.id")
        ).all()
        processes = connection.execute(
            text(
                "SELECT p.case_key, count(s.name) FROM process p LEFT JOIN sample s "
                "ON s.run_id = p.run_id AND s.case_key = p.case_key AND s.round = p.round GROUP BY p.case_key"
            )
        ).all()
        strays = [
            connection.execute(text(query)).scalar()
            for query in (
                "SELECT count(*) FROM metric WHERE result_id NOT IN (SELECT id FROM result)",
                "SELECT count(*) FROM sample WHERE (run_id, case_key) NOT IN (SELECT run_id, case_key FROM process)",
            )
        ]
    assert {count for _, count in results} <= {METRICS} and {count for _, count in processes} <= {SAMPLES}
    assert strays == [0, 0]
    return {"result": {name for name, _ in results}, "process": {name for name, _ in processes}}


def test_four_hosts_write_at_once(opened: Store, url: str) -> None:
    running = [start(url, f"host{number}", 15) for number in range(4)]
    for writer in running:
        stdout, _ = writer.communicate(timeout=100)
        assert (writer.returncode, stdout.splitlines()[-1]) == (0, "done")
    everything = {f"host{host}.{number}" for host in range(4) for number in range(15)}
    assert stored(opened) == {"result": everything, "process": everything}
    assert not list(spool.folder().glob("*")) and len(opened.history(None, None, 100)) == 60


def test_hosts_that_are_killed_while_they_write(opened: Store, url: str, tmp_path: Path) -> None:
    """Thirty of them, at any moment: what was said to be stored is there, and nothing by halves."""
    (tmp_path / "said").mkdir()
    words = [sys.executable, "-c", WRITER + KILLED, url, str(tmp_path / "said")]
    subprocess.run(words, check=True, timeout=200)
    said: dict[str, set[str]] = {"result": set(), "process": set()}
    for path in (tmp_path / "said").iterdir():
        # A line that was cut says nothing.
        for line in path.read_text().split("\n")[1:-1]:
            kind, _, name = line.partition(" ")
            said[kind].add(name)
    found = stored(opened)
    assert len(said["result"]) >= 10
    assert said["result"] <= found["result"] and said["process"] <= found["process"]
    assert len(found["process"] - said["process"]) <= 30 and len(found["result"] - said["result"]) <= 30
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    opened.save_result(run_id, "after", facts.result(id="after"))
    opened.close()
    if "://" not in url:
        connection = sqlite3.connect(url)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "results.db"


def hold(path: Path, seconds: float) -> threading.Thread:
    """Another program that keeps the database to itself for so long; returns when it does."""
    begun = threading.Event()

    def holding() -> None:
        other = sqlite3.connect(path, isolation_level=None, timeout=30)
        other.execute("BEGIN EXCLUSIVE")
        begun.set()
        time.sleep(seconds)
        other.execute("ROLLBACK")
        other.close()

    thread = threading.Thread(target=holding)
    thread.start()
    assert begun.wait(30)
    return thread


@pytest.mark.parametrize(("busy_ms", "held_s", "waits"), [(3000, 0.7, True), (400, 0.9, False)])
def test_a_database_that_is_locked_for_a_while(
    alone: Path, monkeypatch: pytest.MonkeyPatch, busy_ms: int, held_s: float, waits: bool
) -> None:
    """Shorter than the patience: the write waits. Longer: it is spooled, and in the store at the end of the run."""
    monkeypatch.setattr(engine, "BUSY_MS", busy_ms)
    opened = Store(str(alone))
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    holder = hold(alone, held_s)
    opened.save_process(run_id, "key", facts.process())
    assert bool(list(spool.folder().glob("*.json"))) is not waits
    opened.save_result(run_id, "key", facts.result())
    holder.join()
    opened.finish_run(run_id)
    assert stored(opened) == {"result": {facts.result().id}, "process": {"key"}}
    assert not list(spool.folder().glob("*"))
    opened.close()


def test_a_store_is_opened_and_read_while_it_is_locked(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 100)
    opened = Store(str(alone))
    opened.save_result(opened.create_run(REQUEST, request_doc(REQUEST)), "key", facts.result())
    holder = hold(alone, 1)
    again = Store(str(alone))
    assert len(again.history(None, None, 9)) == 1
    assert holder.is_alive()
    again.close()
    holder.join()
    opened.close()


FULL = """
import os, sys
from pathlib import Path
from pocketbench.errors import PocketbenchError
from pocketbench.plan import Plan, Request
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

request = Request((facts.case(),), Plan(seed=5))
opened = Store(sys.argv[1])
run_id = opened.create_run(request, request_doc(request))
said = []
try:
    for number in range(10_000):
        opened.save_process(run_id, str(number), facts.process())
        said.append(number)
except PocketbenchError as error:
    print(error)
again = Store(sys.argv[1])
committed, spooled = len(again.processes(run_id)), len(list(Path(sys.argv[2]).rglob("spool/*.json")))
print(len(said), committed, spooled, len(list(Path(sys.argv[2]).rglob("*.partial"))))
if len(sys.argv) > 3:
    os.unlink(sys.argv[3])
    Store(sys.argv[1]).close()
    print(len(Store(sys.argv[1]).processes(run_id)), len(list(Path(sys.argv[2]).rglob("spool/*.json"))))
"""


ROOT = Path(__file__).resolve().parents[2]


def on_a_full_disk(folder: Path, words: str) -> list[str]:
    """Lines of FULL, run where the folder is a disk of 2 MB of its own."""
    probe = subprocess.run(["unshare", "-Urm", "true"], check=False) if shutil.which("unshare") else None
    if probe is None or probe.returncode:
        pytest.skip("no mount namespace here: a small disk cannot be made")
    (folder / "disk").mkdir()
    script = f'mount -t tmpfs -o size=2m none disk && {words} exec "$0" -c "$1" disk/results.db "$2" $3'
    arguments = [sys.executable, FULL, str(folder), "disk/ballast" if "ballast" in words else ""]
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Database and spool on one disk: an error with both paths; all that was said to be stored is, and is readable."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "disk" / "state"))
    told, counts = on_a_full_disk(tmp_path, "")
    assert "disk/results.db cannot be written (database or disk is full)" in told
    assert "and neither can" in told and "No space left on device" in told and "--resume" in told
    said, committed, spooled, partial = map(int, counts.split())
    assert said >= 5 and committed + spooled >= said and partial == 0


def test_a_disk_that_is_full_and_a_spool_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit waits, and is stored, once, when there is room."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys.modules[__name__], "FULL", FULL.replace("10_000", "40"))
    counts, after = on_a_full_disk(tmp_path, "head -c 1700000 /dev/zero > disk/ballast &&")
    said, committed, spooled, _ = map(int, counts.split())
    assert said == 40 == committed + spooled and spooled > 0
    assert tuple(map(int, after.split())) == (40, 0)
