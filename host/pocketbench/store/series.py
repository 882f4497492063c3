"""Series as nights and reports read them: many at once.

The newest is what was stored last: `created_utc` never goes back within a series, whatever the host's clock did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Subquery, func, select

from pocketbench.errors import StoreError
from pocketbench.store import schema
from pocketbench.store.store import Store


class Value(NamedTuple):
    """A metric now, and of the baseline; `baseline` None where none is pinned, or it had no such metric."""

    value: float
    baseline: float | None


class Standing(NamedTuple):
    """Where a series stands in a suite: its newest result beside its baseline, metric by metric."""

    series: str
    night: str
    result_id: str
    status: str
    device: str
    model_name: str
    runtime: str
    delegate: str
    threads: int
    baseline_id: str | None
    metrics: dict[str, Value]


def standings(store: Store, suite: str, names: Sequence[str]) -> list[Standing]:
    """Every series that a night of the suite measured, with the metrics of those names, by device, model and runtime.

    StoreError where the store cannot be read, or a metric and its baseline are of different units.
    """
    result, metric = schema.result, schema.metric
    newest = _newest(suite)
    before = metric.alias("before")
    of_newest = (metric.c.result_id == newest.c.result) & metric.c.name.in_(names)
    of_baseline = (before.c.result_id == newest.c.baseline) & (before.c.name == metric.c.name)
    query = (
        select(
            newest.c.series,
            result.c.night,
            result.c.id,
            result.c.status,
            result.c.device,
            result.c.model_name,
            result.c.runtime,
            result.c.delegate,
            result.c.threads,
            newest.c.baseline,
            metric.c.name,
            metric.c.value,
            before.c.value,
            func.coalesce(before.c.unit == metric.c.unit, True),
        )
        .join(result, result.c.id == newest.c.result)
        .join(metric, of_newest, isouter=True)
        .join(before, of_baseline, isouter=True)
    )
    found: dict[str, Standing] = {}
    with store.database.reading() as connection:
        for *subject, name, value, before_value, alike in connection.execute(query).all():
            if not alike:
                raise mixed_units(store, name, subject[0])
            standing = found.setdefault(subject[0], Standing._make((*subject, {})))
            if name is not None:
                standing.metrics[name] = Value(value, before_value)
    return sorted(found.values(), key=lambda one: (one.device, one.model_name, one.runtime, one.delegate, one.threads))


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


def mixed_units(store: Store, metric: str, series: str) -> StoreError:
    """Why such a series is not read."""
    return StoreError(
        f"the store {store.database.name} has {metric} of the series {series} in several units: such numbers cannot "
        "stand beside each other; were they written by different versions of pocketbench?"
    )
