"""The energy phase of one case: idle, back to back, idle; with the supply cut where devices.yaml says how."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Event

from pocketbench import meters
from pocketbench.config.devices import Power
from pocketbench.errors import DeviceLost, LeaseLost
from pocketbench.figures import energy
from pocketbench.figures.energy import Found
from pocketbench.figures.power_sources import Settings, choose
from pocketbench.fleet.link import Link
from pocketbench.fleet.restore import CommandFailed, Journal, run_here
from pocketbench.measurement import EnergyRun, Reading
from pocketbench.plan import Case, Plan
from pocketbench.session.wire import POWER, JobFiles
from pocketbench.verdict.energy_reasons import THRESHOLDS, EnergyEvidence

# A fuel gauge counts in steps of minutes: it gets four times as long, and then as long as it needs, up to this.
GAUGE_TIMES, MOST_TIMES = 4, 20
# What the worker needs beside its windows, at most, before a cut link is opened again.
AROUND_S = 10.0
SUPPLY = "power"


@dataclass
class EnergyPhase:
    """One device's."""

    device: str
    power: Power
    link: Link
    plan: Plan
    stop: Event
    say: Callable[[str], None]
    # Leave the jobs on the device, for who wants to look at them.
    keep: bool = False

    def __post_init__(self) -> None:
        self._times = 1.0
        self._journal = Journal(self.device)
        self._outside = self.power.meter if self.power.meter and ":" in self.power.meter else None
        self._settings = Settings(
            source=self.power.meter.partition(":")[0] if self.power.meter else None,
            sign=self.power.sign,
            unit=self.power.unit,
            rails=self.power.rails,
            external_supply=self.power.external_supply,
        )

    def measure(self, case: Case, files: JobFiles, job_id: str) -> EnergyEvidence:
        """What was found. DeviceLost where the device does not come back."""
        if self._outside is None:
            seen = self.link.live.observe(0.0, POWER)
            source, missing = choose(seen.readings, self._settings, None)
            if source is None:
                return self._evidence(Found(None, None, missing))
            if source.battery and source.rails[0].counter:
                self._times = max(self._times, GAUGE_TIMES)
        for attempt in (1, 2):
            found = self._once(case, files, f"{job_id}.{attempt}")
            gauge = found.source is not None and found.source.battery and found.counter
            if not gauge or found.steps >= THRESHOLDS["steps"] or self._times >= MOST_TIMES:
                break
            self._times = min(MOST_TIMES, self._times * 1.2 * THRESHOLDS["steps"] / max(found.steps, 1))
            self.say(f"{found.steps} steps of the counter are too few: once more, for longer")
            if self.stop.is_set():
                break
        return self._evidence(found)

    def _evidence(self, found: Found) -> EnergyEvidence:
        return EnergyEvidence(found, self.power.external_supply)

    def _once(self, case: Case, files: JobFiles, job_id: str) -> Found:
        assert self.plan.energy_s is not None
        cut = self.power.switch is not None
        settle_s = self.plan.energy_s / 10 if cut else 0.0
        plan = replace(self.plan, energy_s=self.plan.energy_s * self._times, settle_s=settle_s)
        try:
            run = self._run(case, plan, files, job_id)
        except (meters.MeterError, CommandFailed) as error:
            return Found(None, None, str(error))
        if run.ended.how != "ok" or not run.runs:
            return Found(None, None, f"the energy phase ended early: {run.ended.message or run.ended.how}")
        return energy.find(run, self._settings)

    def _run(self, case: Case, plan: Plan, files: JobFiles, job_id: str) -> EnergyRun:
        before = self.link.live.echo()
        meter = meters.create(self._outside) if self._outside else None
        if meter is not None:
            meter.start()
        readings: tuple[Reading, ...] = ()
        bound_ns = 0
        try:
            self.link.live.start_energy(case, plan, files, job_id)
            with self._cut():
                run = self._wait(plan, job_id)
            if run is None:
                self.link.reopen(f"{self.device}: its supply was cut")
                run = self.link.live.energy(job_id, plan.deadline_s + 60.0)
            if not self.keep:
                self.link.live.acknowledge(job_id)
        finally:
            if meter is not None:
                stopped = meter.stop()
                readings, bound_ns = tuple(stopped[0]), stopped[1]
        if not readings:
            return run
        after = self.link.live.echo()
        # Between two echoes the clocks may drift apart; the middle is off by half of that at most.
        offset_ns = (before.offset_ns + after.offset_ns) // 2
        apart_ns = abs(before.offset_ns - after.offset_ns) // 2
        moved = tuple(replace(r, t_ns=tuple(t + offset_ns for t in r.t_ns)) for r in readings)
        bound_ns += max(before.bound_ns, after.bound_ns) + apart_ns
        return replace(run, readings=(*run.readings, *moved), clock_bound_ns=bound_ns)

    def _wait(self, plan: Plan, job_id: str) -> EnergyRun | None:
        """Until the phase is over; None where the cut supply took the link with it."""
        assert plan.energy_s is not None
        longest_s = plan.settle_s + 2 * plan.idle_s + plan.energy_s + plan.warm_up_max_time_s + AROUND_S
        begin = time.monotonic()
        try:
            return self.link.live.energy(job_id, plan.deadline_s + 3 * plan.energy_s)
        except DeviceLost as error:
            # Somebody else's device is not left without its supply.
            if self.power.switch is None or self.stop.is_set() or isinstance(error, LeaseLost):
                raise
            self.stop.wait(max(0.0, begin + longest_s - time.monotonic()))
            return None

    @contextlib.contextmanager
    def _cut(self) -> Iterator[None]:
        """Without its supply, where devices.yaml says how; it comes back whatever happens."""
        if self.power.switch is None:
            yield
            return
        self._journal.remember(SUPPLY, "host", self.power.switch["on"])
        try:
            run_here(self.power.switch["off"], self.device)
            yield
        finally:
            self._on()

    def _on(self) -> None:
        assert self.power.switch is not None
        try:
            run_here(self.power.switch["on"], self.device)
        except CommandFailed as error:
            self.say(f"THE SUPPLY IS STILL OFF: {error}; the next run tries again")
            return
        self._journal.forget(SUPPLY)
