"""Jobs: one worker process each, run one after the other, their events numbered and on disk until acknowledged.

A job needs nobody: once accepted it runs to its end or its deadline, whether or not the host is there.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pocketbench_agent import driven, program_cache
from pocketbench_agent.cache import BlobCache
from pocketbench_agent.framing import FramingError, frame, read_message, read_messages
from pocketbench_agent.job_files import JobError, prepare_files, release_files
from pocketbench_agent.rpc import agent_pb2 as pb
from pocketbench_agent.sampler import Sampler
from pocketbench_agent.spawn import Worker

# Results that no host fetched for so long are nobody's any more.
FORGOTTEN_S = 7 * 24 * 3600
log = logging.getLogger(__name__)
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass
class _Job:
    folder: Path
    job: pb.Job
    state: pb.JobState.S.ValueType
    last_seq: int = 0
    offsets: list[int] = field(default_factory=list)
    cancelled: bool = False
    unwritten: pb.Event | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def events(self) -> Path:
        return self.folder / "events"


class Jobs:
    """All jobs below `home`; safe to use from several threads."""

    def __init__(self, home: Path, cache: BlobCache) -> None:
        self._home, self._cache = home, cache
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._running: Worker | None = None
        self._sampler = Sampler()
        (home / "jobs").mkdir(parents=True, exist_ok=True)
        program_cache.forget(home, FORGOTTEN_S)
        for folder in sorted((home / "jobs").iterdir()):
            if time.time() - folder.stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                self._recover(folder)
        threading.Thread(target=self._work, name="jobs", daemon=True).start()

    def start(self, job: pb.Job) -> pb.JobState:
        """Accept a job; a second call with the same id changes nothing. JobError: a missing file, an unsafe path."""
        if not _JOB_ID.fullmatch(job.job_id):
            raise JobError("a job id has 1 to 100 letters, digits, dots, dashes or underscores")
        with self._lock:
            known = self._jobs.get(job.job_id)
            if known is None:
                folder = self._home / "jobs" / job.job_id
                prepare_files(job, folder / "files", self._cache, self._home)
                (folder / "job").write_bytes(frame(job))
                known = self._jobs[job.job_id] = _Job(folder, job, pb.JobState.QUEUED)
                self._queue.put(known)
        return self._state(known)

    def state(self, job_id: str) -> pb.JobState:
        """The state of a job; UNKNOWN for one that was never started or was acknowledged."""
        known = self._jobs.get(job_id)
        return self._state(known) if known else pb.JobState(job_id=job_id, s=pb.JobState.UNKNOWN)

    def unacknowledged(self) -> list[pb.JobState]:
        """Every job that is still kept."""
        return [self._state(job) for job in list(self._jobs.values())]

    def busy(self) -> bool:
        """Is a job waiting or running?"""
        return any(job.state in (pb.JobState.QUEUED, pb.JobState.RUNNING) for job in list(self._jobs.values()))

    def watch(self, job_id: str, from_seq: int) -> Iterator[pb.Event]:
        """The events from that number on, as they come, up to the last one."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        seq = max(from_seq, 1)
        while True:
            with job.changed:
                while job.last_seq < seq and job.state != pb.JobState.DONE:
                    job.changed.wait(1.0)
                last, done = job.last_seq, job.state == pb.JobState.DONE
            if seq <= last:
                with job.events.open("rb") as file:
                    file.seek(job.offsets[seq - 1])
                    for _ in range(seq, last + 1):
                        event = read_message(file, pb.Event)
                        if event is not None:
                            yield event
                seq = last + 1
            elif done:
                if job.unwritten is not None:
                    yield job.unwritten
                return

    def cancel(self, job_id: str) -> pb.JobState:
        """End a job now; its last event says that it was cancelled."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.cancelled = True
            running = self._running
            if running is not None and running.job_id == job_id:
                running.kill()
        return self.state(job_id)

    def acknowledge(self, job_id: str) -> pb.JobState:
        """Delete a finished job: the host has stored its events."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.state == pb.JobState.DONE:
                del self._jobs[job_id]
                shutil.rmtree(job.folder, ignore_errors=True)
        return pb.JobState(job_id=job_id, s=pb.JobState.UNKNOWN) if job is None else self._state(job)

    def close(self) -> None:
        """End the running job and take no more."""
        for job in list(self._jobs.values()):
            job.cancelled = job.cancelled or job.state != pb.JobState.DONE
        self._queue.put(None)
        running = self._running
        if running is not None:
            running.kill()

    def _state(self, job: _Job) -> pb.JobState:
        return pb.JobState(job_id=job.job.job_id, s=job.state, last_seq=job.last_seq)

    def _recover(self, folder: Path) -> None:
        """Take over a job of an agent that is gone: finished, or ended with that agent."""
        try:
            with (folder / "job").open("rb") as file:
                job = read_message(file, pb.Job)
        except (OSError, FramingError):
            job = None
        if job is None:
            shutil.rmtree(folder, ignore_errors=True)
            return
        known = self._jobs[folder.name] = _Job(folder, job, pb.JobState.DONE)
        ended = False
        intact = 0
        if known.events.exists():
            with known.events.open("rb") as file:
                try:
                    for event in read_messages(file, pb.Event):
                        known.offsets.append(intact)
                        intact = file.tell()
                        known.last_seq += 1
                        ended = event.HasField("ended")
                except FramingError:
                    pass
            os.truncate(known.events, intact)
        if not ended:
            message = "the agent ended while the job was running"
            self._record(known, pb.Event(ended=pb.Ended(how=pb.Ended.NO_OUTPUT, stage="agent", message=message)))

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            log.info("job %s begins", job.job.job_id)
            with job.changed:
                job.state = pb.JobState.RUNNING
            try:
                ended = self._run(job)
            except OSError as error:
                ended = pb.Ended(how=pb.Ended.ERROR, stage="agent", message=f"{error.strerror}: {error.filename or ''}")
            last = pb.Event(mono_ns=time.perf_counter_ns(), ended=ended)
            try:
                self._record(job, last)
            except OSError:
                # A full disk must not cost the answer, nor the jobs that come after.
                last.seq, job.unwritten = job.last_seq + 1, last
            release_files(job.job, self._cache)
            log.info("job %s ended: %s %s", job.job.job_id, pb.Ended.How.Name(ended.how), ended.message)
            with job.changed:
                job.state = pb.JobState.DONE
                job.changed.notify_all()
        self._sampler.close()

    def _run(self, job: _Job) -> pb.Ended:
        if job.cancelled:
            return pb.Ended(how=pb.Ended.CANCELLED, message="cancelled before it began")
        # Where the device is driven from here its worker keeps them there.
        programs = program_cache.prepare(job.job, self._home) if driven.link() is None else None
        kept = [(time.perf_counter_ns(), program_cache.size_bytes(programs))] if programs else []
        self._sampler.begin(job.job.meters)
        worker = Worker(job.job, job.folder / "files", self._home)
        self._running = worker
        if job.cancelled:
            # Cancelled between the check above and now, when there was no worker to kill yet.
            worker.kill()
        try:
            worker.write(frame(job.job))
            worker.close_stdin()
            for event in worker.events():
                self._record(job, event)
            ended = worker.ended()
        finally:
            self._running = None
            worker.close()
            for event in self._sampler.end():
                self._record(job, event)
            if programs is not None:
                kept.append((time.perf_counter_ns(), program_cache.size_bytes(programs)))
                reading = pb.Reading(source="programs", quantity="kept", unit="bytes")
                for at, size in kept:
                    reading.t_ns.append(at)
                    reading.value.append(size)
                self._record(job, pb.Event(mono_ns=kept[-1][0], reading=reading))
        if job.cancelled and ended.how != pb.Ended.OK:
            return pb.Ended(how=pb.Ended.CANCELLED, stage=ended.stage, message="cancelled")
        return ended

    def _record(self, job: _Job, event: pb.Event) -> None:
        with job.events.open("ab") as file:
            offset = file.tell()
            event.seq = job.last_seq + 1
            file.write(frame(event))
            file.flush()
            if event.HasField("ended"):
                os.fsync(file.fileno())
        with job.changed:
            job.offsets.append(offset)
            job.last_seq += 1
            job.changed.notify_all()
