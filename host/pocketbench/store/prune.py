"""Raw samples take most of a store's room, and are asked for a few months at most; results keep their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Select, delete, exists, func, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from pocketbench.store import schema
from pocketbench.store.store import Store

# In one transaction, so that other hosts' writes come in between.
AT_ONCE = 500


@dataclass(frozen=True)
class Pruned:
    """What was deleted, or would be. `file_bytes` is by how much an SQLite file became smaller."""

    results: int
    rows: int
    sample_bytes: int
    file_bytes: int | None = None
    kept_large: str = ""
    """Why the file did not become smaller."""


def prune(store: Store, before_utc: str, dry_run: bool) -> Pruned:
    """Delete the samples of results whose runs began before that time.

    Kept are those of baselines, of the newest good and the newest other result of each series, and of runs that were
    cut, which --resume may need. StoreError where the store cannot be read or written.
    """
    sample = schema.sample
    with store.database.reading() as connection:
        cases = [(row.run_id, row.case_key) for row in connection.execute(_old(before_utc))]
    found = Pruned(0, 0, 0)
    for start in range(0, len(cases), AT_ONCE):
        chosen = _of(cases[start : start + AT_ONCE])
        counted = select(
            func.count(func.distinct(sample.c.run_id + "/" + sample.c.case_key)),
            func.count(),
            func.coalesce(func.sum(func.length(sample.c.data)), 0),
        ).where(chosen)
        with store.database.reading() if dry_run else store.database.writing() as connection:
            results, rows, size = map(int, connection.execute(counted).one())
            found = Pruned(found.results + results, found.rows + rows, found.sample_bytes + size)
            if not dry_run:
                connection.execute(delete(sample).where(chosen))
    if dry_run or not found.rows or store.database.path is None:
        return found
    return _shrunk(store, found)


def _old(before_utc: str) -> Select[tuple[str, str]]:
    run, result, baseline, sample = schema.run, schema.result, schema.baseline, schema.sample
    newest = func.row_number().over(
        partition_by=(result.c.series, result.c.status == "OK"), order_by=(result.c.created_utc.desc(), result.c.id)
    )
    ranked = select(result.c.id, result.c.run_id, result.c.case_key, newest.label("rank")).subquery()
    of_case = (sample.c.run_id == ranked.c.run_id) & (sample.c.case_key == ranked.c.case_key)
    return (
        select(ranked.c.run_id, ranked.c.case_key)
        .join(run, run.c.id == ranked.c.run_id)
        .where(
            ranked.c.rank > 1,
            run.c.created_utc < before_utc,
            run.c.finished_utc.is_not(None),
            ~exists().where(baseline.c.result_id == ranked.c.id),
            exists().where(of_case),
        )
        .order_by(run.c.created_utc, ranked.c.run_id)
    )


def _of(cases: Sequence[tuple[str, str]]) -> ColumnElement[bool]:
    """Samples of those cases; not of one that was pinned since they were looked up."""
    sample, result, baseline = schema.sample, schema.result, schema.baseline
    pinned = (
        exists()
        .where(baseline.c.result_id == result.c.id)
        .where(result.c.run_id == sample.c.run_id, result.c.case_key == sample.c.case_key)
    )
    return tuple_(sample.c.run_id, sample.c.case_key).in_(cases) & ~pinned


def _shrunk(store: Store, found: Pruned) -> Pruned:
    """SQLite keeps the room for later rows, unless it is told to give it back: that takes as much again meanwhile."""
    path = store.database.path
    assert path is not None
    try:
        with store.database.reader.connect() as connection:
            # What is still in the log belongs to the file's size, before and after.
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            before = path.stat().st_size
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    except SQLAlchemyError as error:
        return replace(found, kept_large=store.database.cause(error))
    return replace(found, file_bytes=max(0, before - path.stat().st_size))
