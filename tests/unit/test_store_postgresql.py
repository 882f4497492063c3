"""What only a server can do: go away, come back, refuse; and what its address must not tell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text

from pocketbench.errors import StoreError, UsageError
from pocketbench.plan import Plan, Request
from pocketbench.store import engine, lease, spool
from pocketbench.store.store import Store, request_doc
from tests.peers import postgresql
from tests.unit import facts

REQUEST = Request((facts.case(),), Plan(seed=5))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def mortal() -> Iterator[postgresql.Server]:
    """A server that may be killed; what it said is stored is stored."""
    why = postgresql.why_not()
    if why is not None:
        pytest.skip(why)
    with postgresql.postgresql(durable=True) as started:
        yield started


def count(opened: Store, table: str) -> int:
    with opened.database.reading() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def spooled() -> list[Path]:
    return sorted(spool.folder().glob("*")) if spool.folder().is_dir() else []


def test_a_server_that_crashes_in_the_middle_of_a_run(mortal: postgresql.Server) -> None:
    """Rows wait on disk without a password, nothing is lost or doubled, and the run is complete."""
    url = mortal.database()
    opened = Store(url)
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    held = lease.take(opened, "pi5", "ann@another-host (process 12)")
    fence = (held.device, held.epoch)
    opened.save_process(run_id, "key", facts.process(0), fence)
    mortal.stop("immediate")
    opened.save_process(run_id, "key", facts.process(1), fence)
    opened.save_result(run_id, "key", facts.result(), fence)
    assert len(spooled()) == 2
    assert not any(word in path.read_text() for path in spooled() for word in (postgresql.PASSWORD, "s3cret"))
    with pytest.raises(StoreError, match=r"cannot be written: .*; is the server up.*--store names another"):
        opened.finish_run(run_id)
    mortal.start()
    opened.save_process(run_id, "key", facts.process(2), fence)
    assert sorted(opened.processes(run_id)["key"]) == [0, 2]
    opened.finish_run(run_id)
    assert spooled() == []
    assert sorted(opened.processes(run_id)["key"]) == [0, 1, 2]
    opened.close()
    again = Store(url)
    assert again.results(run_id)["key"].id == facts.result().id
    assert (count(again, "process"), count(again, "result"), count(again, "metric")) == (3, 1, 4)
    with pytest.raises(UsageError, match="is complete"):
        again.unfinished_run(REQUEST.digest, run_id)
    again.close()


def test_what_was_replayed_by_halves_is_whole(mortal: postgresql.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that died between storing a row and forgetting it replays the row once more: it is there once."""
    url = mortal.database()
    opened = Store(url)
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    mortal.stop("immediate")
    opened.save_result(run_id, "key", facts.result())
    kept = spooled()[0].read_text()
    mortal.start()
    for _ in range(2):
        spooled_path = spool.folder() / "again.json"
        spooled_path.write_text(kept)
        Store(url).close()
    assert spooled() == []
    assert (count(opened, "result"), count(opened, "metric")) == (1, 4)
    opened.close()


def test_a_lock_that_somebody_holds_is_not_waited_for_for_ever(
    server: postgresql.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 200)
    url = server.database()
    opened = Store(url)
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    with opened.database.writing() as other:
        other.execute(text("LOCK TABLE process IN ACCESS EXCLUSIVE MODE"))
        opened.save_process(run_id, "key", facts.process(0))
        assert len(spooled()) == 1
    opened.finish_run(run_id)
    assert (spooled(), count(opened, "process")) == ([], 1)
    opened.close()


def test_names_in_another_script_and_control_characters(opened: Store) -> None:
    """PostgreSQL takes no NUL in a text; documents have it escaped."""
    odd = facts.result(device="тест-устройство", labels={"note": "a\0b\U0001f600 \u202e"})
    opened.save_result(opened.create_run(REQUEST, request_doc(REQUEST)), "key", odd)
    assert opened.history("тест-устройство", None, 1)[0][2].labels == odd.labels


def test_a_row_that_the_database_refuses(opened: Store) -> None:
    """Of a run that is gone: it would be refused when replayed, and is not spooled."""
    with pytest.raises(StoreError, match="refuses a row of result"):
        opened.save_result("gone", "key", facts.result())
    assert spooled() == []


WRONG: tuple[tuple[Callable[[str], str], str], ...] = (
    (lambda url: url.replace(quote(postgresql.PASSWORD, safe=""), "wr0ng-s3cret"), "password authentication failed"),
    (lambda url: url.rpartition("/")[0] + "/none", 'database "none" does not exist'),
    (lambda url: url + "?password=s3cret&nonsense=1", "nonsense"),
    (lambda url: url.replace("127.0.0.1", "127.0.0.1:notaport-s3cret"), "not a URL"),
    (lambda url: url.partition("@")[0] + "@127.0.0.1:1/results", "refused"),
    (lambda url: url.rpartition("/")[0], "names no database"),
    (lambda url: url.replace("postgresql", "mysql"), "give a PATH"),
)


@pytest.mark.parametrize(("change", "told"), WRONG, ids=[told for _, told in WRONG])
def test_an_address_that_does_not_work_is_told_without_its_password(
    server: postgresql.Server, tmp_path: Path, change: Callable[[str], str], told: str
) -> None:
    """Through the command line, too: one line, exit code 2."""
    url = change(server.database())
    done = subprocess.run(
        [sys.executable, "-m", "pocketbench", "history", "--store", url],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert told in done.stderr and done.stderr.startswith("Error: ")
    shown = done.stdout + done.stderr
    assert "s3cret" not in shown and "Traceback" not in shown and "defect" not in shown


def test_a_server_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"lab:5432/results needs .* pip install 'pocketbench\[postgresql\]'"):
        Store("postgresql://ann:s3cret@lab:5432/results")


@pytest.mark.parametrize(
    ("text_", "name"),
    [
        ("postgres://ann:pw@lab/results", "ann@lab/results"),
        ("postgresql+psycopg://ann@lab:5433/results?sslmode=require", "ann@lab:5433/results"),
        ("sqlite:////data/results.db", "/data/results.db"),
        ("/data/what?is#this%20.db", "/data/what?is#this%20.db"),
    ],
)
def test_what_a_store_is_called(text_: str, name: str) -> None:
    assert engine.name(text_) == name


def test_odd_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for odd in ("what?is=this", "a b#c%20d", "ünï"):
        Store(f"{odd}.db").close()
        assert (tmp_path / f"{odd}.db").is_file()


def test_a_frozen_host_holds_nobody_up(server: postgresql.Server) -> None:
    """The server ends the transaction of a host that fell asleep in it."""
    opened = Store(server.database())
    with opened.database.reading() as connection:
        told: Any = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()
    opened.close()
    assert told == f"{engine.ASLEEP_S // 60}min"
