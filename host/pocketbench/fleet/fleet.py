"""The fleet: one lane a device, devices in parallel, one Ctrl-C to stop well and a second to stop at once."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from pocketbench.config.devices import ANY, DeviceEntry
from pocketbench.errors import StoreError
from pocketbench.farm.following import Following
from pocketbench.farm.shares import in_lab
from pocketbench.figures import accuracy
from pocketbench.figures.accuracy import Scored
from pocketbench.fleet.lane import Lane
from pocketbench.fleet.progress import Progress
from pocketbench.fleet.reference import HostReference
from pocketbench.fleet.turns import Turns
from pocketbench.measurement import Process
from pocketbench.models import PlacedFile, place, printable
from pocketbench.plan import NATIVE, Case, Request, original, program
from pocketbench.results import Result, is_again, with_samples
from pocketbench.scratch import scratch
from pocketbench.store import lab
from pocketbench.store import lease as leases
from pocketbench.store.spool import Fence
from pocketbench.store.store import Store
from pocketbench.verdict import verdict
from pocketbench.workload import DevicePipeline, Workload, device_pipeline, load

# By device and program.
Scores = Mapping[tuple[object, ...], Scored]
INTERRUPTED = 130
JOIN_S = 0.2
CONNECTING_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the results in the order of its cases, and whether it was interrupted."""

    results: tuple[Result, ...]
    interrupted: bool
    # Of compressed results, by id: what they are compared with.
    originals: Mapping[str, str] = field(default_factory=dict)
    # Of the results, in their order: a case that has none is left out.
    keys: tuple[str, ...] = ()
    # What the workload gave on this host, for Fed of another run.
    scored: Scores = field(default_factory=dict)


class Part(Protocol):
    """What measures a part of a run in a thread of its own: a lane, or other hosts."""

    device: str
    progress: Progress
    results: dict[str, Result]

    def run(self) -> None:
        """Until everything that has no result yet has one."""

    def cancel(self) -> None:
        """Called from another thread once the run is stopping."""

    def connected(self) -> bool:
        """Is there anything to end well?"""

    def abandon(self) -> None:
        """The process is about to end without more ado."""


@dataclass(frozen=True)
class OnBehalf:
    """Of a run that another host follows, this one measures a share: it waits so long for a device that somebody else
    has; `crowded`: this machine measures others meanwhile; `fence`: what must hold for results to be stored.
    """

    patience_s: float
    crowded: bool
    fence: Fence | None


@dataclass(frozen=True)
class Fed:
    """What the cases of a request are fed and scored with; `scored` is what an earlier run with the same workload had
    scored.
    """

    inputs: PlacedFile | None
    workload: Workload | None
    scored: Scores = field(default_factory=dict)


def feed(
    request: Request,
    seen: Mapping[str, frozenset[str]] = MappingProxyType({}),
    scored: Scores = MappingProxyType({}),
) -> Fed:
    """Read the files that a request names; `seen` are digests of what its models learnt from. UsageError."""
    inputs = place(Path(request.inputs), "inputs.npz", "--inputs") if request.inputs else None
    workload = load(Path(request.workload)) if request.workload else None
    return Fed(inputs, replace(workload, seen=seen) if workload is not None and seen else workload, scored)


def measure(
    request: Request,
    devices: Mapping[str, DeviceEntry],
    store: Store,
    run_id: str,
    progress: Progress,
    fed: Fed,
    resumed: bool = False,
    keep: bool = False,
    behalf: OnBehalf | None = None,
) -> Outcome:
    """Measure every case that has no result in the store yet, with whole frames timed where the workload says what they
    are; `keep` leaves the jobs on the devices.

    A lab's devices are measured by the workers of their hosts, where the store is one that hosts share.
    """
    place = scratch()
    with place as folder:
        pipeline = device_pipeline(fed.workload, Path(folder)) if fed.workload is not None else None
        return _run(request, devices, store, run_id, progress, fed, pipeline, resumed, keep, place.cleanup, behalf)


def _run(
    request: Request,
    devices: Mapping[str, DeviceEntry],
    store: Store,
    run_id: str,
    progress: Progress,
    fed: Fed,
    pipeline: DevicePipeline | None,
    resumed: bool,
    keep: bool,
    abandon: Callable[[], None],
    behalf: OnBehalf | None,
) -> Outcome:
    stop = threading.Event()
    reference = HostReference(progress.say)
    shared_store = store.database.path is None and behalf is None
    elsewhere = {case.key: case for case in request.cases if shared_store and in_lab(devices[case.device])}
    request = _placed(request, elsewhere, devices, store, run_id)
    measured: Mapping[str, Mapping[int, Process]] = store.processes(run_id)
    stored = {key: result for key, result in store.results(run_id).items() if not is_again(result)}
    done = {key: with_samples(result, measured.get(key, {})) for key, result in stored.items()}
    scored = {key: accuracy.from_doc(doc) for key, doc in store.scores(run_id).items()} if resumed or behalf else {}
    mine = [case for case in request.cases if case.key not in elsewhere]
    scored |= {case.key: fed.scored[_on_device(case)] for case in mine if _on_device(case) in fed.scored}
    names = list(dict.fromkeys(case.device for case in mine))
    here = sum(devices[name].transport == "local" for name in names)
    turns = Turns(os.cpu_count())
    lanes: list[Part] = [
        Lane(
            device=name,
            entry=devices[name],
            cases=[case for case in mine if case.device == name],
            request=request,
            run_id=run_id,
            store=store,
            progress=progress,
            stop=stop,
            inputs=fed.inputs,
            workload=fed.workload,
            pipeline=pipeline,
            reference=None if devices[name].transport == "local" else reference,
            shared=devices[name].transport == "local" and (here > 1 or (behalf is not None and behalf.crowded)),
            turns=turns if devices[name].transport == "local" else Turns(),
            resumed=resumed,
            keep=keep,
            patience_s=behalf.patience_s if behalf else 0.0,
            fence=behalf.fence if behalf else None,
            measured=measured,
            scored=scored,
            results={case.key: done[case.key] for case in mine if case.key in done and case.device == name},
        )
        for name in names
    ]
    if elsewhere:
        theirs = {key: done[key] for key in elsewhere if key in done}
        words = (request, run_id, store, progress, stop, fed.inputs, fed.workload, keep)
        lanes.append(Following(tuple(elsewhere.values()), devices, *words, theirs))
    errors: list[BaseException] = []
    # Daemons, for one that waits for a device is not waited for.
    threads = [threading.Thread(target=_guarded, args=(lane, errors), name=lane.device, daemon=True) for lane in lanes]
    try:
        with _signals(stop, [abandon, *(lane.abandon for lane in lanes)]):
            for thread in threads:
                thread.start()
            interrupted = _join(threads, lanes, reference, stop, progress)
    finally:
        reference.close()
    if errors:
        raise errors[0]
    found = {key: result for lane in lanes for key, result in lane.results.items()}
    if not interrupted and behalf is None and len(found) == len({case.key for case in request.cases}):
        try:
            store.finish_run(run_id)
        except StoreError as error:
            # The results are stored or spooled; losing the report for this mark would be the worse end.
            progress.say(f"warning: the run could not be marked as complete: {error}")
    pairs = [(case, other) for case in request.cases if (other := original(case, request.cases)) is not None]
    originals = {found[a.key].id: found[b.key].id for a, b in pairs if a.key in found and b.key in found}
    keys = tuple(case.key for case in request.cases if case.key in found)
    judged = {
        _on_device(case): one
        for lane in lanes
        if isinstance(lane, Lane)
        for case in lane.cases
        if (one := lane.score_of(case)) is not None
    }
    return Outcome(_warned([found[key] for key in keys]), interrupted, originals, keys, judged)


def _on_device(case: Case) -> tuple[object, ...]:
    """What decides its score. Its key may stand for any device of a kind."""
    return (case.device, *program(case))


def _guarded(lane: Part, errors: list[BaseException]) -> None:
    """A defect in one lane must not leave the others waiting for it."""
    try:
        lane.run()
    except StoreError as error:
        # What is measured cannot be kept any more: its other cases have no result, and what has one is reported.
        lane.progress.say(f"{lane.device}: {error}")
    except BaseException as error:
        errors.append(error)
        lane.progress.say(f"{lane.device}: ended by {type(error).__name__}: {printable(str(error))}")


def _join(
    threads: Sequence[threading.Thread],
    lanes: Sequence[Part],
    reference: HostReference,
    stop: threading.Event,
    progress: Progress,
) -> bool:
    """Wait for the lanes; was the run interrupted?

    Then one that is connecting, or has been waiting for its device, is left alone: it has nothing to keep.
    """
    told, patience_s = False, math.inf
    while any(
        thread.is_alive() and (lane.connected() or time.monotonic() < patience_s)
        for thread, lane in zip(threads, lanes, strict=True)
    ):
        for thread in threads:
            thread.join(JOIN_S)
        if stop.is_set() and not told:
            told, patience_s = True, time.monotonic() + CONNECTING_S
            progress.say("stopping: what was measured is kept (Ctrl-C again to quit at once)")
            for cancel in (reference.cancel, *(lane.cancel for lane in lanes)):
                threading.Thread(target=cancel, daemon=True).start()
    return stop.is_set()


def _placed(
    request: Request, elsewhere: Collection[str], devices: Mapping[str, DeviceEntry], store: Store, run_id: str
) -> Request:
    """Any of a kind, where this host measures it: the first that nobody has; what another one began is begun anew.
    `elsewhere` are keys of cases.
    """
    chosen: dict[str, str] = {}
    moved = []
    for case in request.cases:
        if case.device.startswith(ANY) and case.key not in elsewhere:
            if case.device not in chosen:
                kind = case.device.removeprefix(ANY)
                able = [name for name, entry in devices.items() if entry.kind == kind and not name.startswith(ANY)]
                free = (name for name in able if leases.held(store, leases.place(name, devices[name])) is None)
                chosen[case.device] = next(free, able[0])
            moved.append(replace(case, device=chosen[case.device], asked=case.device))
    if not moved:
        return request
    lab.begin_anew(store, run_id, [case.key for case in moved])
    by_key = {case.key: case for case in moved}
    return replace(request, cases=tuple(by_key.get(case.key, case) for case in request.cases))


@contextmanager
def _signals(stop: threading.Event, abandon: Sequence[Callable[[], None]]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) sets `stop`; a second ends the process where it stands, after `abandon`."""

    def handle(*_: object) -> None:
        if stop.is_set():
            # The agents end with their stdin; nothing is left to tidy that the store would miss.
            for each in abandon:
                each()
            os._exit(INTERRUPTED)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warned(results: Sequence[Result]) -> tuple[Result, ...]:
    """Add the reasons that only the whole table shows."""
    versions: dict[str, set[str]] = {}
    for result in results:
        program, version = _program(result)
        if version:
            versions.setdefault(program, set()).add(version)
    differing = verdict.runtime_differs(versions)
    return tuple(
        replace(result, reasons=(*result.reasons, differing[program]))
        if (program := _program(result)[0]) in differing
        else result
        for result in results
    )


def _program(result: Result) -> tuple[str, str]:
    """The runtime and its version; of runtime native the tool and its, for each tool is a program of its own."""
    name, version = result.runtime.name, result.runtime.version or ""
    tool, _, build = version.partition(" ")
    return (tool, build) if name == NATIVE and build else (name, version)
