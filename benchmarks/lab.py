"""What a lab's queue costs, and what it loses: many devices, many cases, a database that crashes in the middle.

Worker processes share the devices between them. Each runs the real worker on the real queue; only what measures is
replaced: a body that sleeps for a second and then stores a real result of its case by the real store, under a fence of
its device's lease. All cases are submitted as shares of one case each. Once a third of the results is stored,
PostgreSQL is killed (`-m immediate`) and, some seconds later, started again.

Each body writes when it began and ended on which device, by CLOCK_MONOTONIC, which all processes of a machine share:
two at a time on one device are an overlap. The overhead is the wall time above the ideal (cases x seconds / devices)
and above the time for which the database was away, by case.

A pass: every case has exactly one result and was begun once, or twice where the crash ended the first try; no overlap;
at most 15 ms overhead a case. Linux only: monotonic clocks of processes are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from conditions import conditions  # type: ignore[import-not-found]
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1]))
from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import DeviceBusy, StoreError
from pocketbench.farm.body import settled
from pocketbench.farm.queue import Queue
from pocketbench.farm.shares import Share
from pocketbench.farm.worker import Unfinished, Worker, claims_of
from pocketbench.models import ModelFile, PlacedFile
from pocketbench.plan import Case, Plan, Request, RuntimeChoice
from pocketbench.store import lease
from pocketbench.store.lab import claims
from pocketbench.store.store import Store, request_doc
from tests.peers.postgresql import Server, postgresql
from tests.unit import facts

BOUND_MS = 15.0
LIBRARIES = ("procrastinate", "psycopg", "sqlalchemy")
AWAY_S = 5.0


@dataclass(frozen=True)
class Ran:
    """One try of a case: monotonic seconds."""

    device: str
    case_key: str
    attempt: int
    begun_s: float
    ended_s: float


@dataclass(frozen=True)
class Took:
    """Seconds: all of it, of which submitting, of which the database was away."""

    wall_s: float
    submitted_s: float
    away_s: float


def main() -> int:
    """Measure; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a case")
    parser.add_argument("--no-crash", action="store_true", help="leave the database alone")
    parser.add_argument("--serve", metavar="HOST", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.url, arguments.log, arguments.seconds, entries(arguments))
        return 0
    # However it ends, its workers and its server end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(conditions(LIBRARIES), flush=True)
    with tempfile.TemporaryDirectory(prefix="lab-") as folder, postgresql(durable=True) as server:
        os.environ["XDG_STATE_HOME"] = folder
        missed = measure(arguments, Path(folder), server)
    print(conditions(LIBRARIES))
    for line in missed:
        print(f"MISSED: {line}")
    if not missed:
        print("PASS")
    return 1 if missed else 0


def entries(arguments: argparse.Namespace) -> Mapping[str, DeviceEntry]:
    """The devices, shared out among the workers."""
    return {
        f"d{number:03}": DeviceEntry(transport="local", lab_host=f"host{number % arguments.workers}")
        for number in range(arguments.devices)
    }


def measure(arguments: argparse.Namespace, folder: Path, server: Server) -> Sequence[str]:
    """Submit, crash, wait, count: the bounds that were missed."""
    url = server.database()
    store = Store(url)
    cases = [case(f"d{number % arguments.devices:03}", number, folder) for number in range(arguments.cases)]
    request = Request(tuple(cases), Plan())
    run_id = store.create_run(request, request_doc(request))
    queue = Queue(store)
    workers = [start(arguments, number, url, folder) for number in range(arguments.workers)]
    try:
        took = run(arguments, store, queue, run_id, cases, server)
        while queue.entries():
            time.sleep(0.2)
    finally:
        for worker in workers:
            worker.terminate()
        codes = [worker.wait(60) for worker in workers]
    ran = [Ran(**json.loads(line)) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    stored = rows(store, "SELECT count(*), count(DISTINCT case_key) FROM result WHERE run_id = :run", run_id)[0]
    states = dict(rows(store, "SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY 1", run_id))
    queue.close()
    store.close()
    ideal_s = arguments.cases * arguments.seconds / arguments.devices
    over_ms = (took.wall_s - took.away_s - ideal_s) / arguments.cases * 1e3
    twice = sum(count > 1 for count in Counter(one.case_key for one in ran).values())
    found = overlaps(ran)
    print(f"{arguments.cases} cases of {arguments.seconds} s on {arguments.devices} devices, {len(workers)} workers")
    print(
        f"submitted in {took.submitted_s:.1f} s; all stored after {took.wall_s:.1f} s; "
        f"the database was away {took.away_s:.1f} s; ideal {ideal_s:.1f} s"
    )
    print(f"overhead {over_ms:.2f} ms a case")
    print(f"results {stored[0]}, of different cases {stored[1]}; begun twice {twice}; overlaps {found}; jobs {states}")
    bounds = (
        (stored == (arguments.cases, arguments.cases), f"{stored} results for {arguments.cases} cases"),
        (set(codes) == {0}, f"workers ended with {codes}"),
        (found == 0, f"{found} overlaps on a device"),
        (over_ms <= BOUND_MS, f"{over_ms:.2f} ms overhead a case, more than {BOUND_MS}"),
    )
    return [told for good, told in bounds if not good]


def run(
    arguments: argparse.Namespace, store: Store, queue: Queue, run_id: str, cases: Sequence[Case], server: Server
) -> Took:
    """From the first case submitted to the last result stored, with the crash in between."""
    while len(claims(store)) < arguments.devices:
        time.sleep(0.2)
    begun = time.monotonic()
    queue.submit([(Share(str(n), one.device, (one,)), doc(run_id, n, one)) for n, one in enumerate(cases)])
    submitted_s = time.monotonic() - begun
    away_s = 0.0
    if not arguments.no_crash:
        wait(store, run_id, arguments.cases // 3)
        since = time.monotonic()
        server.stop("immediate")
        time.sleep(AWAY_S)
        server.start()
        away_s = time.monotonic() - since
    wait(store, run_id, arguments.cases, queue)
    return Took(time.monotonic() - begun, submitted_s, away_s)


def overlaps(ran: Sequence[Ran]) -> int:
    """How often a case began on a device before the one before it had ended there."""
    by_device: dict[str, list[Ran]] = {}
    for one in sorted(ran, key=lambda each: each.begun_s):
        by_device.setdefault(one.device, []).append(one)
    return sum(later.begun_s < earlier.ended_s for each in by_device.values() for earlier, later in pairwise(each))


def case(device: str, number: int, folder: Path) -> Case:
    """Different by their file names alone."""
    file = PlacedFile("model.null", folder / f"m{number}.null", "ab" * 32, 1)
    return Case(device, ModelFile(file.path, (file,)), RuntimeChoice("null"))


def doc(run_id: str, number: int, one: Case) -> dict[str, Any]:
    """What the queue has of a share, as far as the worker reads it."""
    return {
        "run_id": run_id,
        "share": str(number),
        "cases": [one.key],
        "deadline_s": 60.0,
        "submitted_s": time.time(),
    }


def start(arguments: argparse.Namespace, number: int, url: str, folder: Path) -> subprocess.Popen[bytes]:
    """A worker in a process of its own; its words go to a file."""
    host = f"host{number}"
    words = ["--serve", host, "--url", url, "--log", str(folder / f"{host}.jsonl"), "--seconds", str(arguments.seconds)]
    size = ["--devices", str(arguments.devices), "--workers", str(arguments.workers)]
    with (folder / f"{host}.log").open("w") as log:
        return subprocess.Popen([sys.executable, __file__, *words, *size], stderr=log, start_new_session=True)


def wait(store: Store, run_id: str, count: int, queue: Queue | None = None) -> None:
    """Until so many results are stored, or nothing is left in the queue that could store one."""
    while rows(store, "SELECT count(*) FROM result WHERE run_id = :run", run_id)[0][0] < count:
        if queue is not None and not queue.entries():
            return
        time.sleep(0.2)


def rows(store: Store, query: str, run_id: str) -> list[tuple[Any, ...]]:
    """Of the store, however long it is away."""
    while True:
        try:
            with store.database.reading() as connection:
                return [tuple(row) for row in connection.execute(text(query), {"run": run_id})]
        except StoreError:
            time.sleep(0.2)


def serve(host: str, url: str, log: Path, seconds: float, devices: Mapping[str, DeviceEntry]) -> None:
    """A worker whose body sleeps, and stores a result."""
    store = Store(url)

    async def body(device: str, attempt: int, doc: Mapping[str, Any]) -> None:
        begun_s = time.monotonic()
        try:
            held = await asyncio.to_thread(until, lambda: taken(store, device, f"{lease.owner()} {device}"))
            await asyncio.sleep(seconds)
            result = replace(facts.result(), id=uuid.uuid4().hex[:12], device=device)

            def keep() -> None:
                store.save_result(doc["run_id"], doc["cases"][0], result, (held.device, held.epoch))
                lease.release(store, held)

            await asyncio.to_thread(until, keep)
            # Where the database went away just then, it was spooled.
            if not await asyncio.to_thread(settled, store, doc["run_id"], doc["cases"]):
                raise Unfinished("its result is not in the store")
        finally:
            # Also of a try that came to nothing: it had the device all the same.
            ran = Ran(device, doc["cases"][0], attempt, begun_s, time.monotonic())
            with log.open("a") as file:
                file.write(json.dumps(asdict(ran)) + "\n")

    Worker(store, claims_of(devices, host), body, lambda text: print(text, file=sys.stderr, flush=True)).run()
    store.close()


def taken(store: Store, device: str, mine: str) -> lease.Lease:
    """The lease. Where the crash took the answer and not the commit it is ours already: a real body would have died of
    that, and the next one, a process of its own, found it gone.
    """
    try:
        return lease.take(store, device, mine)
    except DeviceBusy as error:
        if error.holder != mine:
            raise
        with store.database.reading() as connection:
            found = connection.execute(text("SELECT epoch FROM lease WHERE device = :device"), {"device": device})
            return lease.Lease(device, mine, int(found.scalar_one()))


def until(done: Callable[[], Any]) -> Any:
    """Again and again while the database is away."""
    while True:
        try:
            return done()
        except StoreError:
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
