"""Series as nights and reports read them: many at once.

The newest is what was stored last: `created_utc` never goes back within a series, whatever the host's clock did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, String, Subquery, column, func, select, values

from pocketbench.errors import StoreError
from pocketbench.store import schema
from pocketbench.store.store import Store

# Series in one statement; SQLite takes 32,766 parameters, PostgreSQL 65,535.
AT_ONCE = 10_000


class Point(NamedTuple):
    """A metric of one result, with what may have changed since the one before. A tuple, for there are thousands."""

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
    """What the newest `limit` results of each series have of a metric, newest first; with a suite, of its nights' only.

    StoreError where the store cannot be read, or a series has points of several units.
    """
    found: dict[str, list[Point]] = {name: [] for name in series}
    names = list(found)
    with store.database.reading() as connection:
        for start in range(0, len(names), AT_ONCE):
            for row in connection.execute(_points(names[start : start + AT_ONCE], metric, limit, suite)).all():
                found[row[0]].append(Point(*row))
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
    beside_baseline = (
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
        )
        .join(metric, metric.c.result_id == newest.c.result)
        .join(before, beside, isouter=True)
    )
    metrics: dict[str, dict[str, Value]] = {}
    # Both from one snapshot: a night may be going on.
    with store.database.snapshot() as connection:
        for series, name, unit_before, *value in connection.execute(beside_baseline).all():
            if unit_before is not None and unit_before != value[0]:
                raise mixed_units(store, name, series, {unit_before, value[0]})
            metrics.setdefault(series, {})[name] = Value(*value)
        rows = connection.execute(subjects).all()
    found = [Standing._make((*row, metrics.get(row[0], {}))) for row in rows]
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
    # PostgreSQL would look each up once for every row that is joined.
    found = found.prefix_with("MATERIALIZED")
    return select(found).where(found.c.result.is_not(None)).subquery()


def _points(series: Sequence[str], metric: str, limit: int, suite: str | None) -> Select[Any]:
    """From the oldest result of each series that counts on; by the index alone, for documents lie between the rows."""
    result, value, night = schema.result.c, schema.metric.c, schema.night.c
    wanted = values(column("series", String), name="wanted").data([(name,) for name in series]).cte("wanted")
    nights = None if suite is None else select(night.id).where(night.suite == suite)
    oldest = select(result.created_utc).where(result.series == wanted.c.series)
    oldest = oldest if nights is None else oldest.where(result.night.in_(nights))
    oldest = oldest.order_by(result.created_utc.desc()).limit(1).offset(limit - 1)
    since = select(wanted.c.series, oldest.scalar_subquery().label("oldest")).cte("since")
    query = (
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
        )
        .join_from(since, schema.result, result.series == since.c.series)
        .join(schema.metric, (value.result_id == result.id) & (value.name == metric))
        .where(result.created_utc >= func.coalesce(since.c.oldest, ""))
        .order_by(result.series, result.created_utc.desc())
    )
    return query if nights is None else query.where(result.night.in_(nights))


def _same_unit(store: Store, metric: str, points: Sequence[Point]) -> None:
    units = {point.unit for point in points}
    if len(units) > 1:
        raise mixed_units(store, metric, points[0].series, units)


def mixed_units(store: Store, metric: str, series: str, units: set[str]) -> StoreError:
    """Why such a series is not read."""
    return StoreError(
        f"the store {store.database.name} has {metric} of the series {series} in {' and in '.join(sorted(units))}: "
        "such numbers cannot stand beside each other; were they written by different versions of pocketbench?"
    )
