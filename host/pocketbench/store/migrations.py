"""From an older schema to today's, forward only, in one transaction under a lock.

Each step says in literal SQL what it does, which SQLite and PostgreSQL both take: a step may not change any more once
somebody's store has taken it, whatever becomes of schema.py. An SQLite file is copied before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, insert, inspect, select, text, update
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pocketbench.errors import StoreError
from pocketbench.series import series_of_doc
from pocketbench.store import schema
from pocketbench.store.engine import Database

# Two hosts that open a store at once: the other one waits as long as a large store takes.
PATIENCE_S = 120.0
# Of our lock in PostgreSQL, among those of others in the same database; any number that is always the same.
LOCK = 0x706F636B6574
CHUNK = 1000


def migrate(database: Database) -> None:
    """Make the tables, or bring them up to date. StoreError: newer, not ours, or the copy cannot be made."""
    with database.reader.connect() as connection:
        found = _version(connection, database)
        if database.path is not None:
            # It stays so. Only now: a file that is refused is not touched.
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        if found == schema.VERSION and not _unnamed(connection):
            return
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            _migrate(database)
            return
        except OperationalError as error:
            # Another host at the same work makes this one wait.
            if time.monotonic() > end or not any(word in str(error.orig) for word in ("locked", "lock timeout")):
                raise


def _migrate(database: Database) -> None:
    with database.turn, database.writer.begin() as connection:
        if database.path is None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        found = _version(connection, database)
        if found is None:
            schema.metadata.create_all(connection)
            connection.execute(insert(schema.meta), [{"key": "schema", "value": str(schema.VERSION)}])
            return
        if found < schema.VERSION and database.path is not None:
            # By another connection: this one is inside the transaction that keeps everybody else from writing.
            _copy(database, database.path, found)
        for version in range(found + 1, schema.VERSION + 1):
            STEPS[version](connection)
        if _unnamed(connection):
            name_series(connection)
        connection.execute(update(schema.meta).where(schema.meta.c.key == "schema").values(value=str(schema.VERSION)))


def _version(connection: Connection, database: Database) -> int | None:
    """None where there is nothing yet. StoreError: newer, or somebody else's."""
    found_in = inspect(connection)
    if not found_in.has_table(schema.meta.name):
        others = found_in.get_table_names() if database.path is not None else ()
        if others:
            raise StoreError(
                f"{database.name} is a database of something else (it has a table {others[0]}): name another file"
            )
        return None
    known = {column["name"] for column in found_in.get_columns(schema.meta.name)}
    query = select(schema.meta.c.value).where(schema.meta.c.key == "schema")
    found = connection.execute(query).scalar() if known == {"key", "value"} else None
    if found is None or not found.isdigit() or int(found) < 1:
        raise StoreError(f"{database.name} has a table 'meta' that is not ours: name another store")
    if int(found) > schema.VERSION:
        raise StoreError(
            f"the store {database.name} has schema {found}, this version knows {schema.VERSION}: "
            "update pocketbench, or name another with --store; nothing was changed"
        )
    return int(found)


def _copy(database: Database, path: Path, version: int) -> None:
    """A whole, compact database beside it."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    copy = path.with_name(f"{path.name}.schema{version}-{moment}")
    try:
        with database.reader.connect() as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(copy),))
    except SQLAlchemyError as error:
        with suppress(OSError):
            copy.unlink()
        raise StoreError(
            f"the store {path} is of an older version, and the copy that is made before it is changed failed "
            f"({database.cause(error)}): make room for {path.stat().st_size / 1e6:.0f} MB there; nothing was changed"
        ) from error


def _unnamed(connection: Connection) -> bool:
    """Are there results without a series? Hosts that still run an older version write such."""
    table = schema.result
    return connection.execute(select(table.c.id).where(table.c.series == "").limit(1)).first() is not None


def name_series(connection: Connection) -> None:
    """Give results without a series theirs, by their documents and what their runs were asked for."""
    result, run = schema.result, schema.run
    query = select(result.c.id, result.c.run_id, result.c.case_key, result.c.doc).where(result.c.series == "")
    change = update(result).where(result.c.id == bindparam("which")).values(series=bindparam("name"))
    while rows := connection.execute(query.limit(CHUNK)).all():
        runs = select(run.c.id, run.c.request).where(run.c.id.in_({row.run_id for row in rows}))
        requests = {row.id: row.request for row in connection.execute(runs)}
        _name_cases(connection, requests, rows)
        names = []
        for row in rows:
            cases = requests.get(row.run_id, {}).get("cases", ())
            asked: Mapping[str, Any] = next((case for case in cases if case.get("key") == row.case_key), {})
            names.append({"which": row.id, "name": series_of_doc(row.doc, asked)})
        connection.execute(change, names)


def _name_cases(connection: Connection, requests: Mapping[str, Any], rows: Sequence[Any]) -> None:
    """Requests did not always say which case is which: by their results they do."""
    changed = set()
    for row in rows:
        for case in requests.get(row.run_id, {}).get("cases", ()):
            if "key" not in case and _asked(case) == _measured(row.doc):
                case["key"] = row.case_key
                changed.add(row.run_id)
                break
    for id_ in changed:
        connection.execute(update(schema.run).where(schema.run.c.id == id_).values(request=requests[id_]))


def _asked(case: Mapping[str, Any]) -> tuple[Any, ...]:
    runtime = str(case["runtime"]).partition("=")[0]
    return case["device"], case["model"]["sha256"], runtime, case["delegate"], case["threads"], tuple(case["cpus"])


def _measured(doc: Mapping[str, Any]) -> tuple[Any, ...]:
    runtime, delegate = doc["runtime"]["name"], doc["delegate"]["requested"]
    return doc["device"], doc["model"]["sha256"], runtime, delegate, doc["threads"], tuple(doc.get("cpus") or ())


SQLITE_METRICS: tuple[str, ...] = (
    """CREATE TABLE metric_2 (
        result_id VARCHAR(40) NOT NULL, name VARCHAR(60) NOT NULL, unit VARCHAR(20) NOT NULL,
        direction INTEGER NOT NULL, value FLOAT NOT NULL, lo FLOAT, hi FLOAT, PRIMARY KEY (result_id, name),
        FOREIGN KEY (result_id) REFERENCES result (id) ON DELETE CASCADE) WITHOUT ROWID""",
    "INSERT INTO metric_2 SELECT result_id, name, unit, direction, value, lo, hi FROM metric ORDER BY result_id, name",
    "DROP TABLE metric",
    "ALTER TABLE metric_2 RENAME TO metric",
)


def _to_2(connection: Connection) -> None:
    """Series and nights."""
    # SQLite's index is wider, and its metrics lie otherwise: see schema.py.
    wide: str = ""
    clustered: tuple[str, ...] = ()
    if connection.dialect.name == "sqlite":
        wide, clustered = ", id, status, night, runtime_version, device_fingerprint, model_sha256", SQLITE_METRICS
    for statement in (
        *clustered,
        "ALTER TABLE result ADD COLUMN series VARCHAR(40) DEFAULT '' NOT NULL",
        "ALTER TABLE result ADD COLUMN night VARCHAR(120)",
        f"CREATE INDEX result_by_series ON result (series, created_utc{wide})",
        "CREATE INDEX result_by_night ON result (night)",
        """CREATE TABLE night (
            id VARCHAR(120) NOT NULL, suite TEXT NOT NULL, label VARCHAR(40) NOT NULL,
            created_utc VARCHAR(40) NOT NULL, finished_utc VARCHAR(40), state JSON NOT NULL, PRIMARY KEY (id))""",
        "CREATE INDEX night_of_suite ON night (suite, label)",
        """CREATE TABLE baseline (
            suite TEXT NOT NULL, series VARCHAR(40) NOT NULL, created_utc VARCHAR(40) NOT NULL,
            result_id VARCHAR(40) NOT NULL, pinned_by TEXT NOT NULL, reason TEXT NOT NULL,
            PRIMARY KEY (suite, series, created_utc),
            FOREIGN KEY (result_id) REFERENCES result (id) ON DELETE RESTRICT)""",
        "CREATE INDEX baseline_of_result ON baseline (result_id)",
        """CREATE TABLE alarm (
            id VARCHAR(40) NOT NULL, suite TEXT NOT NULL, device TEXT NOT NULL, series VARCHAR(40),
            metric VARCHAR(60) NOT NULL, state VARCHAR(20) NOT NULL, color VARCHAR(10) NOT NULL,
            opened VARCHAR(40) NOT NULL, closed VARCHAR(40), "by" TEXT, effect FLOAT NOT NULL, doc JSON NOT NULL,
            PRIMARY KEY (id))""",
        "CREATE INDEX alarm_of_suite ON alarm (suite, state)",
    ):
        connection.execute(text(statement))


def _to_3(connection: Connection) -> None:
    """Many hosts: files, who serves what, how far it is, and health."""
    data = "BLOB" if connection.dialect.name == "sqlite" else "BYTEA"
    for statement in (
        f"""CREATE TABLE blob (
            sha256 VARCHAR(64) NOT NULL, part INTEGER NOT NULL, used_utc VARCHAR(40) NOT NULL, data {data} NOT NULL,
            PRIMARY KEY (sha256, part))""",
        """CREATE TABLE claim (
            address VARCHAR(300) NOT NULL, device TEXT NOT NULL, kind TEXT, lab_host TEXT NOT NULL,
            owner TEXT NOT NULL, seen_s FLOAT NOT NULL, PRIMARY KEY (address))""",
        """CREATE TABLE share (
            run_id VARCHAR(40) NOT NULL, name VARCHAR(200) NOT NULL, device TEXT NOT NULL, lab_host TEXT NOT NULL,
            attempt INTEGER NOT NULL, doc JSON NOT NULL, PRIMARY KEY (run_id, name),
            FOREIGN KEY (run_id) REFERENCES run (id) ON DELETE CASCADE)""",
        """CREATE TABLE checkup (
            device VARCHAR(200) NOT NULL, created_utc VARCHAR(40) NOT NULL, passed INTEGER NOT NULL, text TEXT NOT NULL,
            PRIMARY KEY (device, created_utc))""",
    ):
        connection.execute(text(statement))


STEPS: Mapping[int, Callable[[Connection], None]] = {2: _to_2, 3: _to_3}
