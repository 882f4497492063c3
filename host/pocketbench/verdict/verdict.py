"""The verdict: each reason why a number may not be what it seems is one small pure function over raw facts.

A check takes the Evidence of one case and gives a Reason or None. Codes, severities and scopes are contracts
(docs/reasons.md); thresholds are the table below, those of heat in heat.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

import numpy as np

from pocketbench import stats
from pocketbench.measurement import Placed, Process, Reading
from pocketbench.plan import CPU
from pocketbench.results import Accuracy, Fidelity, Latency, Reason
from pocketbench.verdict import compression_reasons, energy_reasons, heat, runtime_reasons

THRESHOLDS: Mapping[str, float] = {
    # A first read that waits longer than this share of a run, and longer than the floor, waited for the run.
    "unsynchronised_share": 0.10,
    "unsynchronised_floor_ns": 20_000,
    # The null runtime's run span: nothing real is faster than a Python call that does nothing.
    "latency_floor_ns": 50,
    "min_samples": 8,
    "clock_jump_ns": 500_000_000,
    "suspend_ns": 100_000_000,
    "unstable_between": 0.05,
    "drift": 0.03,
    "warm_up": 0.03,
    "run_delay_share": 0.02,
    "stolen_share": 0.02,
    "percentile_bound": 1.25,
    "slower": 0.03,
}


@dataclass(frozen=True)
class Evidence:
    """All that a check may look at: the case's processes, what came of them, and what the device is like."""

    processes: Sequence[Process]
    latency: Latency | None
    fidelity: Sequence[Fidelity] | None
    accuracy: Accuracy | None
    original: Sequence[Process]
    delegate: str
    placed: Placed | None
    null_runtime: bool
    has_thermal_sensor: bool
    emulated_by: str
    sustained: bool = False
    driven: bool = False


def judge(evidence: Evidence) -> list[Reason]:
    """Every reason that holds, invalid ones first."""
    found = [reason for check in CHECKS if (reason := check(evidence)) is not None]
    rank = {"invalid": 0, "warn": 1, "note": 2}
    return sorted(found, key=lambda reason: rank[reason.severity])


def status(reasons: Iterable[Reason]) -> str:
    """OK or INVALID, for a case whose processes all ended well."""
    invalid = any(r.severity == "invalid" and r.scope in ("latency", "case") for r in reasons)
    return "INVALID" if invalid else "OK"


def unsynchronised(e: Evidence) -> Reason | None:
    """The run returned before the outputs could be read.

    Who returns early does so every time: the lower quartile of the waits tells, for some reads wait for a core where
    the machine is busy.
    """
    runs = [ns for p in e.processes for ns in p.probe_run_ns]
    waits = [
        first - again for p in e.processes for first, again in zip(p.probe_read_ns, p.probe_reread_ns, strict=True)
    ]
    if not runs:
        return None
    wait, run = sorted(waits)[len(waits) // 4], median(runs)
    limit = max(THRESHOLDS["unsynchronised_floor_ns"], THRESHOLDS["unsynchronised_share"] * run)
    if wait <= limit:
        return None
    return _invalid(
        "unsynchronised",
        f"a run returns after {run / 1e6:.3g} ms, but reading its outputs then waits {wait / 1e6:.3g} ms more",
    )


def implausible_latency(e: Evidence) -> Reason | None:
    """Zero, or faster than doing nothing at all."""
    least = min((ns for p in e.processes if (ns := p.least_ns) is not None), default=None)
    floor = 0 if e.null_runtime else THRESHOLDS["latency_floor_ns"]
    if least is None or least > floor:
        return None
    return _invalid("implausible_latency", f"a run of {least:.0f} ns is shorter than a call that does nothing")


def output_nan(e: Evidence) -> Reason | None:
    """An output holds NaN or infinity."""
    for process in e.processes:
        for output in process.outputs:
            if output.nan or output.inf:
                bad = output.nan + output.inf
                return _invalid(
                    "output_nan", f"output {output.name!r} holds {bad} NaN or infinite of {output.values} values"
                )
    return None


def output_mismatch(e: Evidence) -> Reason | None:
    """An output differs from the reference: same file, same runtime, same bytes, on the host's CPU."""
    for fidelity in e.fidelity or ():
        if not within_tolerance(fidelity):
            shown = f"cosine {fidelity.cosine:.4f}" if fidelity.cosine is not None else "not comparable"
            far = f", off by up to {fidelity.max_abs:.3g}" if fidelity.max_abs is not None else ""
            dead = f", {fidelity.constant} of its slices hold one value" if fidelity.constant else ""
            told = f"output {fidelity.output!r} differs from the reference: {shown}{far}{dead}"
            return _invalid("output_mismatch", told)
    return None


def within_tolerance(fidelity: Fidelity) -> bool:
    """Is the largest difference at most what its precision allows, and no part of it dead?"""
    return fidelity.max_abs is not None and fidelity.max_abs <= fidelity.tolerance and not fidelity.constant


def throttled(e: Evidence) -> Reason | None:
    """The ceiling of what computes moved while it was measured; in the sustained scenario that is what was asked."""
    told = heat.throttled([r for p in e.processes for r in p.readings])
    if told is None:
        return None
    return _warn("throttled", told) if e.sustained else _invalid("throttled", told)


def battery_saver(e: Evidence) -> Reason | None:
    """The device saved its battery: it may be slower than it could."""
    if not any(1 in r.value for p in e.processes for r in p.readings if r.quantity == "battery_saver"):
        return None
    return _warn("battery_saver", "the battery saver was on: prepare: {battery_saver: false} turns it off")


def background_cpuset(e: Evidence) -> Reason | None:
    """The system kept it to the cores for what nobody looks at."""
    if not any(1 in r.value for p in e.processes for r in p.readings if r.quantity == "background"):
        return None
    return _warn("background_cpuset", "it ran on the background's cores: prepare: {foreground: true}, where root may")


def rebooted(e: Evidence) -> Reason | None:
    """The boot id changed between processes."""
    boots = {p.boot_id for p in e.processes if p.boot_id}
    if len(boots) < 2:
        return None
    return _invalid("rebooted", f"the device started anew between processes ({len(boots)} boot ids were seen)")


def clock_jumped(e: Evidence) -> Reason | None:
    """Wall time moved otherwise than the monotonic clock while the runs were timed; a sleep moves it rightly."""
    jump = max((_skew(p, "realtime") - _skew(p, "boottime") for p in e.processes), key=abs, default=0)
    if abs(jump) < THRESHOLDS["clock_jump_ns"]:
        return None
    return _invalid("clock_jumped", f"the device's wall clock jumped by {jump / 1e9:+.1f} s during the timed runs")


def suspended(e: Evidence) -> Reason | None:
    """The device slept: boot time went on while the monotonic clock stood."""
    slept = max((_skew(p, "boottime") for p in e.processes), default=0)
    if slept < THRESHOLDS["suspend_ns"]:
        return None
    return _invalid("suspended", f"the device slept for {slept / 1e9:.1f} s during the timed runs")


def too_few_samples(e: Evidence) -> Reason | None:
    """A process with so few runs that its median says nothing."""
    fewest = min((p.runs for p in e.processes), default=0)
    if fewest >= THRESHOLDS["min_samples"]:
        return None
    return _invalid(
        "too_few_samples", f"a process made {fewest} timed runs; {THRESHOLDS['min_samples']:.0f} are needed"
    )


def partial_delegation(e: Evidence) -> Reason | None:
    """Part of the graph ran on the CPU."""
    if e.delegate == CPU or e.placed is None or not e.placed.known:
        return None
    return runtime_reasons.partial(e.placed)


def unstable(e: Evidence) -> Reason | None:
    """Processes disagree."""
    medians = _medians(e)
    if len(medians) < 2 or not any(medians):
        return None
    between = stdev(medians) / fmean(medians)
    if between <= THRESHOLDS["unstable_between"]:
        return None
    return _warn("unstable", f"process medians spread by {between:.0%}")


def drift(e: Evidence) -> Reason | None:
    """The process medians went steadily up or down over the rounds."""
    change, significant = stats.log_trend(_medians(e))
    if not significant or abs(change) <= THRESHOLDS["drift"]:
        return None
    return _warn(
        "drift", f"latency went {'up' if change > 0 else 'down'} by {abs(change):.0%} from first to last round"
    )


def warm_up_not_steady(e: Evidence) -> Reason | None:
    """In at least half of the processes the warm-up had not settled when timing began."""
    unsteady = [p for p in e.processes if len(p.warm_up_ns) and not _settled(p)]
    if not e.processes or 2 * len(unsteady) < len(e.processes):
        return None
    return _warn(
        "warm_up_not_steady", f"{len(unsteady)} of {len(e.processes)} processes were timed before they were steady"
    )


def background_load(e: Evidence) -> Reason | None:
    """Something else used the cores: the worker had to wait for one, or the hypervisor took it away."""
    delay = run_delay_share(e.processes)
    stolen = [_share(p.reading("system", "stolen"), p.reading("system", "all")) for p in e.processes]
    worst = max((s for s in stolen if s is not None), default=0.0)
    if (delay or 0.0) <= THRESHOLDS["run_delay_share"] and worst <= THRESHOLDS["stolen_share"]:
        return None
    waited = f"the worker waited for a core {delay or 0:.0%} of the time"
    return _warn("background_load", waited + (f"; {worst:.0%} of time was stolen" if worst > 0.005 else ""))


def hot_start(e: Evidence) -> Reason | None:
    """The device did not cool down to its own baseline in time."""
    hot = sum(p.hot_start for p in e.processes)
    return _warn("hot_start", f"{hot} of {len(e.processes)} processes began on a warm device") if hot else None


def swapped(e: Evidence) -> Reason | None:
    """Part of the worker was in swap."""
    readings = [p.reading("worker", "swap") for p in e.processes]
    most = max((max(r.value) for r in readings if r is not None and r.value), default=0)
    return _warn("swapped", f"{most / 1e6:.1f} MB of the worker were swapped out") if most else None


def output_constant(e: Evidence) -> Reason | None:
    """Two different inputs gave the very same outputs."""
    if not any(p.output_constant for p in e.processes):
        return None
    return _warn("output_constant", "two different inputs gave the very same outputs")


def slower_than_original(e: Evidence) -> Reason | None:
    """Compression that costs time: a smaller file says nothing of its speed."""
    return compression_reasons.slower(e.original, e.processes, THRESHOLDS["slower"])


def accuracy_dropped(e: Evidence) -> Reason | None:
    """Compression that costs accuracy, and more than chance could."""
    return compression_reasons.dropped(e.accuracy)


def inputs_random(e: Evidence) -> Reason | None:
    """The timed runs used seeded inputs, not real ones."""
    if not any(p.facts and p.facts.inputs and p.facts.inputs_from == "seed" for p in e.processes):
        return None
    return Reason("inputs_random", "note", "latency", "timed on seeded random inputs; --inputs gives real ones")


def frequency_unpinned(e: Evidence) -> Reason | None:
    """The cores' clock was free to move, or cannot be seen."""
    for process in e.processes:
        ceilings = [r for r in process.readings if r.quantity == "ceiling" and r.value]
        speeds = [r for r in process.readings if r.quantity == "frequency" and r.value]
        if ceilings and speeds and all(len(set(r.value)) == 1 for r in speeds):
            continue
        return Reason("frequency_unpinned", "note", "latency", "the cores' clock was not pinned, or cannot be seen")
    return None


def percentile_withheld(e: Evidence) -> Reason | None:
    """A percentile whose 99 % bound lies too far above it is not shown."""
    if e.latency is None or not any(len(p.run_ns) for p in e.processes):
        return None
    held = [name for name in ("p90", "p95", "p99") if getattr(e.latency, name) is None]
    if not held:
        return None
    return Reason("percentile_withheld", "note", "latency", f"too few or too scattered samples for {', '.join(held)}")


def no_thermal_sensor(e: Evidence) -> Reason | None:
    """Heat cannot be seen here: a fixed rest stood in for the gate."""
    if e.has_thermal_sensor or not e.processes:
        return None
    return Reason("no_thermal_sensor", "note", "latency", "no temperature can be read: a fixed rest between processes")


def fidelity_unavailable(e: Evidence) -> Reason | None:
    """Outputs could not be compared: the reference does not run here, or they are too large to fetch."""
    if e.fidelity is not None:
        return None
    return Reason("fidelity_unavailable", "note", "accuracy", "outputs could not be compared with the reference")


def coverage_unknown(e: Evidence) -> Reason | None:
    """An accelerator was asked for, and the runtime cannot tell how much of the graph it took."""
    if e.delegate == CPU or e.placed is None or e.placed.known:
        return None
    return Reason(
        "coverage_unknown", "note", "latency", "the runtime does not tell how much of the graph the delegate took"
    )


def software_adapter(e: Evidence) -> Reason | None:
    """Software stands in for the accelerator: its time is the CPU's, and says nothing of a GPU or NPU."""
    return runtime_reasons.software_stands_in(e.placed)


def emulated(e: Evidence) -> Reason | None:
    """Something stands in for the hardware or the program: outputs and status are the model's, times are not."""
    told = e.emulated_by or next((p.facts.emulated_by for p in e.processes if p.facts and p.facts.emulated_by), "")
    if not told:
        return None
    return Reason("emulated", "note", "case", f"run by {told}: its times say nothing of hardware")


def told_by_tool(e: Evidence) -> Reason | None:
    """A vendor's tool says how long its runs took, and nobody here saw what it did."""
    return runtime_reasons.told_by_tool(e.processes)


def driven_from_host(e: Evidence) -> Reason | None:
    """The device was told by its shell what to do: nothing of ours saw the tool run."""
    return runtime_reasons.driven() if e.driven else None


def runtime_changed(e: Evidence) -> Reason | None:
    """Processes of one case ran in different builds: their median is of neither."""
    return runtime_reasons.changed(e.processes)


CHECKS: Sequence[Callable[[Evidence], Reason | None]] = (
    unsynchronised,
    implausible_latency,
    output_nan,
    output_mismatch,
    runtime_changed,
    throttled,
    rebooted,
    clock_jumped,
    suspended,
    too_few_samples,
    partial_delegation,
    unstable,
    drift,
    warm_up_not_steady,
    background_load,
    hot_start,
    swapped,
    battery_saver,
    background_cpuset,
    output_constant,
    slower_than_original,
    accuracy_dropped,
    inputs_random,
    frequency_unpinned,
    percentile_withheld,
    no_thermal_sensor,
    fidelity_unavailable,
    coverage_unknown,
    software_adapter,
    told_by_tool,
    driven_from_host,
    emulated,
)


# Every code that a row can have, for --fail-on: those of CHECKS, of the whole table, and of cases that ended badly.
CODES: Sequence[str] = (
    *dict.fromkeys(check.__name__ for check in (*CHECKS, *energy_reasons.CHECKS)),
    "runtime_differs",
    "not_prepared",
    "load_failed",
    "run_failed",
    "workload_failed",
    "timed_out",
    "worker_died",
    "device_lost",
    "device_busy",
    "not_available",
    "not_served",
    "quarantined",
    "fallback",
)


def runtime_differs(versions: Mapping[str, set[str]]) -> dict[str, Reason]:
    """For each runtime of one table that ran in several versions: the warning that its rows get."""
    return {
        name: _warn("runtime_differs", f"this table mixes {name} {', '.join(sorted(found))}")
        for name, found in versions.items()
        if len(found) > 1
    }


def run_delay_share(processes: Sequence[Process]) -> float | None:
    """Of the time that the worker's threads wanted a core, the share that they had to wait for one."""
    shares = []
    for process in processes:
        waited, ran = process.reading("worker", "run_delay"), process.reading("worker", "cpu_time")
        if waited is not None and ran is not None and waited.change is not None and ran.change:
            shares.append(waited.change / (waited.change + ran.change))
    return median(shares) if shares else None


def _skew(process: Process, clock: str) -> int:
    """How much further that clock went than the monotonic one, nanoseconds."""
    reading = process.reading("clock", clock)
    return reading.ahead_ns if reading is not None else 0


def _settled(process: Process) -> bool:
    """Do the last two quarters of the warm-up agree?"""
    quarter = max(1, len(process.warm_up_ns) // 4)
    before = float(np.median(process.warm_up_ns[-2 * quarter : -quarter])) if len(process.warm_up_ns) > 1 else 0.0
    after = float(np.median(process.warm_up_ns[-quarter:]))
    return abs(after - before) <= THRESHOLDS["warm_up"] * before


def _share(part: Reading | None, whole: Reading | None) -> float | None:
    if part is None or whole is None or part.change is None or not whole.change:
        return None
    return part.change / whole.change


def _medians(e: Evidence) -> list[float]:
    return [p50 for p in e.processes if (p50 := p.p50_ns) is not None]


def _invalid(code: str, message: str) -> Reason:
    return Reason(code, "invalid", "latency", message)


def _warn(code: str, message: str) -> Reason:
    return Reason(code, "warn", "latency", message)
