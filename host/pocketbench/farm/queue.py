"""The queue of a lab: procrastinate, in the PostgreSQL of the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketbench.errors import StoreError, UsageError
from pocketbench.farm.shares import Share
from pocketbench.store.engine import CONNECT_S
from pocketbench.store.store import Store

if TYPE_CHECKING:
    from procrastinate import App
    from procrastinate.jobs import Job

TASK = "pocketbench.measure"
# How often a share is begun in vain, before its cases are LOST.
ATTEMPTS = 2
WAITING, RUNNING = "todo", "doing"


@dataclass(frozen=True)
class Entry:
    """A share in the queue: what `bench queue` shows. Times in seconds since the epoch."""

    id: int
    queue: str
    state: str
    attempt: int
    run_id: str
    share: str
    cases: int
    submitted_s: float


def needs_postgresql(store: Store) -> None:
    """UsageError where the store is a file: then there is one host, and no queue."""
    if store.database.path is not None:
        raise UsageError(
            f"the store {store.database.name} is a file: several hosts share a PostgreSQL: "
            "--store postgresql://USER@HOST/DATABASE"
        )


def quiet() -> None:
    """The libraries' own words about links that broke are said in ours."""
    for name in ("procrastinate", "psycopg"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


def pool_arguments(store: Store, connections: int) -> dict[str, Any]:
    """Of procrastinate's connectors."""
    return {"conninfo": store.database.libpq, "min_size": 1, "max_size": connections, "timeout": float(CONNECT_S)}


def missing(error: ModuleNotFoundError) -> StoreError:
    """What to install."""
    return StoreError(f"a lab's queue needs the Python package {error.name}: pip install 'pocketbench[farm]'")


class Queue:
    """For whoever submits, or looks; StoreError where the database is away."""

    def __init__(self, store: Store) -> None:
        needs_postgresql(store)
        quiet()
        try:
            import procrastinate
        except ModuleNotFoundError as error:
            raise missing(error) from error
        self._store = store
        self._app: App = procrastinate.App(
            connector=procrastinate.SyncPsycopgConnector(**pool_arguments(store, 2)),
        )
        with self._told():
            self._app.open()
            prepare(self._app)

    def close(self) -> None:
        """Let go of the database."""
        self._app.close()

    def submit(self, asked: Sequence[tuple[Share, Mapping[str, Any]]]) -> list[int]:
        """Ids, in that order, of the shares in the queue; one that waits there already is not added again."""
        from procrastinate.exceptions import AlreadyEnqueued
        from procrastinate.jobs import Job

        jobs = [
            Job(
                queue=share.queue,
                lock=share.lock,
                queueing_lock=f"{doc['run_id']}/{share.name}",
                task_name=TASK,
                task_kwargs=dict(doc),
            )
            for share, doc in asked
        ]
        manager = self._app.job_manager
        with self._told():
            try:
                return [_id(job) for job in manager.batch_defer_jobs(jobs)]
            except AlreadyEnqueued:
                return [self._one(job) for job in jobs]

    def _one(self, job: Job) -> int:
        from procrastinate.exceptions import AlreadyEnqueued

        try:
            return _id(self._app.job_manager.defer_job(job))
        except AlreadyEnqueued:
            waiting = self._app.job_manager.list_jobs(queueing_lock=job.queueing_lock, status=WAITING)
            return _id(next(iter(waiting)))

    def entries(self) -> list[Entry]:
        """All that waits or runs, oldest first."""
        manager = self._app.job_manager
        with self._told():
            # In this order: one that begins between the two is seen in the second.
            found = {
                _id(job): job for state in (WAITING, RUNNING) for job in manager.list_jobs(task=TASK, status=state)
            }
        return [_entry(job) for _, job in sorted(found.items())]

    def state(self, id_: int) -> str:
        """Of one, by procrastinate's words: todo, doing, succeeded, failed, cancelled, aborted."""
        with self._told():
            return self._app.job_manager.get_job_status(id_).value

    def cancel(self, ids: Sequence[int]) -> None:
        """What waits never begins, and what runs is ended."""
        with self._told():
            for id_ in ids:
                self._app.job_manager.cancel_job_by_id(id_, abort=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        from procrastinate.exceptions import ConnectorException
        from psycopg import Error

        try:
            yield
        except (ConnectorException, Error) as error:
            database = self._store.database
            cause = database.cause(error.__cause__ or error)
            raise StoreError(f"the queue in {database.name} cannot be used: {cause}{database.remedy}") from error


def prepare(app: App) -> None:
    """procrastinate's own tables, once; of several hosts at once one makes them."""
    from procrastinate.exceptions import ConnectorException

    if app.check_connection():
        return
    try:
        app.schema_manager.apply_schema()
    except ConnectorException:
        if not app.check_connection():
            raise


def losses(job: Job) -> int:
    """How often it was begun in vain. A worker that is stopped is no loss: what it gives back comes first, and its
    priority counts how often.
    """
    return job.attempts - job.priority


def _id(job: Job) -> int:
    assert job.id is not None
    return job.id


def _entry(job: Job) -> Entry:
    told: Mapping[str, Any] = job.task_kwargs
    return Entry(
        _id(job),
        job.queue,
        str(job.status),
        losses(job) + 1,
        str(told.get("run_id", "")),
        str(told.get("share", "")),
        len(told.get("cases", ())),
        float(told.get("submitted_s", time.time())),
    )
