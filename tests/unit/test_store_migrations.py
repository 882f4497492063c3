"""An older store becomes today's, once, with all that was in it; a newer, a broken or a foreign one stays as it is."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, inspect, select, text, update

from pocketbench.errors import StoreError
from pocketbench.series import series_key
from pocketbench.store import engine, migrations, schema, spool
from pocketbench.store.store import Store
from tests.unit import facts

DATA = Path(__file__).parents[1] / "data"
# What the first schema's own code wrote: two runs, one of them cut, of two cases.
SCHEMA_1 = (DATA / "schema1.sql").read_text()
TABLES = ("meta", "run", "process", "sample", "result", "metric")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def old_file(path: Path) -> Path:
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA_1)
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return path


@pytest.fixture
def old(url: str, tmp_path: Path) -> str:
    """A store of schema 1."""
    if "://" not in url:
        old_file(Path(url))
        return url
    # The same rows, into the tables that the first schema's own code makes there.
    source = sqlite3.connect(old_file(tmp_path / "source.db"))
    source.row_factory = sqlite3.Row
    database = engine.connect(url)
    with database.writing() as connection:
        for statement in (DATA / "schema1-postgresql.sql").read_text().split(";\n"):
            connection.execute(text(statement))
        made = MetaData()
        made.reflect(connection)
        for name in TABLES:
            rows = [dict(row) for row in source.execute(f"SELECT * FROM {name}")]
            for row in rows:
                row.update({key: json.loads(row[key]) for key in ("doc", "request") if key in row})
            connection.execute(made.tables[name].insert(), rows)
    database.close()
    source.close()
    return url


def shape(connection: Connection) -> dict[str, Any]:
    """All that a database knows of its tables."""
    found = inspect(connection)
    return {
        table: {
            "columns": [
                (
                    column["name"],
                    str(column["type"]),
                    column["nullable"],
                    str(column["default"] or "").partition(":")[0],
                )
                for column in found.get_columns(table)
            ],
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "foreign": sorted(
                (key["constrained_columns"], key["referred_table"], key["options"].get("ondelete"))
                for key in found.get_foreign_keys(table)
            ),
            "indexes": sorted((index["name"] or "", index["column_names"]) for index in found.get_indexes(table)),
            "unique": [one["column_names"] for one in found.get_unique_constraints(table)],
        }
        for table in sorted(found.get_table_names())
    }


def test_nothing_is_lost_and_the_series_are_named(old: str) -> None:
    opened = Store(old)
    rows = opened.history(None, None, 10)
    assert [result.id for _, _, result in rows] == ["r20", "r21", "r10", "r11"]
    assert opened.find_result("r10")[1].samples_ns == (tuple(facts.samples(10, n=8).tolist()),)
    with opened.database.reading() as connection:
        named = {row.id: row.series for row in connection.execute(text("SELECT id, series FROM result"))}
        count = connection.execute(text("SELECT count(*) FROM metric")).scalar()
    # The second case was asked for a shape and a signature: its document does not say so, its run does.
    second = facts.result(threads=4, shapes={"x": [1, 4]}, signature="serve")
    first = series_key(facts.result())
    assert named == {"r10": first, "r20": first, "r11": series_key(second), "r21": series_key(second)}
    assert len(set(named.values())) == 2 and count == 16
    run_id = "20260102-010000-aaaaaa"
    digest = "f616757f2ce08fac183905a12f478c429fdcddee38c12b46a08afe22e676dffb"
    assert opened.unfinished_run(digest, None) == run_id
    opened.save_result(run_id, "third", facts.result(id="r22"), night="s/2026-01-02")
    opened.close()


def test_requests_that_did_not_name_their_cases(old: str) -> None:
    """The first versions wrote no key with a case: results tell which is which."""
    database = engine.connect(old)
    told: dict[str, list[str]] = {}
    with database.writing() as connection:
        table = schema.run
        for row in connection.execute(select(table.c.id, table.c.request)).all():
            told[row.id] = [case.pop("key") for case in row.request["cases"]]
            connection.execute(update(table).where(table.c.id == row.id).values(request=row.request))
    database.close()
    opened = Store(old)
    assert {id_: [case["key"] for case in opened.run_request(id_)[1]["cases"]] for id_ in told} == told
    with opened.database.reading() as connection:
        named = {row.id: row.series for row in connection.execute(text("SELECT id, series FROM result"))}
    assert named["r11"] == series_key(facts.result(threads=4, shapes={"x": [1, 4]}, signature="serve"))
    opened.close()


def test_an_old_store_becomes_what_a_new_one_is(old: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    Store(old).close()
    fresh = str(tmp_path / "fresh.db") if "://" not in old else request.getfixturevalue("server").database()
    shapes = []
    for url in (old, fresh):
        opened = Store(url)
        with opened.database.reading() as connection:
            shapes.append(shape(connection))
            if "://" not in url:
                made = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'metric'")).scalar_one()
                assert made.rstrip().endswith("WITHOUT ROWID")
        opened.close()
    assert shapes[0] == {table: {**parts, "columns": shapes[0][table]["columns"]} for table, parts in shapes[1].items()}
    assert {table: sorted(parts["columns"]) for table, parts in shapes[0].items()} == {
        table: sorted(parts["columns"]) for table, parts in shapes[1].items()
    }
    assert set(shapes[0]) == set(schema.metadata.tables)


def test_a_copy_is_made_before(tmp_path: Path) -> None:
    path = old_file(tmp_path / "results.db")
    Store(str(path)).close()
    copies = list(tmp_path.glob("results.db.schema1-*Z"))
    assert len(copies) == 1
    before, copy = old_file(tmp_path / "before.db"), sqlite3.connect(copies[0])
    other = sqlite3.connect(before)
    assert sorted(copy.iterdump()) == sorted(other.iterdump())
    copy.close()
    other.close()
    Store(str(path)).close()
    assert list(tmp_path.glob("results.db.schema1-*Z")) == copies


def test_without_room_for_a_copy_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_file(tmp_path / "results.db")
    before = path.read_bytes()
    # The name is taken: the database refuses to write there, as it does where there is no room.
    monkeypatch.setattr(migrations, "datetime", Frozen)
    taken = tmp_path / "results.db.schema1-20260101T000000000000Z"
    taken.mkdir()
    (taken / "inside").touch()
    with pytest.raises(StoreError, match=r"is of an older version, and the copy .* failed .*nothing was changed"):
        Store(str(path))
    assert path.read_bytes() == before


class Frozen:
    """A clock that stands."""

    @staticmethod
    def now(_: object) -> Any:
        from datetime import UTC, datetime

        return datetime(2026, 1, 1, tzinfo=UTC)


def test_a_step_that_fails_changes_nothing(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE result ADD COLUMN series VARCHAR(40)"))
        connection.execute(text("DELETE FROM metric"))
        connection.execute(text("CREATE INDEX broken ON nothing (at_all)"))

    with monkeypatch.context() as broken:
        broken.setattr(migrations, "STEPS", {**migrations.STEPS, 2: half})
        with pytest.raises(StoreError, match="cannot be opened"):
            Store(old)
    opened = Store(old)
    assert len(opened.history(None, None, 10)) == 4
    with opened.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM metric")).scalar() == 16
    opened.close()


def test_hosts_that_open_at_once_migrate_once(old: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pocketbench.store.store import Store; print(len(Store(sys.argv[1]).history(None, None, 9)))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, old], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in running:
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (0, "4\n"), stderr
    if "://" not in old:
        assert len(list(tmp_path.glob("results.db.schema1-*Z"))) == 1


def test_rows_of_an_older_version_get_their_series(opened: Store, url: str) -> None:
    """From a host that was still running when the store was brought up to date, and from its spool."""
    run = "INSERT INTO run VALUES ('r', 'then', NULL, 'lab', '0.1', 'd', '{}')"
    with opened.database.writing() as connection:
        connection.execute(text(run))
    doc = json.loads(SCHEMA_1.partition("'cpu',1,'OK','")[2].partition("')")[0])
    row = {
        "run_id": "r",
        "created_utc": "2026-01-01T01:00:00.000Z",
        "device": "pi5",
        "model_name": "net",
        "model_sha256": "ab" * 32,
        "runtime": "onnxruntime",
        "delegate": "cpu",
        "threads": 1,
        "status": "OK",
        "doc": doc,
    }
    with opened.database.writing() as connection:
        connection.execute(schema.result.insert(), [{**row, "id": "running", "case_key": "a"}])
    spool.folder().mkdir(parents=True)
    rows = [["result", [{**row, "id": "spooled", "case_key": "b"}]], ["metric", []]]
    address = f"sqlite:///{url}" if "://" not in url else opened.database.name
    (spool.folder() / "old.json").write_text(json.dumps({"url": address, "rows": rows}))
    again = Store(url)
    with again.database.reading() as connection:
        named = connection.execute(text("SELECT series, count(*) FROM result GROUP BY series")).all()
    again.close()
    assert named == [(series_key(facts.result()), 2)]


def test_a_newer_store_is_refused_and_stays_as_it_is(url: str) -> None:
    opened = Store(url)
    with opened.database.writing() as connection:
        connection.execute(text("UPDATE meta SET value = '4'"))
    opened.close()
    before = Path(url).read_bytes() if "://" not in url else b""
    with pytest.raises(
        StoreError, match=r"has schema 4, this version knows 3: update pocketbench.*nothing was changed"
    ):
        Store(url)
    if before:
        assert Path(url).read_bytes() == before


def test_a_truncated_file_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = old_file(tmp_path / "results.db")
    data = path.read_bytes()
    for size in (100, 4096, 4100, len(data) // 2, len(data) - 5000):
        path.write_bytes(data[:size])
        with pytest.raises(StoreError, match=r"results\.db cannot be opened: .*put back a copy of the file; --store"):
            Store(str(path))
        assert path.read_bytes() == data[:size]
    assert [each.name for each in tmp_path.glob("results.db*") if each.name.startswith("results.db.")] == []


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    for statement in ("CREATE TABLE bookmarks (a)", "CREATE TABLE meta (a, b)", "CREATE TABLE meta (key, value)"):
        path = tmp_path / "other.db"
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
        before = path.read_bytes()
        with pytest.raises(StoreError, match=r"other\.db (is a database of something else|has a table 'meta')"):
            Store(str(path))
        assert path.read_bytes() == before
