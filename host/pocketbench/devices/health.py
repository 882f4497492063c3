"""The health check of one device: can it be reached, can it run what is sent there, does it measure what is known?"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pocketbench.config.devices import DeviceEntry
from pocketbench.config.native_tools import ON_DEVICE
from pocketbench.deploy import agent as deploy
from pocketbench.deploy.runtimes import archive
from pocketbench.devices import abilities
from pocketbench.devices.roster import address
from pocketbench.devices.survey import Survey, places, survey, unusable
from pocketbench.errors import DeviceBusy, DeviceError, LeaseLost, NotReachable
from pocketbench.measurement import Device, Observation
from pocketbench.models import open_model, place
from pocketbench.plan import Case, Plan, RuntimeChoice
from pocketbench.scratch import scratch
from pocketbench.session.session import Session
from pocketbench.session.wire import JobFiles
from pocketbench.store import lease as leases
from pocketbench.store.health import keep_check
from pocketbench.store.store import Store
from pocketbench.transports import Transport, create
from pocketbench.verdict import heat

RUN_S = 30.0
CLOCK_S = 3.0
# The null runtime sleeps so long; what a timer and a scheduler may add is less than the rest of the band.
SLEEP_MS = 10
BAND_MS = (10.0, 20.0)
PLAN = Plan(processes=1, min_runs=20, max_runs=50, min_time_s=0.2, max_time_s=2.0, warm_up_min_time_s=0.05)
# `a + 2 b` over four numbers (tests/data/make_two_signatures.py); the inputs and the answer are exact in binary.
MODEL = Path(__file__).with_name("health.tflite")
INPUTS = ((0.5, -1.0, 2.0, 0.25), (1.5, 0.75, -3.0, 8.0))
ANSWER = (3.5, 0.5, -4.0, 16.25)
WINDOW_S = 0.1

EXEC = r"""
mkdir -p "$w" || exit 3
f="$w/.check.$$"
printf '#!%s\necho ran\n' "$(command -v sh)" > "$f" && chmod 700 "$f" && "$f"
rm -f "$f"
echo "at=$(cd "$w" && pwd -P)"
cat /proc/mounts 2>/dev/null
"""


@dataclass(frozen=True)
class Finding:
    """One check: what was seen, and where it is not ok, what to do."""

    check: str
    verdict: Literal["ok", "warning", "failed"]
    text: str


def check(
    name: str, entry: DeviceEntry, store: Store, say: Callable[[str], None], delegates: bool = False
) -> Iterator[Finding]:
    """Everything in order, each finding as soon as it is known; a failure ends what would build upon it.

    `say` is told what takes long; `delegates`: each is tried too.
    """
    try:
        transport = create(name, entry)
        transport.open()
    except DeviceError as error:
        yield _failed("reach", name, error)
        return
    with closing(transport):
        try:
            yield Finding("reach", "ok", f"{entry.transport} {address(entry)}".strip())
            fit = True
            for finding in _system(entry, transport):
                fit = fit and finding.verdict != "failed"
                yield finding
            if fit:
                yield from _agent(name, entry, transport, store, say, delegates)
        except (DeviceBusy, LeaseLost) as error:
            yield _failed("lease", name, error)
        except DeviceError as error:
            yield _failed("link", name, error)


def keep(name: str, wrong: Sequence[Finding], store: Store) -> None:
    """Remember how a check went; that somebody else has the device says nothing of its health."""
    if not any(finding.check == "lease" for finding in wrong):
        keep_check(store, name, not wrong, "; ".join(f"{one.check}: {one.text}" for one in wrong) or "passed")


def _system(entry: DeviceEntry, transport: Transport) -> Iterator[Finding]:
    told = survey(transport, entry)
    why = unusable(told, entry.transport, entry.driven)
    system = f"{told.os or told.system}, {told.arch}, {told.bits or '?'} bits"
    yield Finding("system", "failed", why) if why else Finding("system", "ok", system)
    if why:
        return
    free = "unknown" if told.free_bytes is None else f"{told.free_bytes / 1e9:.1f} GB"
    yield Finding("room", "ok" if told.free_bytes is not None else "warning", f"{free} free at {told.workdir}")
    yield _exec(entry, transport)
    if not entry.driven:
        yield _seccomp(told)
    yield _clock(transport)


def _exec(entry: DeviceEntry, transport: Transport) -> Finding:
    """A script is written to the workdir and run from there, as the agent will be."""
    done = transport.run(["sh", "-c", f"{places(entry)}\n{EXEC}"], RUN_S)
    lines = done.stdout.decode(errors="replace").splitlines()
    if "ran" in lines[:1]:
        return Finding("exec", "ok", "programs run from the work folder")
    folder = next((line[3:] for line in lines if line.startswith("at=")), "") or "the work folder"
    mount = noexec(folder, lines)
    why = f"{mount} is mounted noexec" if mount else _last(done.stderr) or f"code {done.code}"
    # Tools of the device itself are started from where they lie.
    own = entry.driven and all(tool.path.startswith(ON_DEVICE) for tool in entry.native_tools.values())
    verdict: Literal["warning", "failed"] = "warning" if own else "failed"
    return Finding(
        "exec", verdict, f"nothing runs from {folder}: {why}: name another folder with 'workdir' in devices.yaml"
    )


def noexec(folder: str, mounts: list[str]) -> str:
    """The mount point that the folder lies on, if programs may not run from there (lines of /proc/mounts)."""
    best, options = "", ""
    for line in mounts:
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        point = fields[1].replace("\\040", " ")
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, options = point, fields[3]
    return best if "noexec" in options.split(",") else ""


def _seccomp(told: Survey) -> Finding:
    """Android's filter for apps kills a glibc process with SIGSYS; the shell of adbd does not have it."""
    if told.seccomp == 0:
        return Finding("seccomp", "ok", "no filter")
    what = "cannot be seen" if told.seccomp is None else f"a filter is in force (mode {told.seccomp})"
    return Finding("seccomp", "warning", f"{what}: a process that dies of SIGSYS would be its doing")


def _clock(transport: Transport) -> Finding:
    before = time.time()
    done = transport.run(["date", "+%s"], RUN_S)
    after = time.time()
    text = done.stdout.decode(errors="replace").strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        return Finding("clock", "warning", f"the device's time cannot be read (`date +%s` said {text[:40]!r})")
    # date cuts to whole seconds: half of one on average.
    behind = (before + after) / 2 - (int(text) + 0.5)
    if abs(behind) <= CLOCK_S + (after - before) / 2:
        return Finding("clock", "ok", f"within {CLOCK_S:.0f} s of this machine's")
    way = "behind" if behind > 0 else "ahead of"
    return Finding(
        "clock", "warning", f"{abs(behind):.0f} s {way} this machine's: set it (NTP, or the phone's settings)"
    )


def _agent(
    name: str, entry: DeviceEntry, transport: Transport, store: Store, say: Callable[[str], None], delegates: bool
) -> Iterator[Finding]:
    """Under the lease of the store and of the agent, both given back at the end."""
    # A check is short: who takes the device over meanwhile is refused by the agent's own lease.
    with leases.kept(store, leases.place(name, entry), lambda: None):
        try:
            running = deploy.launch(name, transport, entry, say)
        except NotReachable as error:
            yield _failed("agent", name, error)
            return
        session = Session(name, running, leases.owner(), say)
        try:
            # A host of this machine that died left its lease behind.
            session.open(gone=leases.orphaned)
            info = session.info
            yield Finding("lease", "ok", "free")
            yield from cores(info)
            build = f"build {info.agent_build[:12]}"
            if entry.driven:
                yield Finding("agent", "ok", f"{build}, on this host: no model of known behaviour can run there")
                yield from _tools(name, entry, transport)
                yield from readings(session.observe(WINDOW_S))
                return
            yield Finding("agent", "ok", f"{build}, Python {info.python}, {info.libc or 'no libc'}")
            with scratch() as folder:
                yield _null(name, session, Path(folder))
                yield _litert(name, session, Path(folder), say)
                if delegates:
                    identity = survey(transport, entry).identity
                    yield from _delegates(name, entry, identity, session, Path(folder), say)
            yield from readings(session.observe(WINDOW_S))
        finally:
            session.close()
            running.process.end()


def _tools(name: str, entry: DeviceEntry, transport: Transport) -> Iterator[Finding]:
    """Is each file there that devices.yaml names? None is started: only with a model it has something to do."""
    for tool, told in entry.native_tools.items():
        here = [path for path in (told.path, *told.files) if not path.startswith(ON_DEVICE)]
        if missing := next((path for path in here if not Path(path).is_file()), None):
            yield Finding("tool", "failed", f"{tool}: {missing}: this host has no such file")
            continue
        path = told.path.removeprefix(ON_DEVICE)
        if told.path != path and transport.run(["sh", "-c", '[ -x "$1" ]', "sh", path], RUN_S).code:
            yield Finding("tool", "failed", f"{tool}: {path}: no program there, or one that this user may not start")
            continue
        yield Finding("tool", "ok", f"{tool}: {'is there' if told.path != path else 'can be sent'}")


def _null(name: str, session: Session, folder: Path) -> Finding:
    """A model of known duration, through everything that a measurement goes through."""
    path = folder / "check.null"
    path.write_text(json.dumps({"sleep_ms": SLEEP_MS}))
    case = Case(name, open_model(path), RuntimeChoice("null"))
    job_id = f"check.{uuid.uuid4().hex}"
    process = session.measure(case, PLAN, JobFiles(), 0, job_id)
    session.acknowledge(job_id)
    if process.ended.how != "ok" or process.p50_ns is None:
        return Finding("timing", "failed", f"a model that only sleeps {process.ended.how}: {process.ended.message}")
    p50 = process.p50_ns / 1e6
    told = f"a model that sleeps {SLEEP_MS} ms took {p50:.2f} ms (p50 of {len(process.run_ns)})"
    if BAND_MS[0] <= p50 <= BAND_MS[1]:
        return Finding("timing", "ok", told)
    why = "its clock is wrong" if p50 < BAND_MS[0] else "it is too busy, or its timers are too coarse"
    return Finding("timing", "failed", f"{told}: {why}: what is measured there cannot be trusted")


def _litert(name: str, session: Session, folder: Path, say: Callable[[str], None]) -> Finding:
    """A real model whose answer is known; a runtime that cannot be had is no defect of the device."""
    choice = RuntimeChoice("litert")
    path = folder / "inputs.npz"
    named: dict[str, Any] = {str(position): np.array([values], np.float32) for position, values in enumerate(INPUTS)}
    np.savez(path, **named)
    case = Case(name, open_model(MODEL), choice, signature="add")
    try:
        files = JobFiles(place(path, path.name, "--inputs"), archive(choice, session.info, say))
        ended, outputs = session.reference(case, PLAN, files)
    except NotReachable as error:
        return Finding("litert", "warning", f"not tried: {_without(name, error)}")
    if ended.how != "ok" or not outputs:
        return Finding("litert", "failed", f"a known model {ended.how} in stage {ended.stage}: {ended.message}")
    found = [float(value) for value in outputs[0].array.ravel()]
    if len(found) == len(ANSWER) and np.allclose(found, ANSWER, rtol=1e-6, atol=0):
        return Finding("litert", "ok", "a known model gives the known answer")
    return Finding("litert", "failed", f"a known model should give {list(ANSWER)} and gave {found}: do not trust it")


def _delegates(
    name: str, entry: DeviceEntry, identity: str, session: Session, folder: Path, say: Callable[[str], None]
) -> Iterator[Finding]:
    """Each by a tiny model. One that is not there is no defect, and neither is one that does nothing: it is said."""
    found = []
    for ability in abilities.probe(name, entry, session, folder, say):
        found.append(ability)
        # The vocabulary has words for providers of other systems; what a build has stands in the line of `npu`.
        if ability.took == "absent" and ability.delegate not in ("cpu", "gpu", "npu", "vulkan", *entry.delegates):
            continue
        yield Finding("delegate", "ok" if ability.works or ability.took == "absent" else "warning", ability.text)
    abilities.remember(name, identity, found)


def cores(device: Device) -> Iterator[Finding]:
    """Which cores are big and which little: numbers for `--cpus`."""
    if device.clusters:
        told = [
            f"{','.join(map(str, one.cpus))} up to {one.max_khz / 1e6:.1f} GHz"
            + (f" (capacity {one.capacity})" if one.capacity else "")
            for one in device.clusters
        ]
        yield Finding("cores", "ok", "; ".join(told))


def readings(seen: Observation) -> Iterator[Finding]:
    """What the sensors say now; a sensor that is not there is said, and is no failure."""
    for check_name, quantity, unit, scale in (
        ("heat", "temperature", "°C", 1e3),
        ("frequency", "frequency", "MHz", 1e3),
        ("load", "load_avg", "", 1e3),
    ):
        told = [zone.value[-1] for zone in heat.zones(seen.readings)] if check_name == "heat" else seen.values(quantity)
        values = [value / scale for value in told]
        if values:
            low, high = min(values), max(values)
            shown = f"{low:.1f}" if len(values) == 1 else f"{low:.1f} to {high:.1f}"
            yield Finding(check_name, "ok", f"{shown} {unit}".strip())
        else:
            missing = next((r.missing for r in seen.readings if r.quantity == quantity and r.missing), "not offered")
            yield Finding(check_name, "ok", f"unavailable ({missing})")


def _failed(check_name: str, name: str, error: DeviceError) -> Finding:
    return Finding(check_name, "failed", _without(name, error))


def _without(name: str, error: DeviceError) -> str:
    return str(error).removeprefix(f"{name}: ")


def _last(output: bytes) -> str:
    return (output.decode(errors="replace").strip().splitlines() or [""])[-1]
