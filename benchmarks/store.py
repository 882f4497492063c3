"""The results store after a hundred nights: how long reports wait for it, how fast it takes results, how large it is.

What: 20 devices x 25 models x 4 delegates, 100 nights: 200,000 results with five metrics each, a million metric rows;
every series has a baseline of the middle night. Best of five of `bench baseline show`'s table, the newest beside the
baseline of all 2,000 series, and of what a report of 400 series reads (all metrics of 40 nights). SQLite in a temporary
folder, and PostgreSQL where it is installed.
Bounds: the table in 0.1 s, the report in 1 s; exit code 1 where one is missed. Other work on the machine counts.

    python benchmarks/store.py [sqlite|postgresql]
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from conditions import conditions  # type: ignore[import-not-found]
from sqlalchemy import insert, text

sys.path.insert(0, str(Path(__file__).parents[1]))
from pocketbench.documents import to_doc
from pocketbench.plan import Plan, Request
from pocketbench.results import METRICS, Delegate, DeviceFacts, Latency, Model, Result, Runtime
from pocketbench.series import series_key
from pocketbench.store import nights, schema, series
from pocketbench.store.store import Store, request_doc
from tests.peers import postgresql

DEVICES, MODELS, DELEGATES, NIGHTS = 20, 25, ("cpu", "gpu", "npu", "nnapi"), 100
SUITE = "nightly"
REPORT_SERIES, REPORT_NIGHTS = 400, nights.NIGHTS
TABLE_BOUND_S, REPORT_BOUND_S = 0.1, 1.0
ROUNDS, SINGLE = 5, 300


def main() -> int:
    """Each database in turn."""
    wanted = sys.argv[1:] or ["sqlite", "postgresql"]
    print(conditions(("SQLAlchemy", "numpy")))
    missed = False
    with tempfile.TemporaryDirectory(prefix="store-") as name:
        os.environ["XDG_STATE_HOME"] = name
        for kind in wanted:
            why = postgresql.why_not() if kind == "postgresql" else None
            if why is not None:
                print(f"{kind}: not measured: {why}")
                continue
            with _empty(kind, Path(name)) as url:
                missed = _measured(kind, url) or missed
    print(conditions(("SQLAlchemy", "numpy")))
    return int(missed)


@contextmanager
def _empty(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield str(folder / "results.db")
        return
    with postgresql.postgresql(durable=True) as server:
        yield server.database()


def _measured(kind: str, url: str) -> bool:
    """Fill, ask, print. Was a bound missed?"""
    store = Store(url)
    cases = _cases()
    begin = time.perf_counter()
    rows = _fill(store, cases)
    filled_s = time.perf_counter() - begin
    _settle(store)
    single_s = _one_by_one(store, cases)
    print(f"{kind}: {rows / filled_s:,.0f} rows/s a night at a time, {SINGLE / single_s:,.0f} results/s one by one")
    print(f"  {'file' if store.database.path else 'database'} of {_size(store) / 1e6:.0f} MB")
    keys = [series_key(case) for case in cases][:: len(cases) // REPORT_SERIES][:REPORT_SERIES]
    labels = [_label(night) for night in range(NIGHTS)][-REPORT_NIGHTS:]
    missed = [
        _timed("newest beside baseline", TABLE_BOUND_S, lambda: _table(store, ["latency_p50"])),
        _timed("the same, five metrics", None, lambda: _table(store, [kind.name for kind in METRICS[:5]])),
        _timed("a report of 400 series", REPORT_BOUND_S, lambda: _report(store, keys, labels)),
    ]
    store.close()
    return any(missed)


def _table(store: Store, names: list[str]) -> int:
    return sum(len(one.metrics) for one in series.standings(store, SUITE, names))


def _report(store: Store, keys: list[str], labels: list[str]) -> int:
    found = nights.earlier(store, SUITE, keys, labels)
    return sum(len(one.values) for points in found.values() for one in points)


def _timed(what: str, bound_s: float | None, work: Callable[[], int]) -> bool:
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - begin)
    missed = bound_s is not None and min(times) > bound_s
    judged = "no bound" if bound_s is None else f"bound {bound_s} s: {'FAIL' if missed else 'PASS'}"
    print(f"  {what:24s} {min(times):6.3f} s (first {times[0]:.3f}), {found:,} of it; {judged}")
    return missed


def _cases() -> list[Result]:
    return [
        _result(f"device{device:02d}", f"model{model:02d}", delegate)
        for device in range(DEVICES)
        for model in range(MODELS)
        for delegate in DELEGATES
    ]


def _result(device: str, model: str, delegate: str) -> Result:
    p50 = 12.0
    return Result(
        id="",
        device=device,
        device_info=DeviceFacts("Phone 8", "SoC 3", "14", "5.15", "Cortex", "boot", "0123456789abcdef"),
        transport="adb",
        emulated=False,
        attempt=1,
        model=Model(model, "ab" * 32, 4_000_000, "tflite", None, None, None),
        runtime=Runtime("litert", "2.3.0", "as stored"),
        threads=1,
        cpus=None,
        scenario="single_stream",
        delegate=Delegate(delegate),
        status="OK",
        stage=None,
        reasons=(),
        latency_ms=Latency(p50, (11.8, 12.2), p50, 11, 19, None, None, None, None, None, None, 0.1, 0.2, 600, 5),
    )


def _label(night: int) -> str:
    return (date(2026, 1, 1) + timedelta(days=night)).isoformat()


def _fill(store: Store, cases: list[Result]) -> int:
    """A night at a time, in one transaction; how many rows."""
    chance, rows = random.Random(1), 0
    docs = [to_doc(case) for case in cases]
    keys = [series_key(case) for case in cases]
    for night in range(NIGHTS):
        label = _label(night)
        id_, run_id = nights.night_id(SUITE, label), f"run-{label}"
        results, metrics, pinned = [], [], []
        for number, (case, doc, key) in enumerate(zip(cases, docs, keys, strict=True)):
            result_id = f"{chance.getrandbits(48):012x}"
            created = f"{label}T{1 + number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000Z"
            results.append(
                {
                    "id": result_id,
                    "run_id": run_id,
                    "case_key": str(number),
                    "created_utc": created,
                    "device": case.device,
                    "device_fingerprint": case.device_info.fingerprint,
                    "model_name": case.model.name,
                    "model_sha256": case.model.sha256,
                    "runtime": case.runtime.name,
                    "runtime_version": case.runtime.version,
                    "delegate": case.delegate.requested,
                    "threads": case.threads,
                    "status": case.status,
                    "series": key,
                    "night": id_,
                    "doc": {**doc, "id": result_id},
                }
            )
            for kind in METRICS[:5]:
                value = chance.lognormvariate(2.5, 0.02)
                more = {"unit": kind.unit, "direction": kind.direction, "value": value, "lo": value * 0.98}
                metrics.append({"result_id": result_id, "name": kind.name, **more, "hi": value * 1.02})
            told = {"suite": SUITE, "series": key, "created_utc": created, "result_id": result_id}
            pinned.append({**told, "pinned_by": "nobody", "reason": "the first of them"})
        run = {"id": run_id, "created_utc": created, "host": "lab", "tool_version": "1", "digest": "", "request": {}}
        row = {"id": id_, "suite": SUITE, "label": label, "created_utc": created, "finished_utc": created, "state": {}}
        with store.database.writing() as connection:
            _add(connection, schema.run, [run])
            _add(connection, schema.night, [row])
            _add(connection, schema.result, results)
            _add(connection, schema.metric, metrics)
            if night == NIGHTS // 2:
                _add(connection, schema.baseline, pinned)
        rows += len(results) + len(metrics)
    return rows


def _add(connection: Any, table: Any, rows: list[dict[str, Any]]) -> None:
    connection.execute(insert(table), rows)


def _one_by_one(store: Store, cases: list[Result]) -> float:
    """Seconds for so many results as a lane stores them: each in a transaction that survives a power cut."""
    request = Request((), Plan())
    run_id = store.create_run(request, request_doc(request))
    begin = time.perf_counter()
    for number in range(SINGLE):
        made = replace(cases[number], id=f"single{number}", device="another")
        store.save_result(run_id, str(number), made)
    return time.perf_counter() - begin


def _settle(store: Store) -> None:
    """What a server does by itself some minutes after so many rows."""
    if store.database.path is None:
        with store.database.reader.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def _size(store: Store) -> int:
    if store.database.path is not None:
        return store.database.path.stat().st_size
    with store.database.reading() as connection:
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


if __name__ == "__main__":
    sys.exit(main())
