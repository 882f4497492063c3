"""A database that somebody keeps to themselves for longer than a write waits."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from pocketbench.plan import Plan, Request
from pocketbench.store import engine, spool
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

HELD_S = 15.0


def test_fifteen_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first write gives up after its ten and is spooled, the second gets in; nothing is lost or doubled."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path, request = tmp_path / "results.db", Request((facts.case(),), Plan(seed=5))
    opened = Store(str(path))
    run_id = opened.create_run(request, request_doc(request))
    begun = threading.Event()

    def holding() -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        begun.set()
        time.sleep(HELD_S)
        other.execute("ROLLBACK")
        other.close()

    holder = threading.Thread(target=holding)
    holder.start()
    assert begun.wait(10)
    begin = time.monotonic()
    opened.save_process(run_id, "key", facts.process())
    assert engine.BUSY_MS / 1000 <= time.monotonic() - begin < HELD_S
    assert len(list(spool.folder().glob("*.json"))) == 1
    opened.save_result(run_id, "key", facts.result())
    holder.join()
    opened.finish_run(run_id)
    assert (len(opened.processes(run_id)["key"]), len(opened.results(run_id))) == (1, 1)
    assert not list(spool.folder().glob("*"))
    opened.close()
