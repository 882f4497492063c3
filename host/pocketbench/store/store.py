"""The results store: SQLAlchemy Core over SQLite or PostgreSQL.

Every process is stored as soon as it was measured and every result in one transaction, so that a host that
dies at any moment loses at most the process it was measuring. Where the database is away or full, rows are
spooled to disk and replayed, once, when it opens again.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import log
from pathlib import Path
from statistics import stdev
from typing import Any

import platformdirs
from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from pocketbench import __version__
from pocketbench.errors import StoreError, UsageError, overtaken
from pocketbench.measurement import Process
from pocketbench.models import PlacedFile
from pocketbench.plan import Request
from pocketbench.results import METRICS, Result, from_doc, samples_of, to_doc
from pocketbench.store import codec, schema

Row = dict[str, Any]
# A device's name in the lease table, and the epoch that its lease must still have for rows to be stored.
Fence = tuple[str, int]
Rows = Sequence[tuple[Table, Sequence[Row]]]
# Of a session's log p50, until the device's own history says better.
UNKNOWN_SPREAD = 0.02
SPREAD_SESSIONS = 5
BUSY_MS = 10_000


def default_url() -> str:
    """SQLite in the user's data folder."""
    return f"sqlite:///{Path(platformdirs.user_data_dir('pocketbench')) / 'results.db'}"


def spool_folder() -> Path:
    """Where rows wait that the database could not take."""
    return Path(platformdirs.user_state_dir("pocketbench")) / "spool"


class Store:
    """An open store."""

    def __init__(self, url: str | None = None) -> None:
        self.url = _as_url(url or default_url())
        self._sqlite = self.url.startswith("sqlite")
        try:
            if self._sqlite:
                Path(self.url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self._reader = create_engine(self.url)
            self._writer = create_engine(self.url) if self._sqlite else self._reader
            # SQLite lets whoever asks at the right moment write next: many lanes would starve one of them.
            self._turn: AbstractContextManager[object] = threading.RLock() if self._sqlite else nullcontext()
            if self._sqlite:
                _prepare_sqlite(self._reader, self._writer)
            self._migrate()
        except ModuleNotFoundError as error:
            raise StoreError(
                f"the store {self._shown} needs the Python package {error.name}: pip install it"
            ) from error
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(
                f"the store {self._shown} cannot be opened: {_cause(error)}; --store names another"
            ) from error
        self._replay()

    def close(self) -> None:
        """Let go of the database."""
        self._reader.dispose()
        self._writer.dispose()

    def create_run(self, request: Request, request_doc: Mapping[str, Any]) -> str:
        """A new run's id; StoreError where the store cannot take even that."""
        run_id = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]
        row = {
            "id": run_id,
            "created_utc": now(),
            "finished_utc": None,
            "host": socket.gethostname(),
            "tool_version": __version__,
            "digest": request.digest,
            "request": dict(request_doc),
        }
        with self.transaction() as connection:
            connection.execute(insert(schema.run), [row])
        return run_id

    def save_process(self, run_id: str, case_key: str, process: Process, fence: Fence | None = None) -> None:
        """One measured process, once. DeviceBusy where somebody else has taken the device's lease since."""
        doc, samples = codec.split(process)
        key = {"run_id": run_id, "case_key": case_key, "round": process.round}
        packed = [(name, len(values), *codec.pack(values)) for name, values in samples.items() if len(values)]
        blobs = [{**key, "name": name, "n": n, "codec": kind, "data": data} for name, n, kind, data in packed]
        self._write([(schema.process, [{**key, "doc": doc}]), (schema.sample, blobs)], fence)

    def save_result(self, run_id: str, case_key: str, result: Result, fence: Fence | None = None) -> None:
        """One judged result with its metrics, once. DeviceBusy as for a process."""
        row = {
            "id": result.id,
            "run_id": run_id,
            "case_key": case_key,
            "created_utc": now(),
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
        }
        metrics = []
        for kind in METRICS:
            value = result.metric(kind.name)
            if value is not None:
                interval = _interval(result, kind.name)
                metrics.append(
                    {
                        "result_id": result.id,
                        "name": kind.name,
                        "unit": kind.unit,
                        "direction": kind.direction,
                        "value": value,
                        "lo": interval[0],
                        "hi": interval[1],
                    }
                )
        self._write([(schema.result, [row]), (schema.metric, metrics)], fence)

    def finish_run(self, run_id: str) -> None:
        """Every case of the run has its result."""
        with self.transaction() as connection:
            connection.execute(update(schema.run).where(schema.run.c.id == run_id).values(finished_utc=now()))

    def unfinished_run(self, digest: str, run_id: str | None) -> str:
        """The run to resume: that one, else the newest unfinished one of the same plan. UsageError: none."""
        runs = schema.run
        query = select(runs.c.id, runs.c.digest, runs.c.finished_utc).order_by(runs.c.created_utc.desc())
        with self._read() as connection:
            for row in connection.execute(query):
                if run_id is not None and not row.id.startswith(run_id):
                    continue
                if run_id is None and (row.digest != digest or row.finished_utc is not None):
                    continue
                if row.digest != digest:
                    raise UsageError(f"--resume {row.id}: that run measured something else; repeat its command")
                if row.finished_utc is not None:
                    raise UsageError(f"--resume {row.id}: that run is complete")
                return str(row.id)
        raise UsageError("--resume: the store has no unfinished run " + (run_id if run_id else "with the same plan"))

    def processes(self, run_id: str) -> dict[str, dict[int, Process]]:
        """Everything that was measured of a run: by case key and round."""
        found: dict[str, dict[int, Process]] = {}
        with self._read() as connection:
            samples: dict[tuple[str, int], dict[str, Any]] = {}
            for row in connection.execute(select(schema.sample).where(schema.sample.c.run_id == run_id)):
                samples.setdefault((row.case_key, row.round), {})[row.name] = codec.unpack(row.codec, row.data)
            for row in connection.execute(select(schema.process).where(schema.process.c.run_id == run_id)):
                process = codec.join(row.doc, samples.get((row.case_key, row.round), {}))
                found.setdefault(row.case_key, {})[row.round] = process
        return found

    def results(self, run_id: str) -> dict[str, Result]:
        """The results of a run by case key, without samples."""
        query = select(schema.result).where(schema.result.c.run_id == run_id)
        with self._read() as connection:
            return {row.case_key: from_doc(Result, row.doc) for row in connection.execute(query)}

    def find_result(self, prefix: str) -> tuple[str, Result]:
        """(run id, result with samples) of the one result whose id starts so. UsageError: none, or several."""
        row = self._result_row(prefix)
        processes = self.processes(row.run_id).get(row.case_key, {})
        return str(row.run_id), replace(from_doc(Result, row.doc), samples_ns=samples_of(processes))

    def find_case(self, prefix: str) -> tuple[str, str]:
        """(run id, case key) of the one result whose id starts so. UsageError: none, or several."""
        row = self._result_row(prefix)
        return str(row.run_id), str(row.case_key)

    def _result_row(self, prefix: str) -> Any:
        table = schema.result
        query = select(table).where(table.c.id.startswith(prefix, autoescape=True)).limit(3)
        with self._read() as connection:
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
        with self._read() as connection:
            rows = connection.execute(query).all()
        if len(rows) != 1:
            found = ", ".join(row.id for row in rows) or "none"
            raise UsageError(f"{prefix!r} names no single run of the store (found: {found})")
        return str(rows[0].id), rows[0].request

    def history(self, device: str | None, model: str | None, limit: int) -> list[tuple[str, str, Result]]:
        """(created, run id, result without samples), newest first."""
        table = schema.result
        query = select(table).order_by(table.c.created_utc.desc(), table.c.id).limit(limit)
        if device is not None:
            query = query.where(table.c.device == device)
        if model is not None:
            query = query.where(table.c.model_name == model)
        with self._read() as connection:
            rows = connection.execute(query).all()
        return [(row.created_utc, row.run_id, from_doc(Result, row.doc)) for row in rows]

    def session_spread(self, result: Result) -> tuple[float, bool]:
        """(standard deviation of log p50 between sessions of that case, is it known?); 2 % while unknown."""
        table = schema.result
        query = (
            select(schema.metric.c.value, table.c.doc)
            .join(table, table.c.id == schema.metric.c.result_id)
            .where(
                schema.metric.c.name == "latency_p50",
                table.c.device == result.device,
                table.c.device_fingerprint == result.device_info.fingerprint,
                table.c.model_sha256 == result.model.sha256,
                table.c.runtime == result.runtime.name,
                table.c.runtime_version == result.runtime.version,
                table.c.delegate == result.delegate.requested,
                table.c.threads == result.threads,
                table.c.status == "OK",
            )
        )
        with self._read() as connection:
            rows = connection.execute(query).all()
        values = [row.value for row in rows if _same_conditions(from_doc(Result, row.doc), result)]
        if len(values) < SPREAD_SESSIONS:
            return UNKNOWN_SPREAD, False
        return stdev(log(value) for value in values), True

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that may write; StoreError where the database cannot take it."""
        try:
            with self._turn, self._writer.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self._shown} cannot be written: {_cause(error)}") from error

    @property
    def _shown(self) -> str:
        return self.url.removeprefix("sqlite:///") if self._sqlite else self.url.split("@")[-1]

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._reader.connect() as connection:
                yield connection
        except DatabaseError as error:
            raise StoreError(f"the store {self._shown} cannot be read: {_cause(error)}") from error

    def _write(self, rows: Rows, fence: Fence | None) -> None:
        try:
            self._insert(rows, fence)
        except OperationalError as error:
            try:
                _spool(rows, self.url)
            except OSError as second:
                raise StoreError(
                    f"the store {self._shown} cannot be written ({_cause(error)}), "
                    f"and neither can {spool_folder()} ({second.strerror})"
                ) from error

    def _insert(self, rows: Rows, fence: Fence | None = None) -> None:
        """The first table's row is what the others belong to: where it is there already, nothing is added."""
        make = sqlite.insert if self._sqlite else postgresql.insert
        with self._turn, self._writer.begin() as connection:
            if fence is not None:
                device, epoch = fence
                lease = select(schema.lease.c.epoch).where(schema.lease.c.device == device).with_for_update()
                if connection.execute(lease).scalar() != epoch:
                    raise overtaken(device)
            for position, (table, values) in enumerate(rows):
                if values:
                    done = connection.execute(make(table).on_conflict_do_nothing(), list(values))
                    if position == 0 and done.rowcount == 0:
                        return

    def _replay(self) -> None:
        folder = spool_folder()
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            try:
                doc = json.loads(path.read_text())
                if doc["url"] != self.url:
                    continue
                self._insert([(schema.metadata.tables[name], [_thaw(r) for r in rows]) for name, rows in doc["rows"]])
            except (SQLAlchemyError, OSError, ValueError, KeyError, TypeError):
                continue
            path.unlink(missing_ok=True)

    def _migrate(self) -> None:
        with self._writer.begin() as connection:
            if not self._reader.dialect.has_table(connection, "meta"):
                schema.metadata.create_all(connection)
                connection.execute(insert(schema.meta), [{"key": "schema", "value": str(schema.VERSION)}])
                return
            found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == "schema")).scalar()
        version = int(found) if found is not None and found.isdigit() else 0
        if version > schema.VERSION:
            raise StoreError(
                f"the store {self._shown} has schema {version}, this version knows {schema.VERSION}: update pocketbench"
            )


def now() -> str:
    """UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
            }
            for case in request.cases
        ],
    }


def _as_url(text: str) -> str:
    if text.startswith("sqlite:") and not re.match("sqlite:///.", text):
        raise UsageError(f"--store {text}: an SQLite store needs a file: sqlite:///PATH, or just PATH")
    return text if "://" in text else f"sqlite:///{Path(text).expanduser()}"


def _prepare_sqlite(reader: Engine, writer: Engine) -> None:
    """Pragmas on each connection; writers begin with BEGIN IMMEDIATE.

    A deferred transaction that turns into a writer gets SQLITE_BUSY at once, whatever busy_timeout says.
    """

    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(reader, "connect", connect)
    event.listen(writer, "connect", connect)
    event.listen(writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def _same_conditions(one: Result, other: Result) -> bool:
    """Cores, scenario and shapes: what has no column of its own."""
    return (one.cpus, one.scenario, one.model.inputs) == (other.cpus, other.scenario, other.model.inputs)


def _interval(result: Result, name: str) -> tuple[float | None, float | None]:
    ends: Sequence[float] | None = None
    if name == "latency_p50" and result.latency_ms is not None:
        ends = result.latency_ms.ci95
    if name == "accuracy" and result.accuracy is not None:
        ends = result.accuracy.ci95
    return (ends[0], ends[1]) if ends else (None, None)


def _spool(rows: Rows, url: str) -> None:
    folder = spool_folder()
    folder.mkdir(parents=True, exist_ok=True)
    doc = {"url": url, "rows": [[table.name, [_freeze(row) for row in values]] for table, values in rows]}
    partial = folder / f"{uuid.uuid4().hex}.partial"
    partial.write_text(json.dumps(doc))
    partial.replace(folder / f"{now().replace(':', '')}-{uuid.uuid4().hex[:8]}.json")


def _freeze(row: Row) -> Row:
    return {k: {"base64": b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in row.items()}


def _thaw(row: Row) -> Row:
    return {k: b64decode(v["base64"]) if isinstance(v, dict) and set(v) == {"base64"} else v for k, v in row.items()}


def _cause(error: BaseException) -> str:
    original = getattr(error, "orig", None)
    return str(original or getattr(error, "strerror", None) or error)
