"""Measures one share, for the worker that started it: told on stdin what to measure, and to stop by its end.

Exit code 0: every case has its result in the store; 2: it cannot be measured here, the last line on stderr says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketbench.config import devices as config
from pocketbench.errors import DeviceBusy, PocketbenchError, StoreError, UsageError
from pocketbench.farm import jobs
from pocketbench.farm.telling import Telling
from pocketbench.fleet import fleet
from pocketbench.fleet.fleet import OnBehalf
from pocketbench.store import lab, spool
from pocketbench.store import lease as leases
from pocketbench.store.spool import Fence
from pocketbench.store.store import Store

# For a lease that a host held which has gone, and for somebody who uses the device by hand.
PATIENCE_S = 600.0
AGAIN_S = 2.0
REFUSED, UNFINISHED = 2, 3


def main() -> int:
    """The exit code."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_lifeline, daemon=True).start()
    try:
        while True:
            try:
                return _measure(told)
            except StoreError as error:
                # The worker ends what takes longer than it may; what was measured is in the store or spooled.
                print(f"{error}: waiting for it", file=sys.stderr)
                time.sleep(AGAIN_S)
    except KeyboardInterrupt:
        return UNFINISHED
    except PocketbenchError as error:
        print(error, file=sys.stderr)
        return REFUSED


def _measure(told: Mapping[str, Any]) -> int:
    job, device = told["job"], told["device"]
    store = Store(told["store"])
    state = lab.Share(job["share"], device, told["lab_host"], told["attempt"])
    path = told["devices_file"]
    entries = config.load(Path(path) if path else None)
    with contextlib.closing(store), Telling(store, job["run_id"], state) as telling:
        try:
            with _fence(store, job, device) as fence:
                request, inputs, workload = jobs.rebuild(store, job, device)
                behalf = OnBehalf(PATIENCE_S, told["crowded"], fence)
                fleet.measure(
                    request,
                    entries,
                    store,
                    job["run_id"],
                    telling,
                    fleet.Fed(inputs, workload),
                    keep=job["keep"],
                    behalf=behalf,
                )
                stored = settled(store, job["run_id"], job["cases"])
        except UsageError as error:
            telling.end(str(error), "not_served")
            raise
        telling.end("")
    return 0 if stored else UNFINISHED


def _lifeline() -> None:
    """The worker is gone, or wants this to stop: as by Ctrl-C."""
    # Not by sys.stdin, whose lock this thread would hold when the interpreter ends.
    while os.read(0, 1):
        pass
    signal.raise_signal(signal.SIGINT)
    time.sleep(STOPPING_S)
    os._exit(UNFINISHED)


# Longer than a lane takes to stop well.
STOPPING_S = 25.0


@contextlib.contextmanager
def _fence(store: Store, job: Mapping[str, Any], device: str) -> Iterator[Fence | None]:
    """Of a share for any of a kind: whoever had it before, on another device, neither measures nor stores any more."""
    if not job["any"]:
        yield None
        return
    name, end = f"{spool.SHARE}{job['run_id']} {job['share']}", time.monotonic() + PATIENCE_S
    before = lab.told(store, job["run_id"]).get(job["share"])
    with _patient(lambda: leases.kept(store, name, lambda: signal.raise_signal(signal.SIGINT)), end) as lease:
        fence = (lease.device, lease.epoch)
        if before is not None and before.device != device:
            lab.begin_anew(store, job["run_id"], job["cases"], fence)
        yield fence


@contextlib.contextmanager
def _patient(
    taken: Callable[[], contextlib.AbstractContextManager[leases.Lease]], end: float
) -> Iterator[leases.Lease]:
    with contextlib.ExitStack() as stack:
        while True:
            try:
                lease = stack.enter_context(taken())
                break
            except DeviceBusy:
                if time.monotonic() > end:
                    raise
                time.sleep(AGAIN_S)
        yield lease


def settled(store: Store, run_id: str, case_keys: Sequence[str]) -> bool:
    """Is every result in the store? What was spooled is stored first, however long the database is away: whoever
    follows the run has no other way to it.
    """
    while True:
        with contextlib.suppress(StoreError):
            spool.replay(store.database)
            if not spool.waiting(store.database):
                return lab.have(store, run_id, case_keys) == set(case_keys)
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    # What gRPC's own library says of links that broke is said in our words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(main())
