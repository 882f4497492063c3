"""Rows into the database, or onto disk until it is back."""

from __future__ import annotations

import json
import os
import uuid
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs
from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from pocketbench.errors import DeviceBusy, StoreError, UsageError, overtaken
from pocketbench.series import series_of_doc
from pocketbench.store import engine, schema
from pocketbench.store.engine import Database

Row = dict[str, Any]
# A device's name in the lease table, and the epoch that its lease must still have for rows to be stored.
Fence = tuple[str, int]
# How the lease of a share begins, which holds across devices.
SHARE = "share "
Rows = Sequence[tuple[Table, Sequence[Row]]]


def folder() -> Path:
    """Where rows wait that the database could not take."""
    return Path(platformdirs.user_state_dir("pocketbench")) / "spool"


def write(database: Database, rows: Rows, fence: Fence | None) -> None:
    """Store rows, or spool them. DeviceBusy where the fence fell; StoreError where neither could be done."""
    try:
        _insert(database, rows, fence)
    except (IntegrityError, DataError) as error:
        # These would fail as well when they are replayed.
        raise StoreError(
            f"the store {database.name} refuses a row of {rows[0][0].name}: {database.cause(error)}"
        ) from error
    except SQLAlchemyError as error:
        try:
            _spool(database, rows, fence)
        except OSError as second:
            raise StoreError(
                f"the store {database.name} cannot be written ({database.cause(error)}), "
                f"and neither can {folder()} ({second.strerror}): make room for them and go on with --resume"
            ) from error


def replay(database: Database) -> None:
    """Store what was spooled for this database, once; what cannot be stored now stays."""
    for path in _spooled():
        try:
            doc = json.loads(path.read_text())
            if not _is_for(database, doc):
                continue
            rows = [(schema.metadata.tables[name], [_thaw(row) for row in rows]) for name, rows in doc["rows"]]
            for table, values in rows:
                if table is schema.result:
                    _complete(values)
            fence = doc.get("fence")
            _insert(database, rows, (str(fence[0]), int(fence[1])) if fence else None)
        except DeviceBusy:
            # Another device has begun the share anew: rows of both would be mixed.
            pass
        except (SQLAlchemyError, UsageError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        path.unlink(missing_ok=True)


def waiting(database: Database) -> bool:
    """Are there rows for this database that it could not take yet?"""
    for path in _spooled():
        try:
            if _is_for(database, json.loads(path.read_text())):
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return False


def _spooled() -> Sequence[Path]:
    return sorted(folder().glob("*.json")) if folder().is_dir() else ()


def _is_for(database: Database, doc: Mapping[str, Any]) -> bool:
    # Rows of earlier versions have the whole URL.
    return database.name in (doc["url"], engine.name(doc["url"]))


def stands(connection: Connection, fence: Fence) -> bool:
    """Is the lease still that one? It stays so until the transaction ends."""
    device, epoch = fence
    lease = select(schema.lease.c.epoch).where(schema.lease.c.device == device).with_for_update()
    return bool(connection.execute(lease).scalar() == epoch)


def _insert(database: Database, rows: Rows, fence: Fence | None) -> None:
    """The first table's one row is what the others belong to: where it is there already, nothing is added."""
    with database.turn, database.writer.begin() as connection:
        if fence is not None and not stands(connection, fence):
            raise overtaken(fence[0])
        (table, [first]), *others = rows
        if table is schema.result:
            same = (table.c.run_id == first["run_id"]) & (table.c.case_key == first["case_key"])
            connection.execute(delete(table).where(same, table.c.id != first["id"], schema.is_again(table)))
        # Not by rowcount, which drivers do not keep for an INSERT.
        added = database.insert(table).on_conflict_do_nothing().returning(*table.primary_key)
        if connection.execute(added, first).first() is None:
            return
        for table, values in others:
            if values:
                connection.execute(database.insert(table).on_conflict_do_nothing(), list(values))


def _complete(values: Sequence[Row]) -> None:
    """Columns that results of earlier versions lack."""
    for row in values:
        row.setdefault("series", series_of_doc(row["doc"], {}))


def _spool(database: Database, rows: Rows, fence: Fence | None) -> None:
    """On disk when this returns, whole or not at all."""
    where = folder()
    where.mkdir(parents=True, exist_ok=True)
    doc: dict[str, Any] = {
        "url": database.name,
        "rows": [[table.name, [_freeze(row) for row in values]] for table, values in rows],
    }
    # What one device measured is true whoever has it now; of a share it may be another device's turn.
    doc |= {"fence": list(fence)} if fence is not None and fence[0].startswith(SHARE) else {}
    partial = where / f"{uuid.uuid4().hex}.partial"
    try:
        with partial.open("w") as file:
            json.dump(doc, file)
            file.flush()
            os.fsync(file.fileno())
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%f")
        partial.replace(where / f"{moment}Z-{uuid.uuid4().hex[:8]}.json")
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _freeze(row: Row) -> Row:
    return {k: {"base64": b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in row.items()}


def _thaw(row: Row) -> Row:
    return {k: b64decode(v["base64"]) if isinstance(v, dict) and set(v) == {"base64"} else v for k, v in row.items()}
