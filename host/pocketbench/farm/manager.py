"""procrastinate's dealings with its database, for a lab: jobs for free devices only, patience while it is away, and no
word on jobs that another worker has by now.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from psycopg.errors import ForeignKeyViolation, RaiseException

from pocketbench.farm.bays import Bays
from pocketbench.farm.queue import ATTEMPTS, RUNNING, TASK, WAITING, losses

AGAIN_S = 1.0
# A worker without a heartbeat for so long has gone; it beats every 10 s.
STALLED_S = 30.0
# For so long its jobs are seen to be stalled, without a break, before somebody else begins them: where the database was
# away, every worker's heartbeat is old at first.
GRACE_S = 15.0
# Hours after which a job that has ended is forgotten.
KEPT_H = 168


class LabManager(JobManager):
    """Of one worker. `say` is told when the database goes away and comes back."""

    def __init__(self, connector: BaseConnector, bays: Bays, say: Callable[[str], None]) -> None:
        super().__init__(connector)
        self._bays = bays
        self._say = say
        self._ids: list[int] = []
        self._away = False

    async def register_worker(self) -> int:
        """Remember under which numbers this worker was known."""
        self._ids.append(await super().register_worker())
        return self._ids[-1]

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """The next job for a device that is free; `queues` are those, whatever was asked for."""
        wanted = self._bays.queues()
        if not wanted:
            return None
        try:
            job = await super().fetch_job(queues=wanted, worker_id=self._ids[-1])
        except ConnectorException as error:
            if isinstance(error.__cause__, ForeignKeyViolation):
                # Taken for dead, and forgotten, while it stood still.
                await self.register_worker()
            self._is_away(error)
            return None
        self._is_back()
        if job is not None and job.id is not None:
            # While the database was asked, the device may have been set aside for a check.
            while self._bays.take(job.queue, job.id) is None:
                await asyncio.sleep(AGAIN_S)
        return job

    async def update_heartbeat(self, worker_id: int) -> None:
        """As often as the database is there."""
        try:
            await super().update_heartbeat(self._ids[-1])
        except ConnectorException as error:
            self._is_away(error)

    async def unregister_worker(self, worker_id: int) -> None:
        """At the end; what stays behind is stalled, and swept."""
        try:
            await super().unregister_worker(self._ids[-1])
        except ConnectorException as error:
            self._is_away(error)

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Once the database is there; not where another worker has the job by now."""
        succeeded = status == Status.SUCCEEDED
        await self._end(job, succeeded, lambda: super(LabManager, self).finish_job(job, status, delete_job))

    async def retry_job(self, job: Job, *arguments: Any, **named: Any) -> None:
        """The same."""
        await self._end(job, False, lambda: super(LabManager, self).retry_job(job, *arguments, **named))

    async def _end(self, job: Job, succeeded: bool, end: Callable[[], Awaitable[None]]) -> None:
        assert job.id is not None
        try:
            while True:
                try:
                    if await self._is_ours(job.id, succeeded):
                        await end()
                    return
                except ConnectorException as error:
                    if isinstance(error.__cause__, RaiseException):
                        # It has been ended by somebody else.
                        return
                    self._is_away(error)
                    await asyncio.sleep(AGAIN_S)
        finally:
            self._bays.release(job.id)

    async def _is_ours(self, id_: int, succeeded: bool) -> bool:
        for now in await self.list_jobs_async(id=id_):
            # What succeeded need not be begun again, though it was thought lost meanwhile.
            state = now.status == RUNNING or (succeeded and now.status == WAITING)
            return state and now.worker_id in (None, *self._ids)
        return False

    async def sweep(self, seen: dict[int, float], at_s: float) -> list[str]:
        """Begin the jobs of workers that have gone once more, or end them; what was done, in words.

        `seen` are jobs that were stalled when it was last looked, with the time since when.
        """
        try:
            stalled = {job.id or 0: job for job in await self.get_stalled_jobs(task_name=TASK)}
            for worker_id in self._ids:
                # Given to us when the connection broke, so that we never heard of it.
                mine = await self.list_jobs_async(task=TASK, status=RUNNING, worker_id=worker_id)
                stalled |= {job.id: job for job in mine if job.id is not None and not self._bays.has(job.id)}
            done = []
            for id_ in due(stalled, seen, at_s):
                done.append(await self._swept(stalled[id_]))
                del seen[id_]
        except ConnectorException as error:
            # Seen without a break: from the beginning.
            seen.clear()
            self._is_away(error)
            return []
        return [told for told in done if told]

    async def tidy(self) -> None:
        """Forget jobs that ended long ago: what they found is in the store."""
        with contextlib.suppress(ConnectorException):
            await self.delete_old_jobs(KEPT_H, include_failed=True, include_cancelled=True, include_aborted=True)

    async def _swept(self, job: Job) -> str:
        assert job.id is not None
        name = f"{job.task_kwargs.get('share')} of {job.task_kwargs.get('run_id')}"
        for now in await self.list_jobs_async(id=job.id, status=RUNNING, worker_id=job.worker_id):
            if losses(now) + 1 < ATTEMPTS:
                await self.retry_job_by_id_async(job.id, retry_at=datetime.now(UTC))
                return f"{name}: its worker has gone: it waits for another"
            await self.finish_job_by_id_async(job.id, Status.FAILED, delete_job=False)
            return f"{name}: its worker has gone, for the second time: it is lost"
        return ""

    def _is_away(self, error: ConnectorException) -> None:
        if not self._away:
            self._away = True
            told = " ".join(str(error.__cause__ or error).split())
            self._say(f"the database is away ({told}): what runs goes on, and is stored when it is back")

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            self._say("the database is back")


def due(stalled: Iterable[int], seen: dict[int, float], at_s: float) -> list[int]:
    """Those of the stalled that have been for long enough; `seen` is brought up to date."""
    found = set(stalled)
    for id_ in list(seen):
        if id_ not in found:
            del seen[id_]
    for id_ in found:
        seen.setdefault(id_, at_s)
    return sorted(id_ for id_ in found if at_s - seen[id_] >= GRACE_S)
