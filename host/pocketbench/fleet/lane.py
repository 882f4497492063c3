"""A lane: one device's cases in rounds, from lease to results. One thread a device runs it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pocketbench import plan as planning
from pocketbench import workload as work
from pocketbench.assemble import Context, assemble, case_reason
from pocketbench.config.devices import DeviceEntry, Power
from pocketbench.deploy.runtimes import archive
from pocketbench.errors import DeviceBusy, DeviceError, DeviceLost, NotReachable, Quarantined, overtaken
from pocketbench.figures.accuracy import Scored, accuracy, to_doc
from pocketbench.figures.energy import Found
from pocketbench.fleet.energy_phase import EnergyPhase
from pocketbench.fleet.gate import Gate, Passed
from pocketbench.fleet.link import Link
from pocketbench.fleet.output_check import OutputCheck
from pocketbench.fleet.preparation import prepared, supply_restored
from pocketbench.fleet.progress import Progress
from pocketbench.fleet.reference import HostReference
from pocketbench.fleet.scoring import ATTEMPTS, Scoring
from pocketbench.fleet.turns import Turns
from pocketbench.measurement import Ended, Process
from pocketbench.models import PlacedFile, printable
from pocketbench.plan import Case, Request, program
from pocketbench.results import Fidelity, Reason, Result
from pocketbench.scratch import scratch
from pocketbench.session.session import NoSpaceOnDevice
from pocketbench.session.wire import JobFiles
from pocketbench.store import health, lab
from pocketbench.store import lease as leases
from pocketbench.store.spool import Fence
from pocketbench.store.store import Store
from pocketbench.verdict.energy_reasons import EnergyEvidence
from pocketbench_agent.runtimes import OpTime

# How often the link may break in one process of a case.
BREAKS = 5
NEVER_BEGUN = {DeviceBusy: "device_busy", NotReachable: "not_available", Quarantined: "quarantined"}
# Between two tries to have a device that somebody else has.
BUSY_S = 3.0


@dataclass
class Lane:
    """One device's part of a run. After `run`, `results` has every case that ended, by its key."""

    device: str
    entry: DeviceEntry
    cases: Sequence[Case]
    request: Request
    run_id: str
    store: Store
    progress: Progress
    stop: threading.Event
    inputs: PlacedFile | None = None
    workload: work.Workload | None = None
    pipeline: work.DevicePipeline | None = None
    reference: HostReference | None = None
    # Other lanes of this run are on the same machine: waiting for its cores would be waiting for each other.
    shared: bool = False
    turns: Turns = field(default_factory=Turns)
    resumed: bool = False
    keep: bool = False
    # How long a device that somebody else has is waited for.
    patience_s: float = 0.0
    # What must hold for rows to be stored, where that is not the device's own lease.
    fence: Fence | None = None
    measured: Mapping[str, Mapping[int, Process]] = field(default_factory=dict)
    # By case key: what was scored before the run was cut, or in an earlier one.
    scored: Mapping[str, Scored] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Set when somebody else has the device now: from then on nothing is measured or stored.
        self._fenced = threading.Event()
        self._fence: Fence | None = None
        self._link = Link(self.device, self.entry, self.stop, self.progress.say, self.turns)
        self._gate: Gate | None = None
        self._not_prepared: Sequence[str] = ()
        self._phase = EnergyPhase(
            self.device,
            self.entry.power or Power(),
            self._link,
            self.request.plan,
            self.stop,
            self._say,
            self.keep,
        )
        known = {program(case): self.scored[case.key] for case in self.cases if case.key in self.scored}
        self._scores: dict[tuple[object, ...], Scored | Reason | Ended] = dict(known)
        self._scratch = scratch()
        self._scoring = Scoring(
            self.workload, self._link, self.request.plan, self._files, self.stop, Path(self._scratch.name), self._say
        )
        self._processes: dict[str, dict[int, Process]] = {
            case.key: dict(self.measured.get(case.key, {})) for case in self.cases
        }
        self._failures: dict[str, list[Reason]] = {case.key: [] for case in self.cases}
        self._open_cases = [case for case in self.cases if case.key not in self.results]
        self._order = planning.order(
            [case.key for case in self.cases],
            self.request.plan.processes,
            self.request.plan.seed,
            self.request.plan.turns,
        )

    def run(self) -> None:
        """Measure everything that has no result yet; never raises for what concerns the device."""
        self.progress.begin(self.device, self._steps())
        end = time.monotonic() + self.patience_s
        while True:
            try:
                with self._lease(), self._ready():
                    self._gate = self._make_gate()
                    self._score_all()
                    self._begin_anew()
                    self._rounds()
                    self._finish()
            except DeviceError as error:
                busy = isinstance(error, DeviceBusy) and self._link.info is None
                if busy and time.monotonic() < end and not self.stop.wait(BUSY_S):
                    continue
                code = NEVER_BEGUN.get(type(error), "device_lost")
                # Once the session had opened, whatever ends it is a loss.
                self._end_all(case_reason("device_lost" if self._link.info else code, str(error)))
            break
        self._scratch.cleanup()
        ended = f"{len(self.results)} of {len(self.cases)} cases"
        if self.keep:
            self._say(f"the agent keeps its jobs for a week, in home/jobs/{self.run_id}.*")
        self.progress.done(self.device, f"stopped after {ended}" if self.stop.is_set() else f"done, {ended}")

    def _make_gate(self) -> Gate:
        cooldown = self.request.plan.cooldown_s
        if cooldown is None and isinstance(self.entry.cooldown, float):
            cooldown = self.entry.cooldown
        for _ in range(BREAKS):
            try:
                return Gate(
                    lambda window: self._link.live.observe(window),
                    cooldown,
                    self.stop,
                    not self.shared,
                    self._say,
                )
            except DeviceLost as error:
                if self.stop.is_set():
                    raise
                lost = str(error)
                self._link.reopen(lost)
        raise DeviceLost(f"{lost} (again and again, before anything was measured)")

    def cancel(self) -> None:
        """Called from another thread once `stop` is set: end the running job."""
        self._link.cancel()

    def connected(self) -> bool:
        """Is there anything to end well?"""
        return self._link.is_open

    def abandon(self) -> None:
        """The process is about to end without more ado: leave no files, and no device without its supply."""
        self._scratch.cleanup()
        supply_restored(self.device, self.progress.say)

    def _steps(self) -> int:
        scores = len({program(case) for case in self._scored_cases()})
        measured = sum(len(self._processes[case.key]) for case in self._open_cases)
        each = self.request.plan.processes + 1 + int(self.request.plan.energy_s is not None) + self.request.plan.profile
        return len(self._open_cases) * each + scores - measured

    @contextlib.contextmanager
    def _lease(self) -> Iterator[None]:
        health.admit(self.store, self.device, self.entry)
        with leases.kept(self.store, leases.place(self.device, self.entry), self._lose) as lease:
            self._fence = self.fence or (lease.device, lease.epoch)
            yield

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """Supplied, opened and prepared; afterwards as it was."""
        supply_restored(self.device, self._say)
        with self._link.opened(), prepared(self.device, self.entry, self._link, self._say) as self._not_prepared:
            yield

    def _lose(self) -> None:
        self._fenced.set()
        self.cancel()

    def _rounds(self) -> None:
        by_key = {case.key: case for case in self._open_cases}
        for index, keys in enumerate(self._order):
            for key in keys:
                case = by_key.get(key)
                if case is None or index in self._processes[key] or self._is_dead(key):
                    continue
                if self.stop.is_set():
                    return
                self._check_fence()
                self.progress.step(self.device, f"round {index + 1} of {len(self._order)}: {case.label}")
                self._measure(case, index)

    def _measure(self, case: Case, index: int) -> None:
        """One process of a case. Where the link broke the agent has gone on with it, and it is collected; where the
        agent died with it, it is started again once.
        """
        attempt, lost = 1, ""
        for _ in range(ATTEMPTS + BREAKS):
            if attempt > ATTEMPTS:
                break
            job_id = f"{self.run_id}.{case.key}.{index}.{attempt}"
            try:
                passed = self._pass(job_id)
                if self.stop.is_set():
                    return
                with self.turns.taken(self.stop) as started:
                    found = self._link.live.measure(case, self.request.plan, self._files(case), index, job_id, started)
            except NoSpaceOnDevice as error:
                self._keep(case, Process(index, Ended("error", "push", str(error))))
                return
            except NotReachable as error:
                self._failures[case.key].append(case_reason("not_available", str(error)))
                return
            except DeviceLost as error:
                if self.stop.is_set():
                    return
                lost = str(error)
                self._link.reopen(lost)
                continue
            if found.ended.how == "cancelled" or found.ended.stage == "agent":
                # Not the model's doing: it was stopped, or an agent before this one died while it ran.
                lost = found.ended.message
                self._acknowledge(found)
                if self.stop.is_set():
                    return
                attempt += 1
                continue
            self._keep(case, replace(found, attempt=attempt, hot_start=passed.hot_start, boot_id=passed.boot_id))
            return
        self._failures[case.key].append(case_reason("device_lost", f"{lost} (again and again, in this case)"))

    def _pass(self, job_id: str) -> Passed:
        """Through the gate, unless the job is on its way already."""
        assert self._link.info is not None and self._gate is not None
        if self._link.live.keeps(job_id):
            return Passed(False, self._link.info.boot_id)
        return self._gate.wait()

    def _keep(self, case: Case, process: Process) -> None:
        """Into the store first; only then may the agent forget it."""
        self._check_fence()
        self._processes[case.key][process.round] = process
        self.store.save_process(self.run_id, case.key, process, self._fence)
        self._acknowledge(process)

    def _check_fence(self) -> None:
        if self._fenced.is_set():
            raise overtaken(self.device)

    def _acknowledge(self, process: Process) -> None:
        if process.job_id and not self.keep:
            with contextlib.suppress(DeviceError):
                self._link.live.acknowledge(process.job_id)

    def _is_dead(self, key: str) -> bool:
        return bool(self._failures[key]) or any(p.ended.how != "ok" for p in self._processes[key].values())

    def _begin_anew(self) -> None:
        """What was begun before the device was started anew begins again: the next boot is another device."""
        assert self._link.info is not None
        boot = self._link.info.boot_id
        boots = {key: {p.boot_id for p in processes.values()} for key, processes in self._processes.items()}
        old = [case.key for case in self._open_cases if boot and boots[case.key] - {boot, ""}]
        if old:
            self._say(f"was started anew since: {len(old)} case(s) begin again")
            lab.begin_anew(self.store, self.run_id, old, self._fence)
            self._processes.update((key, {}) for key in old)

    def _say(self, text: str) -> None:
        self.progress.say(f"{self.device}: {text}")

    def _score_all(self) -> None:
        """Accuracy first: a workload that fails says so at once, and its first item feeds the timed runs."""
        done = set()
        for case in self._scored_cases():
            key = program(case)
            if self.stop.is_set():
                return
            if key in done:
                continue
            # Of a run that was cut: what was scored feeds the timed runs as before, else it is scored anew.
            done.add(key)
            if key in self._scores and (self.inputs is not None or self._scoring.feed(case)):
                continue
            self.progress.step(self.device, f"accuracy: {case.label}")
            scored = self._scoring.score(case)
            if scored is None:
                return
            self._scores[key] = scored
            if isinstance(scored, Scored):
                self.store.save_score(self.run_id, case.key, to_doc(scored), self._fence)
        for case in self._open_cases:
            scored = self._scores.get(program(case))
            if isinstance(scored, Reason):
                self._failures[case.key].append(scored)
            elif isinstance(scored, Ended) and 0 not in self._processes[case.key]:
                self._keep(case, Process(0, scored))

    def _scored_cases(self) -> list[Case]:
        """Those without a result, and what they are compared with, whose items the store does not have."""
        if self.workload is None:
            return []
        originals = (planning.original(case, self.cases) for case in self._open_cases)
        return [*self._open_cases, *(case for case in originals if case is not None)]

    def score_of(self, case: Case) -> Scored | None:
        """What the workload gave for it, if it gave anything."""
        found = self._scores.get(program(case))
        return found if isinstance(found, Scored) else None

    def _finish(self) -> None:
        """Outputs against the reference for each case that ran, then its result."""
        check = OutputCheck(self._link, self.request.plan, self.reference, self.stop)
        for case in self._open_cases:
            dead = self._is_dead(case.key)
            if not dead and len(self._processes[case.key]) < len(self._order):
                continue
            compared: list[Fidelity] | None = []
            if not dead:
                self.progress.step(self.device, f"outputs against the reference: {case.label}")
                compared = check.compare(case, self._files(case), self._rounds_of(case))
            if self.stop.is_set():
                return
            measured = None if dead else self._energy(case)
            if self.stop.is_set():
                return
            self._end(case, compared, measured, None if dead else self._profile(case))

    def _profile(self, case: Case) -> list[OpTime] | None:
        if not self.request.plan.profile:
            return None
        self.progress.step(self.device, f"profile: {case.label}")
        try:
            return self._link.live.profile(case, self.request.plan, self._files(case))
        except DeviceLost as error:
            if not self.stop.is_set():
                self._link.reopen(str(error))
        except NoSpaceOnDevice:
            pass
        return None

    def _energy(self, case: Case) -> EnergyEvidence | None:
        """Joules an inference, where they were asked for; None where they were not, or the device went away."""
        if self.request.plan.energy_s is None:
            return None
        assert self._gate is not None
        self.progress.step(self.device, f"energy: {case.label}")
        try:
            self._gate.wait()
            return self._phase.measure(case, self._files(case), f"{self.run_id}.{case.key}.energy")
        except DeviceLost as error:
            if self.stop.is_set():
                return None
            self._link.reopen(str(error))
            return EnergyEvidence(Found(None, None, str(error)))
        except NoSpaceOnDevice as error:
            return EnergyEvidence(Found(None, None, str(error)))

    def _files(self, case: Case) -> JobFiles:
        inputs = self.inputs or self._scoring.first_items.get(program(case))
        return JobFiles(inputs, archive(case.runtime, self._link.live.info, self.progress.say), self.pipeline)

    def _end(
        self,
        case: Case,
        compared: Sequence[Fidelity] | None,
        measured: EnergyEvidence | None = None,
        profile: Sequence[OpTime] | None = None,
    ) -> None:
        original = planning.original(case, self.cases)
        scored = self.score_of(case)
        before = self.score_of(original) if original is not None else None
        found = accuracy(scored, before) if scored is not None else None
        result = assemble(
            case,
            self._rounds_of(case),
            self._context(),
            self._failures[case.key],
            compared,
            found,
            self._rounds_of(original) if original is not None else (),
            measured,
            profile,
        )
        items = scored.items if scored is not None else None
        self.store.save_result(self.run_id, case.key, result, self._fence, self.request.night, items)
        self.results[case.key] = result
        if result.status != "OK":
            stage = f" in stage {result.stage}" if result.stage else ""
            why = next((printable(r.message) for r in result.reasons if r.severity == "invalid"), "")
            self._say(f"{case.label}: {result.status}{stage}: {why}")

    def _rounds_of(self, case: Case) -> list[Process]:
        return [self._processes[case.key][k] for k in sorted(self._processes[case.key])]

    def _end_all(self, reason: Reason) -> None:
        """The device is out of reach: every case without a result ends with that reason."""
        # A refused resume must not end cases that another host is measuring, nor a fenced one cases that it lost.
        if self.stop.is_set() or self._fenced.is_set() or (self.resumed and self._link.info is None):
            self.progress.say(reason.message)
            return
        for case in self._open_cases:
            if case.key not in self.results:
                self._failures[case.key].append(reason)
                try:
                    self._end(case, ())
                except DeviceBusy as fenced:
                    self.progress.say(str(fenced))
                    return

    @cached_property
    def _plan(self) -> dict[str, Any]:
        """One for all results: with its order of a thousand cases in each of them a run would take their square."""
        numbers = {key: position for position, key in enumerate(case.key for case in self.cases)}
        order = [[numbers[key] for key in keys] for keys in self._order]
        return {**asdict(self.request.plan), "order": order, "run_id": self.run_id}

    def _context(self) -> Context:
        return Context(
            transport=self.entry.transport,
            device=self._link.info,
            plan=self._plan,
            labels=self.request.labels,
            load_avg=self._gate.load_avg if self._gate else None,
            has_thermal_sensor=self._gate.has_sensor if self._gate else False,
            driven=self.entry.driven,
            not_prepared=tuple(self._not_prepared),
        )
