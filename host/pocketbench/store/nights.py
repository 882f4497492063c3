"""Nights, baselines and alarms in the store, and the series that they are judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select, update

from pocketbench.documents import from_doc, to_doc
from pocketbench.night import Alarm
from pocketbench.results import Result
from pocketbench.store import codec, schema
from pocketbench.store.series import mixed_units
from pocketbench.store.store import ITEMS_ROUND, Store, now

# As many as a page shows and the rules look at, with room for those that an alarm takes out.
NIGHTS = 40
CHUNK = 500
# How labels begin of a suite that was run once, and is no night.
RUN = "run."


@dataclass(frozen=True)
class Stored:
    """A result with where it lies in the store."""

    run_id: str
    case_key: str
    series: str
    result: Result
    night: str | None = None


@dataclass(frozen=True)
class Earlier:
    """A series in one earlier night: what can be marked, and (value, lo, hi) of each metric."""

    night: str
    fingerprint: str | None
    model_sha256: str
    runtime_version: str | None
    values: Mapping[str, tuple[float, float | None, float | None]]


@dataclass(frozen=True)
class Pinned:
    """The baseline of a series."""

    series: str
    result_id: str
    created_utc: str
    by: str
    reason: str


def night_id(suite: str, label: str) -> str:
    """What results of a night carry."""
    return f"{suite}/{label}"


def begin(store: Store, suite: str, label: str, state: Mapping[str, Any]) -> None:
    """Note that a night has begun; nothing where it has already."""
    row = {"id": night_id(suite, label), "suite": suite, "label": label, "created_utc": now(), "state": dict(state)}
    with store.database.writing() as connection:
        connection.execute(store.database.insert(schema.night).on_conflict_do_nothing(), [row])


def finish(store: Store, suite: str, label: str, state: Mapping[str, Any], alarms: Iterable[Alarm]) -> None:
    """The night's page and its alarms, in one transaction."""
    table = schema.night
    with store.database.writing() as connection:
        done = update(table).where(table.c.id == night_id(suite, label))
        connection.execute(done.values(finished_utc=now(), state=dict(state)))
        _put(store, connection, alarms)


def unfinished_run(store: Store, suite: str) -> str | None:
    """The label of the newest single run of a suite that was cut; None where there is none."""
    table = schema.night
    query = (
        select(table.c.label)
        .where(table.c.suite == suite, table.c.label.like(f"{RUN}%"), table.c.finished_utc.is_(None))
        .order_by(table.c.created_utc.desc())
        .limit(1)
    )
    with store.database.reading() as connection:
        return connection.execute(query).scalar()


def nights(store: Store, suite: str, limit: int = NIGHTS, finished: bool = True) -> list[Any]:
    """Rows (label, created_utc, finished_utc, state) of nights, not of single runs, newest first."""
    table = schema.night
    query = select(table).where(table.c.suite == suite, table.c.label.not_like(f"{RUN}%"))
    if finished:
        query = query.where(table.c.finished_utc.is_not(None))
    with store.database.reading() as connection:
        return list(connection.execute(query.order_by(table.c.created_utc.desc(), table.c.id.desc()).limit(limit)))


def suites(store: Store) -> list[str]:
    """Names of the suites that have nights."""
    with store.database.reading() as connection:
        return sorted(connection.execute(select(schema.night.c.suite).distinct()).scalars())


def results(store: Store, night: str) -> list[Stored]:
    """What a night has measured, without samples, oldest first: of a series the last one counts."""
    table = schema.result
    query = select(table).where(table.c.night == night).order_by(table.c.created_utc, table.c.id)
    with store.database.reading() as connection:
        rows = connection.execute(query).all()
    return [_stored(row) for row in rows]


def result(store: Store, result_id: str) -> Stored:
    """One result, without samples, by its whole id."""
    table = schema.result
    with store.database.reading() as connection:
        row = connection.execute(select(table).where(table.c.id == result_id)).one()
    return _stored(row)


def earlier(store: Store, suite: str, series: Sequence[str], labels: Sequence[str]) -> dict[str, list[Earlier]]:
    """Of each series its trusted results of those nights, in the order of `labels`; the last of each night.

    StoreError where a series has a metric in several units.
    """
    r, m = schema.result.c, schema.metric.c
    of_night = {night_id(suite, label): label for label in labels}
    found: dict[tuple[str, str], Earlier] = {}
    units: dict[tuple[str, str], str] = {}
    # Both from one snapshot, and no more columns than are used: there may be 100,000 rows.
    with store.database.snapshot() as connection:
        for first in range(0, len(series), CHUNK):
            some = (r.series.in_(series[first : first + CHUNK]), r.night.in_(list(of_night)), r.status == "OK")
            facts = select(r.id, r.series, r.night, r.device_fingerprint, r.model_sha256, r.runtime_version)
            metrics = select(m.result_id, m.name, m.unit, m.value, m.lo, m.hi).join_from(
                schema.result, schema.metric, m.result_id == r.id
            )
            series_of: dict[str, str] = {}
            values: dict[str, dict[str, tuple[float, float | None, float | None]]] = {}
            rows = connection.execute(facts.where(*some).order_by(r.created_utc, r.id)).all()
            for id_, key, night, fingerprint, sha256, version in rows:
                series_of[id_], values[id_] = key, {}
                found[key, of_night[night]] = Earlier(of_night[night], fingerprint, sha256, version, values[id_])
            for id_, name, unit, value, lo, hi in connection.execute(metrics.where(*some)).all():
                values[id_][name] = (value, lo, hi)
                if units.setdefault((series_of[id_], name), unit) != unit:
                    raise mixed_units(store, name, series_of[id_])
    made: dict[str, list[Earlier]] = {}
    for key in series:
        of_series = [found[key, label] for label in labels if (key, label) in found]
        if of_series:
            made[key] = of_series
    return made


def newest(store: Store, series: Sequence[str], nights_of: Sequence[str]) -> dict[str, Stored]:
    """The newest trusted result of each series in those nights (their ids)."""
    table = schema.result
    query = (
        select(table.c.series, table.c.id)
        .where(table.c.series.in_(series), table.c.night.in_(nights_of), table.c.status == "OK")
        .order_by(table.c.created_utc, table.c.id)
    )
    with store.database.reading() as connection:
        ids = {row.series: row.id for row in connection.execute(query)}
        rows = connection.execute(select(table).where(table.c.id.in_(ids.values()))).all()
    return {row.series: _stored(row) for row in rows}


def pin(store: Store, suite: str, series: str, result_id: str, by: str, reason: str) -> None:
    """A result is what a series is held against from now on."""
    row = {"suite": suite, "series": series, "created_utc": now(), "result_id": result_id}
    with store.database.writing() as connection:
        connection.execute(insert(schema.baseline), [{**row, "pinned_by": by, "reason": reason}])


def baselines(store: Store, suite: str) -> dict[str, Pinned]:
    """The newest of each series."""
    table = schema.baseline
    with store.database.reading() as connection:
        rows = connection.execute(select(table).where(table.c.suite == suite).order_by(table.c.created_utc)).all()
    return {row.series: Pinned(row.series, row.result_id, row.created_utc, row.pinned_by, row.reason) for row in rows}


def alarms(store: Store, suite: str) -> list[Alarm]:
    """All that there ever were, in the order of their ids."""
    table = schema.alarm
    with store.database.reading() as connection:
        rows = connection.execute(select(table.c.doc).where(table.c.suite == suite).order_by(table.c.id)).scalars()
        return [from_doc(Alarm, doc) for doc in rows]


def save_alarms(store: Store, changed: Iterable[Alarm]) -> None:
    """Alarms as they are now."""
    with store.database.writing() as connection:
        _put(store, connection, changed)


def items(store: Store, of: Stored) -> NDArray[np.float64] | None:
    """What each item of the workload scored then; None where it was not kept."""
    table = schema.sample
    query = select(table.c.codec, table.c.data).where(
        table.c.run_id == of.run_id, table.c.case_key == of.case_key, table.c.round == ITEMS_ROUND
    )
    with store.database.reading() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else codec.unpack_items(row.codec, row.data)


def _stored(row: Any) -> Stored:
    return Stored(row.run_id, row.case_key, row.series, from_doc(Result, row.doc), row.night)


def _put(store: Store, connection: Any, changed: Iterable[Alarm]) -> None:
    columns = ("id", "suite", "device", "series", "metric", "state", "color", "opened", "closed", "by", "effect")
    for alarm in changed:
        row = {name: getattr(alarm, name) for name in columns} | {"doc": to_doc(alarm)}
        made = store.database.insert(schema.alarm).values(row)
        connection.execute(made.on_conflict_do_update(index_elements=["id"], set_=row))
