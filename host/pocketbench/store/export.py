"""Everything that was measured as flat rows: one a result and metric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from pocketbench.store import schema
from pocketbench.store.store import Store

CHUNK = 1000
# Name and kind, in the order of an exported file.
COLUMNS = {
    "created_utc": str,
    "night": str,
    "run_id": str,
    "result_id": str,
    "series": str,
    "host": str,
    "tool_version": str,
    "device": str,
    "device_fingerprint": str,
    "device_model": str,
    "soc": str,
    "os": str,
    "emulated": bool,
    "model": str,
    "recipe": str,
    "format": str,
    "model_sha256": str,
    "runtime": str,
    "runtime_version": str,
    "agent_build": str,
    "delegate": str,
    "accelerated_by": str,
    "coverage": str,
    "threads": int,
    "cpus": str,
    "shapes": str,
    "scenario": str,
    "attempt": int,
    "status": str,
    "reasons": str,
    "metric": str,
    "unit": str,
    "direction": int,
    "value": float,
    "lo": float,
    "hi": float,
}
Row = dict[str, Any]


def chunks(store: Store) -> Iterator[list[Row]]:
    """Rows with the keys of COLUMNS, None where unknown, oldest results first; one snapshot of the store.

    StoreError where it cannot be read.
    """
    result, run, metric = schema.result, schema.run, schema.metric
    query = (
        select(result, run.c.host, run.c.tool_version)
        .join(run, run.c.id == result.c.run_id)
        .order_by(result.c.created_utc, result.c.id)
    )
    with store.database.snapshot() as connection:
        ids = connection.execute(select(result.c.id).order_by(result.c.created_utc, result.c.id)).scalars().all()
        for start in range(0, len(ids), CHUNK):
            some = ids[start : start + CHUNK]
            metrics: dict[str, list[Any]] = {}
            found = select(metric).where(metric.c.result_id.in_(some)).order_by(metric.c.name)
            for row in connection.execute(found):
                metrics.setdefault(row.result_id, []).append(row)
            rows = connection.execute(query.where(result.c.id.in_(some))).all()
            yield [made for row in rows for made in _rows(row, metrics.get(row.id, [None]))]


def _rows(row: Any, metrics: list[Any]) -> Iterator[Row]:
    doc = row.doc
    info, model, delegate = doc["device_info"], doc["model"], doc["delegate"]
    shapes = [f"{name}={'x'.join(map(str, dims))}" for name, dims in (doc.get("shapes") or {}).items()]
    same = {
        "created_utc": row.created_utc,
        "night": row.night,
        "run_id": row.run_id,
        "result_id": row.id,
        "series": row.series,
        "host": row.host,
        "tool_version": row.tool_version,
        "device": row.device,
        "device_fingerprint": row.device_fingerprint,
        "device_model": info.get("model"),
        "soc": info.get("soc"),
        "os": info.get("os"),
        "emulated": doc.get("emulated"),
        "model": row.model_name,
        "recipe": model.get("recipe"),
        "format": model.get("format"),
        "model_sha256": row.model_sha256,
        "runtime": row.runtime,
        "runtime_version": row.runtime_version,
        "agent_build": (doc.get("environment") or {}).get("agent_build"),
        "delegate": row.delegate,
        "accelerated_by": delegate.get("accelerated_by"),
        "coverage": delegate.get("coverage"),
        "threads": row.threads,
        "cpus": ",".join(map(str, doc.get("cpus") or ())) or None,
        "shapes": ";".join(shapes) or None,
        "scenario": doc.get("scenario"),
        "attempt": doc.get("attempt"),
        "status": row.status,
        "reasons": ";".join(reason["code"] for reason in doc.get("reasons") or ()),
    }
    for one in metrics:
        if one is None:
            yield {**same, "metric": None, "unit": None, "direction": None, "value": None, "lo": None, "hi": None}
        else:
            yield {
                **same,
                "metric": one.name,
                "unit": one.unit,
                "direction": one.direction,
                "value": one.value,
                "lo": one.lo,
                "hi": one.hi,
            }
