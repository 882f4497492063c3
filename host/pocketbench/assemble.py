"""From the raw facts of a case's processes to its Result: statistics and verdict put together."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import numpy as np

from pocketbench import stats
from pocketbench.figures import latencies, scenarios
from pocketbench.measurement import Device, Ended, Facts, Placed, Process, Tensor
from pocketbench.plan import CPU, Case
from pocketbench.results import (
    STATUSES,
    Accuracy,
    Clock,
    Cores,
    Delegate,
    DeviceFacts,
    Fidelity,
    Frame,
    Heat,
    Io,
    Latency,
    Memory,
    Model,
    OpShare,
    Quantization,
    Reason,
    Result,
    Runtime,
    Temperature,
    TensorFacts,
    WarmUp,
)
from pocketbench.verdict import energy_reasons, heat, verdict
from pocketbench.verdict.energy_reasons import EnergyEvidence
from pocketbench_agent.device_info import Cluster
from pocketbench_agent.runtimes import OpTime

MS = 1e6
MB = 1e6
LOAD_STAGES = frozenset({"push", "start", "runtime", "load", "inputs"})


@dataclass(frozen=True)
class Context:
    """What a result says beside its measurements."""

    transport: str
    device: Device | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    load_avg: float | None = None
    has_thermal_sensor: bool = False
    driven: bool = False
    # What `prepare:` asked for and the device is not, each with its why.
    not_prepared: Sequence[str] = ()


def assemble(
    case: Case,
    processes: Sequence[Process],
    context: Context,
    failures: Sequence[Reason] = (),
    fidelity: Sequence[Fidelity] | None = (),
    accuracy: Accuracy | None = None,
    original: Sequence[Process] = (),
    energy: EnergyEvidence | None = None,
    profile: Sequence[OpTime] | None = None,
) -> Result:
    """The judged result of a case; `failures` are reasons of scope case found outside its processes, `original` the
    processes of what it was compressed from.
    """
    good = [p for p in processes if p.ended.how == "ok"]
    latency = latencies.latency(good)
    ends = [found for p in processes if (found := _failure(p.ended)) is not None]
    reasons = [*(reason for _, reason in ends), *failures]
    statuses = [status for status, _ in ends] + [STATUS_OF[reason.code] for reason in failures]
    # Of processes that differ the one that took least: nothing may hide behind a good first process.
    told = [p.placed for p in good if p.placed is not None]
    placed = min(told, key=lambda p: (p.known, p.delegated / max(p.nodes, 1)), default=None)
    if good:
        evidence = verdict.Evidence(
            processes=good,
            latency=latency,
            fidelity=fidelity,
            accuracy=accuracy,
            original=[p for p in original if p.ended.how == "ok"],
            delegate=case.delegate_base,
            placed=placed,
            null_runtime=case.runtime.name == "null",
            has_thermal_sensor=context.has_thermal_sensor,
            emulated_by=context.device.emulated_by if context.device else "",
            sustained=case.sustained_s is not None,
            driven=context.driven,
        )
        judged = verdict.judge(evidence)
        # A case that did not end well has too few samples for that reason, and needs no second one.
        reasons += judged if not statuses else [r for r in judged if r.severity == "note"]
        statuses.append(verdict.status(judged))
    # Of one that ended badly too: that may be why.
    if context.not_prepared:
        asked = f"not as 'prepare' asks: {'; '.join(context.not_prepared)}"
        reasons.append(Reason("not_prepared", "warn", "case", asked))
    if energy is not None:
        reasons += energy_reasons.judge(energy)
    facts = next((p.facts for p in processes if p.facts is not None), None)
    delegate, fallback = _delegate(case, placed)
    if fallback is not None and not ends:
        reasons.append(fallback)
        statuses.append("FALLBACK")
    failed = next((p for p in processes if p.ended.how != "ok"), None)
    return Result(
        id=uuid.uuid4().hex[:12],
        device=case.device,
        device_info=_device(context.device),
        transport=context.transport,
        emulated=bool(context.device and context.device.emulated_by),
        attempt=max((p.attempt for p in processes), default=1),
        model=_model(case, facts),
        runtime=Runtime(
            case.runtime.name,
            facts.runtime_version if facts else case.runtime.version,
            (facts.precision or None) if facts else None,
        ),
        threads=case.threads,
        cpus=case.cpus or None,
        scenario=case.scenario,
        delegate=delegate,
        status=_worst(statuses),
        stage=failed.ended.stage if failed else None,
        reasons=_unique(reasons),
        load_ms=_median([p.load_ns for p in good if not _compiled(p)], MS),
        first_inference_ms=_median([p.first_ns for p in good if not _compiled(p)], MS),
        cold_load_ms=_median([p.load_ns for p in good if _compiled(p)], MS),
        cold_first_inference_ms=_median([p.first_ns for p in good if _compiled(p)], MS),
        warm_up=_warm_up(good),
        latency_ms=latency,
        io_ms=_io(good),
        frame_ms=_frame(good),
        real_time=scenarios.real_time(case, good),
        curve=scenarios.curve(case, good),
        serial_rate_per_s=_rate(latency, _io(good)),
        cpu_per_wall=_cpu_per_wall(good),
        run_delay_share=verdict.run_delay_share(good),
        load_avg=context.load_avg,
        memory_mb=_memory(good),
        energy=energy.found.energy if energy is not None else None,
        temperature_c=_temperature(good),
        cpu_mhz=_clock(good, _clusters(context), case.cpus),
        profile=_profile(profile) if profile else None,
        accuracy=accuracy,
        fidelity=tuple(fidelity) if fidelity else None,
        shapes={name: list(dims) for name, dims in case.shapes},
        signature=case.signature,
        samples_ns=tuple(tuple(p.run_ns.tolist()) for p in good),
        heat=tuple(_heat(p, _clusters(context), case.cpus) for p in good),
        told_p50_ns=tuple(p50 for p in good if not len(p.run_ns) and (p50 := p.p50_ns) is not None),
        plan=context.plan,
        environment={
            **_environment(context.device, facts, good),
            "model_files": {file.name: file.sha256 for file in case.model.files},
            "delegate_files": {file.name: file.sha256 for file in case.setup.files},
        },
        labels=context.labels,
    )


STATUS_OF: Mapping[str, str] = {
    "load_failed": "FAILED",
    "run_failed": "FAILED",
    "workload_failed": "FAILED",
    "timed_out": "TIMEOUT",
    "worker_died": "CRASHED",
    "device_lost": "LOST",
    "device_busy": "SKIPPED",
    "not_available": "SKIPPED",
    "not_served": "SKIPPED",
    "quarantined": "SKIPPED",
    "fallback": "FALLBACK",
}


def case_reason(code: str, message: str) -> Reason:
    """A reason that ends a whole case."""
    return Reason(code, "invalid", "case", message)


def _failure(ended: Ended) -> tuple[str, Reason] | None:
    """Status and reason of a process that did not end well."""
    if ended.how == "ok":
        return None
    code = {
        "signal": "worker_died",
        "no_output": "worker_died",
        "timeout": "timed_out",
        "unavailable": "not_available",
    }.get(ended.how, "load_failed" if ended.stage in LOAD_STAGES else "run_failed")
    return STATUS_OF[code], case_reason(code, ended.message or f"failed in stage {ended.stage}")


def _worst(statuses: Sequence[str]) -> str:
    return max(statuses, key=STATUSES.index, default="SKIPPED")


def _unique(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    return tuple({(r.code, r.message): r for r in reasons}.values())


def _io(processes: Sequence[Process]) -> Io | None:
    medians = [float(np.median(p.io_ns)) for p in processes if len(p.io_ns)]
    return Io(median(medians) / MS) if medians else None


def _frame(processes: Sequence[Process]) -> Frame | None:
    measured = [p for p in processes if len(p.frame_ns)]
    if not measured:
        return None
    centre = stats.centre([float(np.median(p.frame_ns)) for p in measured])
    return Frame(
        p50=centre.value / MS,
        ci95=None if centre.lo is None or centre.hi is None else (centre.lo / MS, centre.hi / MS),
        around=median(float(np.median(p.around_ns)) for p in measured) / MS,
        per_s=1e9 / centre.value,
    )


def _rate(latency: Latency | None, io: Io | None) -> float | None:
    """Inferences a second back to back, copies included; 'real time' is a question for the paced scenario."""
    if latency is None or io is None or latency.p50 is None or latency.p50 + io.p50 <= 0:
        return None
    return 1000 / (latency.p50 + io.p50)


def _warm_up(processes: Sequence[Process]) -> WarmUp | None:
    warmed = [p for p in processes if p.warm_up_runs]
    if not warmed:
        return None
    judged = [p.warm_up_steady for p in warmed if p.warm_up_steady is not None]
    return WarmUp(sum(p.warm_up_runs for p in warmed), all(judged) if judged else None)


def _cpu_per_wall(processes: Sequence[Process]) -> float | None:
    shares = []
    for process in processes:
        reading = process.reading("worker", "cpu_time")
        if reading is not None and reading.change is not None and reading.t_ns[-1] > reading.t_ns[0]:
            shares.append(reading.change / (reading.t_ns[-1] - reading.t_ns[0]))
    return median(shares) if shares else None


def _memory(processes: Sequence[Process]) -> Memory | None:
    points: dict[str, float | None] = {}
    for point in ("start", "runtime", "loaded", "peak", "run_peak", "pss", "graphics", "model"):
        readings = [p.reading("memory", point) for p in processes]
        points[point] = max((r.value[-1] / MB for r in readings if r is not None and r.value), default=None)
    if all(value is None for value in points.values()):
        return None
    loaded, runtime = points["loaded"], points["runtime"]
    model = loaded - runtime if loaded is not None and runtime is not None else points["model"]
    names = ("VmRSS, peak VmHWM" if loaded is not None else "VmHWM of the tool") + (
        ", Pss" if points["pss"] is not None else ""
    )
    return Memory(
        start=points["start"],
        runtime=runtime,
        loaded=loaded,
        peak=points["peak"],
        model=model,
        metric=names,
        run_peak=points["run_peak"],
        pss=points["pss"],
        graphics=points["graphics"],
    )


def _temperature(processes: Sequence[Process]) -> Temperature | None:
    """Of the zone that reached most."""
    known = heat.zones(r for p in processes for r in p.readings)
    if not known:
        return None
    hottest = max(known, key=lambda zone: max(zone.value)).source
    celsius = [value / 1000 for zone in known if zone.source == hottest for value in zone.value]
    return Temperature(celsius[0], celsius[-1], max(celsius))


def _heat(process: Process, clusters: Sequence[Cluster], cpus: Sequence[int]) -> Heat:
    temperature, clock = _temperature([process]), _clock([process], clusters, cpus)
    return Heat(
        temperature.end if temperature else None, clock.mean if clock else None, clock.ceiling if clock else None
    )


def _clusters(context: Context) -> Sequence[Cluster]:
    return context.device.clusters if context.device is not None else ()


def _clock(processes: Sequence[Process], clusters: Sequence[Cluster], cpus: Sequence[int]) -> Clock | None:
    """Mean by the time in states where the kernel counts it, else of what was seen each second; of the cores that the
    case was kept to, else of the fastest ones.
    """
    used = {f"cpufreq:{one.policy}" for one in clusters if set(one.cpus) & set(cpus)}
    seen = [r for p in processes for r in p.readings if not used or r.source in used]
    speeds = [r for r in seen if r.quantity == "frequency" and r.value]
    ceilings = [v for r in seen if r.quantity == "ceiling" for v in r.value]
    if not speeds or not ceilings:
        return None
    fastest = max(speeds, key=lambda r: fmean(r.value)).source
    counted = [_counted_khz(p, fastest) for p in processes]
    known = [khz for khz in counted if khz is not None]
    mean_khz = fmean(known) if known else fmean(v for r in speeds if r.source == fastest for v in r.value)
    return Clock(mean_khz / 1000, max(ceilings) / 1000)


def _counted_khz(process: Process, source: str) -> float | None:
    cycles, clocked = process.reading(source, "cycles"), process.reading(source, "clocked")
    if cycles is None or clocked is None or not cycles.change or not clocked.change:
        return None
    return cycles.change / clocked.change if cycles.change > 0 and clocked.change > 0 else None


def _compiled(process: Process) -> bool:
    """Did it begin with an empty cache of compiled programs, and leave some there?"""
    kept = process.reading("programs", "kept")
    return kept is not None and len(kept.value) == 2 and kept.value[0] == 0 < kept.value[1]


def _median(values: Sequence[int | None], unit: float) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) / unit if known else None


def _delegate(case: Case, placed: Placed | None) -> tuple[Delegate, Reason | None]:
    """What computed, and the reason FALLBACK where an accelerator was asked for and took no node."""
    options = dict(case.setup.options)
    if placed is None:
        return Delegate(case.delegate, options=options), None
    known = placed.known and not placed.stated
    made = Delegate(
        requested=case.delegate,
        used=placed.used,
        accelerated_by=placed.accelerated_by or None,
        adapter=placed.adapter or None,
        options=options,
        coverage=_coverage(case, placed),
        nodes=placed.nodes if known else None,
        nodes_delegated=placed.delegated if known else None,
        # A runtime may know how many nodes went, and not in how many parts.
        partitions=placed.partitions if known and (placed.partitions or not placed.delegated) else None,
        on_cpu=placed.on_cpu if known else None,
    )
    if made.coverage != "none":
        return made, None
    return made, case_reason("fallback", f"{case.delegate} was asked for, but every node ran on the CPU")


def _coverage(case: Case, placed: Placed) -> str:
    return "n/a" if case.delegate_base == CPU else placed.coverage or "n/a"


def _profile(ops: Sequence[OpTime]) -> tuple[OpShare, ...]:
    """The slowest first, with shares of their sum."""
    total = sum(op.total_ns for op in ops) or 1
    ordered = sorted(ops, key=lambda op: (-op.total_ns, op.op))
    return tuple(OpShare(op.op, op.runs_on, op.nodes, op.total_ns / MS, op.total_ns / total) for op in ordered)


def _device(device: Device | None) -> DeviceFacts:
    if device is None:
        return DeviceFacts()
    return DeviceFacts(
        model=device.model or None,
        soc=device.soc or None,
        os=device.os or None,
        kernel=device.kernel or None,
        cpu=device.cpu or None,
        boot_id=device.boot_id or None,
        fingerprint=device.fingerprint or None,
        clusters=tuple(Cores(c.cpus, c.max_khz / 1000 or None, c.capacity or None) for c in device.clusters) or None,
    )


def _model(case: Case, facts: Facts | None) -> Model:
    return Model(
        name=case.model.name,
        sha256=case.model.sha256,
        bytes=case.model.bytes,
        format=case.model.format,
        recipe=case.model.recipe,
        inputs=tuple(_tensor(t) for t in facts.inputs) if facts else None,
        outputs=tuple(_tensor(t) for t in facts.outputs) if facts else None,
    )


def _tensor(tensor: Tensor) -> TensorFacts:
    quantization = Quantization(tensor.scale, tensor.zero_point, tensor.axis) if tensor.scale else None
    return TensorFacts(tensor.name, tensor.dtype, tensor.shape, quantization)


def _environment(device: Device | None, facts: Facts | None, processes: Sequence[Process]) -> dict[str, Any]:
    governors = {r.text for p in processes for r in p.readings if r.quantity == "governor" and r.text}
    return {
        "agent_build": device.agent_build if device else None,
        "python": (facts.python or None) if facts else None,
        "numpy": facts.numpy if facts else None,
        "arch": device.arch if device else None,
        "libc": (device.libc or None) if device else None,
        "cpus": (device.cpus or None) if device else None,
        "memory_bytes": (device.memory_bytes or None) if device else None,
        "host": platform.platform(),
        "governor": " ".join(sorted(governors)) or None,
    }
