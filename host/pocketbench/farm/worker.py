"""`bench worker`: takes shares of runs from the queue for the devices of this host, each measured in a process of its
own, which stores its results itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketbench.config.devices import DeviceEntry
from pocketbench.devices.discover import identity
from pocketbench.errors import DeviceError, StoreError, UsageError
from pocketbench.farm.bays import Bays
from pocketbench.farm.care import Care
from pocketbench.farm.queue import ATTEMPTS, TASK, losses, missing, pool_arguments, quiet
from pocketbench.store import lab
from pocketbench.store import lease as leases
from pocketbench.store.lab import CLAIM_S, Claim
from pocketbench.store.store import Store

if TYPE_CHECKING:
    from procrastinate.job_context import JobContext
    from procrastinate.jobs import Job
    from procrastinate.retry import RetryDecision

LOOK_S = 0.5
SWEEP_S = 5.0
CARE_S = 20.0
# A body that was told to stop, or had its time, is killed when it does not end by itself.
STOP_S = 30.0
# Workers that were not seen for so long are forgotten; one that wakes up before has kept its number.
FORGET_S = 86_400.0
REFUSED, DONE = 2, 0
CONNECTIONS = 8

Doc = Mapping[str, Any]
# Measures a share on a device; raises where it did not come to its end. `attempt` counts from 1.
Body = Callable[[str, int, Doc], Awaitable[None]]


class Unfinished(Exception):
    """A share whose measuring did not come to its end; `again` where another try may help; `code` is the reason of
    cases without a result, empty where the share says it already.
    """

    def __init__(self, why: str, again: bool = True, code: str = "device_lost") -> None:
        super().__init__(why)
        self.again, self.code = again, code


def address(name: str, entry: DeviceEntry) -> str:
    """What there can be one of, whoever calls it what."""
    if entry.transport == "local":
        return f"local {name} of {entry.lab_host}"
    told = [str(part) for part in identity(entry)[:3]]
    known = entry.serial or entry.address or entry.host
    return " ".join(told) if known else f"{entry.transport} any of {entry.lab_host}"


def claims_of(entries: Mapping[str, DeviceEntry], lab_host: str) -> list[Claim]:
    """What a host serves. UsageError: nothing, or one device under two names."""
    mine = {name: entry for name, entry in entries.items() if entry.lab_host == lab_host}
    if not mine:
        known = ", ".join(sorted({entry.lab_host for entry in entries.values() if entry.lab_host})) or "none"
        raise UsageError(
            f"no device of devices.yaml has lab_host: {lab_host} (there are: {known}); --host says which host this is"
        )
    who = leases.owner()
    found: dict[str, Claim] = {}
    for name, entry in mine.items():
        one = Claim(name, address(name, entry), entry.kind, lab_host, who)
        twin = found.setdefault(one.address, one)
        if twin is not one:
            raise UsageError(f"{name} and {twin.device} of devices.yaml are one device ({one.address}): remove one")
    return list(found.values())


@dataclass
class Worker:
    """One host's. `body` is what measures a share."""

    store: Store
    claims: Sequence[Claim]
    body: Body
    say: Callable[[str], None]
    care: Care | None = None
    look_s: float = LOOK_S
    _error: UsageError | None = field(default=None, init=False)

    def run(self) -> None:
        """Until SIGINT or SIGTERM; a second one ends the process. UsageError where its devices are another's."""
        quiet()
        lab.claim(self.store, self.claims)
        try:
            asyncio.run(self._serve())
        finally:
            with contextlib.suppress(StoreError):
                lab.unclaim(self.store, leases.owner())
        if self._error is not None:
            raise self._error

    async def _serve(self) -> None:
        try:
            import procrastinate
        except ModuleNotFoundError as error:
            raise missing(error) from error
        from pocketbench.farm.manager import LabManager

        # Its tables are made by the plain connector, which says in our words what is wrong.
        from pocketbench.farm.queue import Queue

        await asyncio.to_thread(lambda: Queue(self.store).close())
        bays = Bays({claim.device: claim.kind for claim in self.claims})
        app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(**pool_arguments(self.store, CONNECTIONS)),
        )
        manager = LabManager(app.connector, bays, self.say)
        app.job_manager = manager

        async def measure(context: JobContext, /, **doc: Any) -> None:
            assert context.job.id is not None
            await self._measure(context, bays.device(context.job.id), doc)

        app.task(name=TASK, pass_context=True, retry=_strategy())(measure)
        async with app.open_async():
            names = ", ".join(claim.device for claim in self.claims)
            serving = asyncio.create_task(
                app.run_worker_async(
                    queues=bays.queues(),
                    name=self.claims[0].lab_host,
                    concurrency=len(self.claims),
                    fetch_job_polling_interval=self.look_s,
                    abort_job_polling_interval=self.look_s,
                    listen_notify=False,
                    shutdown_graceful_timeout=self.look_s,
                    install_signal_handlers=False,
                    stalled_worker_timeout=FORGET_S,
                )
            )
            duties = (self._keep_claims(serving), self._sweep(manager), self._look_after(bays))
            beside = [asyncio.create_task(each) for each in duties]
            with _signals(serving, self.say):
                self.say(f"serves {names}")
                with contextlib.suppress(asyncio.CancelledError):
                    await serving
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _measure(self, context: JobContext, device: str, doc: Doc) -> None:
        from procrastinate.exceptions import JobAborted
        from procrastinate.job_context import AbortReason

        name = f"{doc['share']} of {doc['run_id']}"
        self.say(f"{device}: begins {name} ({len(doc['cases'])} cases)")
        begun = time.monotonic()
        try:
            await self.body(device, context.job.attempts + 1, doc)
        except asyncio.CancelledError as error:
            if context.abort_reason() == AbortReason.SHUTDOWN:
                self.say(f"{device}: stopped {name}: it waits again")
                raise Unfinished("its worker was stopped") from error
            self.say(f"{device}: stopped {name}, as was asked for")
            raise JobAborted from error
        except Unfinished as error:
            self.say(f"{device}: {name} did not end well: {error}")
            if error.code:
                await asyncio.to_thread(self._tell, device, context.job.attempts + 1, doc, error)
            raise
        self.say(f"{device}: ended {name} after {time.monotonic() - begun:.0f} s")

    def _tell(self, device: str, attempt: int, doc: Doc, error: Unfinished) -> None:
        """Why there may be no result, for whoever follows the run."""
        with contextlib.suppress(StoreError):
            before = lab.told(self.store, doc["run_id"]).get(doc["share"])
            fresh = before or lab.Share(doc["share"], device, self.claims[0].lab_host)
            told = replace(fresh, attempt=attempt, ended=str(error), code=error.code)
            lab.tell(self.store, doc["run_id"], told)

    async def _keep_claims(self, serving: asyncio.Task[None]) -> None:
        while True:
            await asyncio.sleep(CLAIM_S / 4)
            try:
                await asyncio.to_thread(lab.claim, self.store, self.claims)
            except UsageError as error:
                # This host stood still for longer than a claim lasts, and another one has the device.
                self._error = error
                serving.cancel()
                return
            except StoreError:
                continue

    async def _sweep(self, manager: Any) -> None:
        seen: dict[int, float] = {}
        for number in itertools.count():
            await asyncio.sleep(SWEEP_S)
            if number % 1000 == 0:
                await manager.tidy()
            for told in await manager.sweep(seen, time.monotonic()):
                self.say(told)

    async def _look_after(self, bays: Bays) -> None:
        """Quarantined devices take no share for any of their kind, and are checked now and then while they are free."""
        while self.care is not None:
            barred = await asyncio.to_thread(self.care.quarantined)
            bays.bar(barred)
            for name in barred:
                if self.care.due(name) and bays.set_aside(name):
                    try:
                        await asyncio.to_thread(self.care.check, name)
                    except (StoreError, DeviceError):
                        pass
                    except Exception as error:
                        # The others go on being looked after.
                        self.say(f"{name}: its check ended with {type(error).__name__}: {error}")
                    finally:
                        bays.put_back(name)
            await asyncio.sleep(CARE_S)


def _strategy() -> Any:
    from procrastinate import BaseRetryStrategy, RetryDecision

    class Once(BaseRetryStrategy):
        """Once more, where another try may help; always, where its worker was stopped."""

        def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
            """None: it stays as it is."""
            stopped = isinstance(exception.__cause__, asyncio.CancelledError)
            if stopped:
                return RetryDecision(priority=job.priority + 1)
            more = isinstance(exception, Unfinished) and exception.again and losses(job) + 1 < ATTEMPTS
            return RetryDecision() if more else None

    return Once()


@contextlib.contextmanager
def _signals(serving: asyncio.Task[None], say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) stops what runs and keeps what was measured; a second ends the process."""
    loop = asyncio.get_running_loop()

    def handle(*_: object) -> None:
        if serving.cancelling():
            os._exit(130)
        say("stopping: what was measured is kept, the rest waits again (Ctrl-C again to quit at once)")
        loop.call_soon_threadsafe(serving.cancel)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Subprocess:
    """The body that measures: a process a share, so that nothing that happens there ends the worker."""

    store_url: str
    devices_file: Path | None
    lab_host: str
    crowded: bool
    say: Callable[[str], None]

    async def __call__(self, device: str, attempt: int, doc: Doc) -> None:
        """Unfinished where it died, took too long or was refused."""
        told = {
            "job": dict(doc),
            "device": device,
            "lab_host": self.lab_host,
            "attempt": attempt,
            "store": self.store_url,
            "devices_file": str(self.devices_file) if self.devices_file else None,
            "crowded": self.crowded,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pocketbench.farm.body"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # A Ctrl-C for the worker is not one for them.
            start_new_session=True,
        )
        assert process.stdin is not None and process.stderr is not None
        listening = asyncio.create_task(self._listen(device, process.stderr))
        try:
            # In no argument: the address may hold a password. The pipe stays open: a body ends with its worker.
            process.stdin.write(json.dumps(told).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            async with asyncio.timeout(doc["deadline_s"]):
                await process.wait()
            last = await listening
        except TimeoutError as error:
            raise Unfinished(f"it took longer than {doc['deadline_s']:.0f} s", False, "timed_out") from error
        finally:
            await asyncio.shield(_end(process))
            listening.cancel()
        code = process.returncode or DONE
        if code != DONE:
            how = f"signal {-code}" if code < 0 else f"code {code}"
            if code == REFUSED:
                # Told by the body itself.
                raise Unfinished(last, False, "")
            raise Unfinished(f"its process ended with {how}{f': {last}' if last else ''}")

    async def _listen(self, device: str, stream: asyncio.StreamReader) -> str:
        """Say its lines; the last one."""
        last = ""
        while line := await _line(stream):
            if text := line.decode(errors="replace").strip():
                last = text
                self.say(f"{device}: {text}" if not text.startswith(f"{device}:") else text)
        return last


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:
        # Longer than a line may be: what was read so far is dropped.
        return b"\n"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Stopped by the end of its stdin, killed where it does not stop."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
