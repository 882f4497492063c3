"""The results store: SQLAlchemy Core over SQLite or PostgreSQL.

Every process is stored as soon as it was measured and every result in one transaction, so that a host that
dies at any moment loses at most the process it was measuring. Where the database is away or full, rows are
spooled to disk and replayed, once, when it opens again.
"""

from __future__ import annotations

import json
import math
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from statistics import stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from pocketbench import __version__
from pocketbench.documents import from_doc, to_doc
from pocketbench.errors import StoreError, UsageError
from pocketbench.measurement import Process
from pocketbench.models import PlacedFile
from pocketbench.plan import Request
from pocketbench.results import METRICS, Result, with_samples
from pocketbench.series import series_key
from pocketbench.store import codec, engine, migrations, schema, spool
from pocketbench.store.spool import Fence, Row

# Of a session's log p50, until the device's own history says better.
UNKNOWN_SPREAD = 0.02
SPREAD_SESSIONS = 5
# Of rows that belong to a case and to none of its processes.
ITEMS_ROUND = -1
SCORE = "score"


class Store:
    """An open store. StoreError where it cannot be opened: away, corrupt, of a newer version."""

    def __init__(self, url: str | None = None) -> None:
        self.database = database = engine.connect(url)
        try:
            if database.path is not None:
                database.path.parent.mkdir(parents=True, exist_ok=True)
            migrations.migrate(database)
        except (SQLAlchemyError, OSError) as error:
            self.close()
            raise StoreError(
                f"the store {database.name} cannot be opened: {database.cause(error)}{database.remedy}"
            ) from error
        except StoreError:
            self.close()
            raise
        spool.replay(database)

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    def create_run(self, request: Request, request_doc: Mapping[str, Any]) -> str:
        """A new run's id; StoreError where the store cannot take even that."""
        row = {
            "created_utc": now(),
            "finished_utc": None,
            "host": socket.gethostname(),
            "tool_version": __version__,
            "digest": request.digest,
            "request": dict(request_doc),
        }
        made = self.database.insert(schema.run).on_conflict_do_nothing().returning(schema.run.c.id)
        while True:
            run_id = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]
            with self.database.writing() as connection:
                if connection.execute(made, {"id": run_id, **row}).first() is not None:
                    return run_id

    def save_process(self, run_id: str, case_key: str, process: Process, fence: Fence | None = None) -> None:
        """One measured process, once. DeviceBusy where somebody else has taken the device's lease since."""
        doc, samples = codec.split(process)
        key = {"run_id": run_id, "case_key": case_key, "round": process.round}
        packed = [(name, len(values), *codec.pack(values)) for name, values in samples.items() if len(values)]
        blobs = [{**key, "name": name, "n": n, "codec": kind, "data": data} for name, n, kind, data in packed]
        spool.write(self.database, [(schema.process, [{**key, "doc": doc}]), (schema.sample, blobs)], fence)

    def save_score(self, run_id: str, case_key: str, doc: Mapping[str, Any], fence: Fence | None = None) -> None:
        """A score that took long to make, until its run is finished. DeviceBusy as for a process."""
        data = json.dumps(doc).encode()
        key = {"run_id": run_id, "case_key": case_key, "round": ITEMS_ROUND, "name": SCORE}
        spool.write(self.database, [(schema.sample, [{**key, "codec": "json", "n": 1, "data": data}])], fence)

    def scores(self, run_id: str) -> dict[str, Any]:
        """The scores of a run that is not finished, by case key."""
        table = schema.sample
        query = select(table.c.case_key, table.c.data).where(table.c.run_id == run_id, table.c.name == SCORE)
        with self.database.reading() as connection:
            return {row.case_key: json.loads(row.data) for row in connection.execute(query)}

    def save_result(
        self,
        run_id: str,
        case_key: str,
        result: Result,
        fence: Fence | None = None,
        night: str | None = None,
        items: NDArray[np.float64] | None = None,
    ) -> None:
        """One judged result with its metrics, once; `night` is "<suite>/<label>", `items` what each item scored.

        DeviceBusy as for a process.

        StoreError for a metric that is NaN or infinite: it would spoil every statistic of its series.
        """
        series = series_key(result)
        metrics = _metrics(result)
        row = {
            "id": result.id,
            "run_id": run_id,
            "case_key": case_key,
            "created_utc": self._next(series),
            "device": result.device,
            "device_fingerprint": result.device_info.fingerprint,
            "model_name": result.model.name,
            "model_sha256": result.model.sha256,
            "runtime": result.runtime.name,
            "runtime_version": result.runtime.version,
            "delegate": result.delegate.requested,
            "threads": result.threads,
            "status": result.status,
            "doc": to_doc(replace(result, samples_ns=())),
            "series": series,
            "night": night,
        }
        scored = []
        if items is not None:
            kind, data = codec.pack_items(items)
            key = {"run_id": run_id, "case_key": case_key, "round": ITEMS_ROUND, "name": "items"}
            scored = [{**key, "codec": kind, "n": len(items), "data": data}]
        spool.write(self.database, [(schema.result, [row]), (schema.metric, metrics), (schema.sample, scored)], fence)

    def _next(self, series: str) -> str:
        """Now; just after the newest of the series where the clock was moved back since, so that it is the newest."""
        moment, table = now(), schema.result
        query = select(func.max(table.c.created_utc)).where(table.c.series == series)
        try:
            with self.database.reading() as connection:
                newest = connection.execute(query).scalar()
            if newest is None or newest < moment:
                return moment
            return stamp(datetime.fromisoformat(newest) + timedelta(milliseconds=1))
        except (StoreError, ValueError, OverflowError):
            return moment

    def finish_run(self, run_id: str) -> None:
        """Every case of the run has its result; what was spooled on the way is stored now."""
        spool.replay(self.database)
        with self.database.writing() as connection:
            connection.execute(update(schema.run).where(schema.run.c.id == run_id).values(finished_utc=now()))
            # The results tell them from now on.
            table = schema.sample
            connection.execute(delete(table).where(table.c.run_id == run_id, table.c.name == SCORE))

    def unfinished_run(self, digest: str, run_id: str | None) -> str:
        """The run to resume: that one, else the newest unfinished one of the same plan, or the last one if a device was
        lost or never reached in it. UsageError: none.
        """
        runs = schema.run
        found = schema.result.alias()
        lost = exists().where(found.c.run_id == runs.c.id, schema.is_again(found))
        query = select(runs.c.id, runs.c.digest, runs.c.finished_utc, lost.label("lost"))
        last = True
        with self.database.reading() as connection:
            for row in connection.execute(query.order_by(runs.c.created_utc.desc())):
                if run_id is not None and not row.id.startswith(run_id):
                    continue
                if run_id is None and row.digest != digest:
                    continue
                if row.digest != digest:
                    raise UsageError(f"--resume {row.id}: that run measured something else; repeat its command")
                if row.finished_utc is None or (row.lost and (last or run_id is not None)):
                    return str(row.id)
                if run_id is not None:
                    raise UsageError(f"--resume {row.id}: that run is complete")
                last = False
        raise UsageError("--resume: the store has no unfinished run " + (run_id if run_id else "with the same plan"))

    def processes(self, run_id: str) -> dict[str, dict[int, Process]]:
        """Everything that was measured of a run: by case key and round."""
        found: dict[str, dict[int, Process]] = {}
        with self.database.reading() as connection:
            samples: dict[tuple[str, int], dict[str, Any]] = {}
            for row in connection.execute(
                select(schema.sample).where(schema.sample.c.run_id == run_id, schema.sample.c.round >= 0)
            ):
                samples.setdefault((row.case_key, row.round), {})[row.name] = codec.unpack(row.codec, row.data)
            for row in connection.execute(select(schema.process).where(schema.process.c.run_id == run_id)):
                process = codec.join(row.doc, samples.get((row.case_key, row.round), {}))
                found.setdefault(row.case_key, {})[row.round] = process
        return found

    def results(self, run_id: str) -> dict[str, Result]:
        """The results of a run by case key, without samples."""
        query = select(schema.result).where(schema.result.c.run_id == run_id)
        with self.database.reading() as connection:
            return {row.case_key: from_doc(Result, row.doc) for row in connection.execute(query)}

    def find_result(self, prefix: str) -> tuple[str, Result]:
        """(run id, result with samples) of the one result whose id starts so. UsageError: none, or several."""
        row = self._result_row(prefix)
        processes = self.processes(row.run_id).get(row.case_key, {})
        return str(row.run_id), with_samples(from_doc(Result, row.doc), processes)

    def find_case(self, prefix: str) -> tuple[str, str]:
        """(run id, case key) of the one result whose id starts so. UsageError: none, or several."""
        row = self._result_row(prefix)
        return str(row.run_id), str(row.case_key)

    def _result_row(self, prefix: str) -> Any:
        table = schema.result
        query = select(table).where(table.c.id.startswith(prefix, autoescape=True)).limit(3)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        if not rows:
            raise UsageError(f"the store has no result {prefix!r}; 'bench history' lists them")
        if len(rows) > 1:
            raise UsageError(f"{prefix!r} fits several results: {', '.join(row.id for row in rows)}")
        return rows[0]

    def run_request(self, prefix: str) -> tuple[str, Mapping[str, Any]]:
        """(run id, what was asked) of the one run whose id starts so. UsageError: none, or several."""
        table = schema.run
        query = select(table.c.id, table.c.request).where(table.c.id.startswith(prefix, autoescape=True)).limit(3)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        if len(rows) != 1:
            found = ", ".join(row.id for row in rows) or "none"
            raise UsageError(f"{prefix!r} names no single run of the store (found: {found})")
        return str(rows[0].id), rows[0].request

    def history(self, device: str | None, model: str | None, limit: int) -> list[tuple[str, str, Result]]:
        """(created, run id, result without samples), newest first."""
        table = schema.result
        newest = (table.c.created_utc.desc(), table.c.id)
        # By what an index has; documents of those alone that are shown.
        chosen = select(table.c.id).order_by(*newest).limit(limit)
        if device is not None:
            chosen = chosen.where(table.c.device == device)
        if model is not None:
            chosen = chosen.where(table.c.model_name == model)
        query = select(table).where(table.c.id.in_(chosen)).order_by(*newest)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return [(row.created_utc, row.run_id, from_doc(Result, row.doc)) for row in rows]

    def measured(self) -> list[tuple[str, str]]:
        """Names of each device and of a model that it has results of."""
        table = schema.result
        query = select(table.c.device, table.c.model_name).distinct().order_by(table.c.device, table.c.model_name)
        with self.database.reading() as connection:
            return [(row.device, row.model_name) for row in connection.execute(query)]

    def session_spread(self, result: Result) -> tuple[float, bool]:
        """(standard deviation of log p50 between sessions of that case, is it known?); 2 % while unknown."""
        table, metric = schema.result, schema.metric
        query = (
            select(metric.c.value)
            .join(table, table.c.id == metric.c.result_id)
            .where(
                metric.c.name == "latency_p50",
                table.c.series == series_key(result),
                table.c.device_fingerprint == result.device_info.fingerprint,
                table.c.model_sha256 == result.model.sha256,
                table.c.runtime_version == result.runtime.version,
                table.c.status == "OK",
            )
        )
        with self.database.reading() as connection:
            values = connection.execute(query).scalars().all()
        if len(values) < SPREAD_SESSIONS:
            return UNKNOWN_SPREAD, False
        return stdev(math.log(value) for value in values), True


def now() -> str:
    """UTC, ISO 8601 with milliseconds."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """A moment as the store has it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _placed(files: Sequence[PlacedFile]) -> list[dict[str, str]]:
    return [{"name": file.name, "path": str(file.path.absolute()), "sha256": file.sha256} for file in files]


def request_doc(request: Request) -> dict[str, Any]:
    """What was asked, as `bench rerun` needs it."""
    return {
        "plan": asdict(request.plan),
        "inputs": request.inputs,
        "workload": request.workload,
        "labels": dict(request.labels),
        "cases": [
            {
                "key": case.key,
                "device": case.device,
                "model": {
                    "path": str(case.model.path.absolute()),
                    "sha256": case.model.sha256,
                    "recipe": case.model.recipe,
                    "files": [{"name": file.name, "sha256": file.sha256} for file in case.model.files],
                },
                "runtime": str(case.runtime),
                "delegate": case.delegate,
                "threads": case.threads,
                "cpus": list(case.cpus),
                "shapes": [[name, list(dims)] for name, dims in case.shapes],
                "signature": case.signature,
                "setup": {
                    "base": case.setup.base,
                    "options": [list(option) for option in case.setup.options],
                    "files": _placed(case.setup.files),
                },
                "tool": case.tool
                and {"name": case.tool.name, "path": case.tool.path, "files": _placed(case.tool.files)},
                "scenario": case.scenario,
                "arm": case.arm,
                "pair": case.pair,
            }
            for case in request.cases
        ],
    }


def _metrics(result: Result) -> list[Row]:
    """Rows of those that it has. StoreError for one that is no finite number."""
    rows = []
    for kind in METRICS:
        value = result.metric(kind.name)
        if value is None:
            continue
        lo, hi = result.interval(kind.name)
        if not all(math.isfinite(number) for number in (value, lo, hi) if number is not None):
            raise StoreError(
                f"{result.device}: {kind.name} of {result.model.name} is {value} [{lo}, {hi}] {kind.unit}: "
                "only finite numbers are stored; measure it again, and report it if it stays so"
            )
        rows.append(
            {
                "result_id": result.id,
                "name": kind.name,
                "unit": kind.unit,
                "direction": kind.direction,
                "value": value,
                "lo": lo,
                "hi": hi,
            }
        )
    return rows
