"""The part of a run that other hosts measure: submitted, followed through the store, and collected."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from pocketbench.assemble import Context, assemble, case_reason
from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import StoreError
from pocketbench.farm import jobs
from pocketbench.farm.queue import RUNNING, WAITING, Entry, Queue
from pocketbench.farm.shares import Share, hosts, split, unserved
from pocketbench.fleet.progress import Progress, duration
from pocketbench.models import PlacedFile
from pocketbench.plan import Case, Request
from pocketbench.results import Reason, Result, with_samples
from pocketbench.store import lab
from pocketbench.store.store import Store
from pocketbench.workload import Workload

LOOK_S = 1.0
# A queue that nobody serves for so long: its cases end without a measurement.
UNSERVED_S = 300.0
# A database that is away for longer ends the command; what the workers measure is stored all the same.
AWAY_S = 600.0
# What runs elsewhere ends well in that time when it is stopped.
STOPPING_S = 40.0
NAME = "lab"


@dataclass
class Following:
    """One run's shares on other hosts. After `run`, `results` has every case that ended, by its key."""

    cases: Sequence[Case]
    entries: Mapping[str, DeviceEntry]
    request: Request
    run_id: str
    store: Store
    progress: Progress
    stop: threading.Event
    inputs: PlacedFile | None
    workload: Workload | None
    keep: bool
    results: dict[str, Result] = field(default_factory=dict)
    device: str = NAME

    def __post_init__(self) -> None:
        self._shares: dict[int, Share] = {}
        self._queue: Queue | None = None
        self._told: dict[str, tuple[int, int, int]] = {}
        self._unserved: dict[str, float] = {}
        self._began = False

    def run(self) -> None:
        """Until every share has ended. StoreError where the database is away for long."""
        open_ = [share for share in split(self.cases) if any(case.key not in self.results for case in share.cases)]
        self._queue = queue = Queue(self.store)
        try:
            self._cancel_earlier(queue)
            asked = [(share, self._describe(share)) for share in open_]
            self._shares = dict(zip(queue.submit(asked), open_, strict=True))
            self._began = True
            self._follow(queue)
        finally:
            with contextlib.suppress(StoreError):
                self._collect()
            # Only now may nobody wait for this any more.
            self._began = False
            queue.close()

    def cancel(self) -> None:
        """Called from another thread once `stop` is set: what waits never begins, what runs is stopped."""
        if self._queue is not None and self._shares:
            with contextlib.suppress(StoreError):
                self._queue.cancel(list(self._shares))

    def connected(self) -> bool:
        """Is there anything to end well?"""
        return self._began

    def abandon(self) -> None:
        """Nothing of this process is left on other hosts."""

    def _describe(self, share: Share) -> jobs.Doc:
        return jobs.describe(self.store, self.run_id, self.request, share, self.inputs, self.workload, self.keep)

    def _cancel_earlier(self, queue: Queue) -> None:
        """Of this run, from a host that died and goes on now."""
        queue.cancel([entry.id for entry in queue.entries() if entry.run_id == self.run_id])

    def _follow(self, queue: Queue) -> None:
        open_, away, stopped = dict(self._shares), None, None
        while open_:
            self.stop.wait(LOOK_S) if stopped is None else time.sleep(LOOK_S)
            now = time.monotonic()
            if self.stop.is_set():
                stopped = stopped or now
                if now - stopped > STOPPING_S:
                    return
            try:
                live = {entry.id: entry for entry in queue.entries()}
                self._show(lab.told(self.store, self.run_id))
                self._look_for_workers(queue, open_, live, now)
                for id_ in [id_ for id_ in open_ if id_ not in live]:
                    # Between two looks it may have been given back.
                    state = queue.state(id_)
                    if state not in (RUNNING, WAITING):
                        self._ended(open_.pop(id_), state)
                away = None
            except StoreError as error:
                if away is None:
                    self.progress.say(f"{error}: waiting for it, {duration(AWAY_S)} at most")
                away = away or now
                if now - away > AWAY_S:
                    raise

    def _ended(self, share: Share, state: str) -> None:
        """Its results; what has none was lost, unless this run is stopping."""
        have = lab.have(self.store, self.run_id, [case.key for case in share.cases])
        lacking = [case for case in share.cases if case.key not in have]
        if lacking and not self.stop.is_set():
            told = lab.told(self.store, self.run_id).get(share.name)
            if told is not None and share.lock is None:
                lacking = [replace(case, device=told.device, asked=case.device) for case in lacking]
            self._lose(share, lacking, _why(share, told, state))
        self.progress.done(share.name, f"done, {len(share.cases)} cases")

    def _lose(self, share: Share, cases: Sequence[Case], reason: Reason) -> None:
        entry = self.entries[share.target]
        plan = {**asdict(self.request.plan), "run_id": self.run_id}
        for case in cases:
            result = assemble(case, (), Context(entry.transport, plan=plan, labels=self.request.labels), [reason])
            self.store.save_result(self.run_id, case.key, result, None, self.request.night)
            self.progress.say(f"{share.target}: {case.label}: {result.status}: {reason.message}")

    def _show(self, told: Mapping[str, lab.Share]) -> None:
        for name, share in told.items():
            attempt, at, lines = self._told.get(name, (0, 0, 0))
            if attempt != share.attempt:
                again = "" if share.attempt == 1 else f", attempt {share.attempt}"
                self.progress.say(f"{name}: measured by {share.lab_host} on {share.device}{again}")
                self.progress.begin(name, share.steps)
                at = lines = 0
            for line in share.said[lines:]:
                self.progress.say(line)
            for _ in range(at, share.at):
                self.progress.step(name, share.text)
            self._told[name] = (share.attempt, max(at, share.at), len(share.said))

    def _look_for_workers(self, queue: Queue, open_: dict[int, Share], live: Mapping[int, Entry], now: float) -> None:
        """A share that no worker will take is said, and ends after a while."""
        served = [(claim.device, claim.kind) for claim in lab.claims(self.store)]
        without = unserved(list(open_.values()), served)
        self._unserved = {share.name: self._unserved.get(share.name, now) for share in without}
        for id_, share in list(open_.items()):
            since = self._unserved.get(share.name)
            if since == now and not self.stop.is_set():
                where = hosts(share, self.entries)
                start = f"start 'bench worker' on {where} within {duration(UNSERVED_S)}"
                self.progress.say(f"{share.target}: no worker serves it: {start}")
            if since is not None and now - since > UNSERVED_S:
                queue.cancel([id_])
                state = live[id_].state if id_ in live else ""
                self._ended(open_.pop(id_), "unserved" if state != RUNNING else "gone")

    def _collect(self) -> None:
        measured = self.store.processes(self.run_id)
        mine = {case.key for case in self.cases}
        for key, result in self.store.results(self.run_id).items():
            if key in mine:
                self.results[key] = with_samples(result, measured.get(key, {}))


def _why(share: Share, told: lab.Share | None, state: str) -> Reason:
    """Of a case without a result."""
    if state == "unserved":
        return case_reason("not_served", f"{share.target}: no worker served it for {duration(UNSERVED_S)}")
    if state in ("cancelled", "aborted"):
        return case_reason("not_served", f"{share.target}: was cancelled in the queue")
    if told is None:
        return case_reason("device_lost", f"{share.target}: its worker went away before it measured anything")
    if told.ended:
        return case_reason(told.code, f"{told.device}: {told.ended}")
    tried = f", attempt {told.attempt}" if told.attempt > 1 else ""
    return case_reason(
        "device_lost", f"{told.device}: the worker of {told.lab_host} went away ({told.text or 'at the start'}{tried})"
    )
