"""Series as nights and reports read them: many at once.

The newest is what was stored last: `created_utc` never goes back within a series, whatever the host's clock did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, Subquery, func, select

from pocketbench.errors import StoreError
from pocketbench.store import schema
from pocketbench.store.store import Store

# Series in one statement; SQLite takes 32,766 parameters, PostgreSQL 65,535.
AT_ONCE = 10_000


class Point(NamedTuple):
    """A metric of one result, with what may have changed since the one before. (A tuple: they are read in thousands.)"""

    series: str
    created_utc: str
    night: str | None
    result_id: str
    status: str
    value: float
    lo: float | None
    hi: float | None
    unit: str
    direction: int
    model_sha256: str
    runtime_version: str | None
    device_fingerprint: str | None


class Value(NamedTuple):
    """A metric now, and of the baseline; `baseline` None where none is pinned, or it had no such metric."""

    unit: str
    direction: int
    value: float
    lo: float | None
    hi: float | None
    baseline: float | None
    baseline_lo: float | None
    baseline_hi: float | None


class Standing(NamedTuple):
    """Where a series stands in a suite: its newest result beside its baseline, metric by metric."""

    series: str
    created_utc: str
    night: str
    result_id: str
    status: str
    device: str
    model_name: str
    runtime: str
    delegate: str
    threads: int
    model_sha256: str
    runtime_version: str | None
    device_fingerprint: str | None
    baseline_id: str | None
    metrics: dict[str, Value]


def history(
    store: Store, series: Sequence[str], metric: str, limit: int, suite: str | None = None
) -> dict[str, list[Point]]:
    """The newest `limit` points of each series, newest first; with a suite, only what its nights measured.

    StoreError where the store cannot be read, or a series has points of several units.
    """
    found: dict[str, list[Point]] = {name: [] for name in series}
    names = list(found)
    with store.database.reading() as connection:
        for start in range(0, len(names), AT_ONCE):
            for row in connection.execute(_points(names[start : start + AT_ONCE], metric, limit, suite)):
                found[row[0]].append(Point._make(row))
    for points in found.values():
        _same_unit(store, metric, points)
    return found


def standings(store: Store, suite: str) -> list[Standing]:
    """Every series that a night of the suite measured, by device, model and what ran it.

    StoreError where the store cannot be read, or a metric and its baseline are of different units.
    """
    result, metric = schema.result, schema.metric
    newest = _newest(suite)
    before = metric.alias("before")
    subjects = select(
        newest.c.series,
        result.c.created_utc,
        result.c.night,
        result.c.id,
        result.c.status,
        result.c.device,
        result.c.model_name,
        result.c.runtime,
        result.c.delegate,
        result.c.threads,
        result.c.model_sha256,
        result.c.runtime_version,
        result.c.device_fingerprint,
        newest.c.baseline,
    ).join(result, result.c.id == newest.c.result)
    beside = (before.c.result_id == newest.c.baseline) & (before.c.name == metric.c.name)
    values = (
        select(
            newest.c.series,
            metric.c.name,
            before.c.unit,
            metric.c.unit,
            metric.c.direction,
            metric.c.value,
            metric.c.lo,
            metric.c.hi,
            before.c.value,
            before.c.lo,
            before.c.hi,
        )
        .join(metric, metric.c.result_id == newest.c.result)
        .join(before, beside, isouter=True)
    )
    metrics: dict[str, dict[str, Value]] = {}
    # Both from one snapshot: a night may be going on.
    with store.database.snapshot() as connection:
        for series, name, unit_before, *value in connection.execute(values):
            if unit_before is not None and unit_before != value[0]:
                raise _mixed(store, name, series, {unit_before, value[0]})
            metrics.setdefault(series, {})[name] = Value._make(value)
        rows = connection.execute(subjects).all()
    found = [Standing(*row, metrics=metrics.get(row[0], {})) for row in rows]
    return sorted(found, key=lambda one: (one.device, one.model_name, one.runtime, one.delegate, one.threads))


def _newest(suite: str) -> Subquery:
    """series, its newest result of the suite, the baseline in force: by steps from series to series, for an index
    scan of all results would take as long as there are nights.
    """
    result, night, baseline = schema.result, schema.night, schema.baseline
    first = select(func.min(result.c.series).label("series")).cte("every", recursive=True)
    following = select(func.min(result.c.series)).where(result.c.series > first.c.series).scalar_subquery()
    every = first.union_all(select(following).where(first.c.series.is_not(None)))
    newest = (
        select(result.c.id)
        .join(night, night.c.id == result.c.night)
        .where(result.c.series == every.c.series, night.c.suite == suite)
        .order_by(result.c.created_utc.desc())
        .limit(1)
        .scalar_subquery()
    )
    in_force = (
        select(baseline.c.result_id)
        .where(baseline.c.suite == suite, baseline.c.series == every.c.series)
        .order_by(baseline.c.created_utc.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = select(every.c.series, newest.label("result"), in_force.label("baseline")).cte("newest")
    return select(found).where(found.c.result.is_not(None)).subquery()


def _points(series: Sequence[str], metric: str, limit: int, suite: str | None) -> Select[Any]:
    result, value, night = schema.result.c, schema.metric.c, schema.night
    newest = func.row_number().over(partition_by=result.series, order_by=result.created_utc.desc())
    ranked = (
        select(
            result.series,
            result.created_utc,
            result.night,
            result.id,
            result.status,
            value.value,
            value.lo,
            value.hi,
            value.unit,
            value.direction,
            result.model_sha256,
            result.runtime_version,
            result.device_fingerprint,
            newest.label("rank"),
        )
        .join_from(schema.result, schema.metric, value.result_id == result.id)
        .where(result.series.in_(series), value.name == metric)
    )
    if suite is not None:
        ranked = ranked.join(night, night.c.id == result.night).where(night.c.suite == suite)
    inner = ranked.subquery()
    kept = [column for column in inner.c if column.name != "rank"]
    return select(*kept).where(inner.c.rank <= limit).order_by(inner.c.series, inner.c.rank)


def _same_unit(store: Store, metric: str, points: Sequence[Point]) -> None:
    units = {point.unit for point in points}
    if len(units) > 1:
        raise _mixed(store, metric, points[0].series, units)


def _mixed(store: Store, metric: str, series: str, units: set[str]) -> StoreError:
    return StoreError(
        f"the store {store.database.name} has {metric} of the series {series} in {' and in '.join(sorted(units))}: "
        "such numbers cannot stand beside each other; were they written by different versions of pocketbench?"
    )


