"""Translations between the protobuf of the wire and our dataclasses, for session.py alone."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench import measurement as m
from pocketbench.models import PlacedFile, printable
from pocketbench.plan import Case, Plan
from pocketbench.workload import DevicePipeline
from pocketbench_agent.device_info import Cluster
from pocketbench_agent.rpc import agent_pb2 as pb
from pocketbench_agent.runtimes import OpTime

HOW = {
    pb.Ended.OK: "ok",
    pb.Ended.ERROR: "error",
    pb.Ended.SIGNAL: "signal",
    pb.Ended.TIMEOUT: "timeout",
    pb.Ended.NO_OUTPUT: "no_output",
    pb.Ended.UNAVAILABLE: "unavailable",
    pb.Ended.CANCELLED: "cancelled",
}
MAX_NAME, MAX_STAGE = 200, 40
MAX_CPUS = 1024
INPUTS_NAME = "inputs.npz"
HEAT = ("thermal", "cpufreq", "cooling", "throttled", "android")
POWER = ("battery", "odpm", "iio", "hwmon", "rapl", "pmic", "dumpsys", "powerstats")
METERS: Mapping[str, Sequence[str]] = {"latency": HEAT, "energy": (*POWER, *HEAT)}


@dataclass(frozen=True)
class JobFiles:
    """What a job needs beside its case."""

    inputs: PlacedFile | None = None
    runtime_archive: PlacedFile | None = None
    pipeline: DevicePipeline | None = None

    def placed(self) -> list[PlacedFile]:
        """All that there are."""
        whole_frames = [self.pipeline.code, self.pipeline.items] if self.pipeline is not None else []
        return [*(file for file in (self.inputs, self.runtime_archive) if file is not None), *whole_frames]


class Requests:
    """The request side of a scoring stream: the job first, then whatever is sent."""

    def __init__(self, job: pb.Job) -> None:
        self._queue: queue.Queue[pb.InferRequest | None] = queue.Queue(maxsize=8)
        self._queue.put(pb.InferRequest(job=job))

    def send(self, tensors: pb.Tensors) -> None:
        """One inference more."""
        self._queue.put(pb.InferRequest(tensors=tensors))

    def end(self) -> None:
        """No more."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[pb.InferRequest]:
        while (request := self._queue.get()) is not None:
            yield request


def job(
    case: Case,
    plan: Plan,
    files: JobFiles,
    phase: str,
    round_index: int,
) -> pb.Job:
    """The job for one process of a case."""
    work_s = (plan.energy_s or 0.0) if phase == "energy" else case.sustained_s or 0.0
    program = pb.Program(
        runtime=case.runtime.name,
        runtime_version=case.runtime.version or "",
        delegate=case.delegate_base,
        options=dict(case.setup.options),
        delegate_files=[_file(file, file.name) for file in case.setup.files],
        signature=case.signature or "",
        shapes={name: pb.Shape(dims=dims) for name, dims in case.shapes},
        seed=plan.seed,
    )
    if case.tool is not None:
        sent = [_file(file, file.name) for file in case.tool.files]
        program.tool.CopyFrom(pb.Tool(name=case.tool.name, path=case.tool.path, files=sent))
    if files.inputs is not None:
        program.inputs.CopyFrom(_file(files.inputs, INPUTS_NAME))
    if files.runtime_archive is not None:
        program.runtime_archive.CopyFrom(_file(files.runtime_archive, files.runtime_archive.name))
    if files.pipeline is not None and phase == "latency":
        program.pipeline.CopyFrom(_file(files.pipeline.code, files.pipeline.code.name))
        program.items.CopyFrom(_file(files.pipeline.items, files.pipeline.items.name))
    return pb.Job(
        files=[_file(file, file.name) for file in case.model.files],
        program=program,
        placement=pb.Placement(threads=case.threads, cpus=case.cpus),
        plan=pb.Plan(
            scenario=case.scenario,
            process_index=round_index,
            min_runs=plan.min_runs,
            max_runs=plan.max_runs,
            min_time_s=plan.min_time_s,
            max_time_s=plan.max_time_s,
            warm_up_min_runs=plan.warm_up_min_runs,
            warm_up_min_time_s=plan.warm_up_min_time_s,
            warm_up_max_time_s=plan.warm_up_max_time_s,
            settle_s=plan.settle_s,
            idle_s=plan.idle_s,
            work_s=work_s,
            rate_hz=case.rate_hz or 0.0,
        ),
        deadline_s=plan.deadline_s + round(work_s if phase != "energy" else 2 * (work_s + plan.idle_s)),
        meters=METERS.get(phase, ()),
        phase=phase,
    )


def process(events: Sequence[pb.Event], round_index: int) -> m.Process:
    """What one job measured."""
    begun = {event.phase.name: event.mono_ns for event in events if event.HasField("phase")}
    samples = {event.samples.phase: event.samples for event in events if event.HasField("samples")}
    found: dict[str, Any] = {}
    if "load" in begun and "inputs" in begun:
        found["load_ns"] = begun["inputs"] - begun["load"]
    if "load" in samples and samples["load"].run_ns:
        found["load_ns"] = samples["load"].run_ns[0]
    if "first" in samples and samples["first"].run_ns:
        found["first_ns"] = samples["first"].run_ns[0]
    if "timed" in samples:
        found["run_ns"] = np.array(samples["timed"].run_ns, np.int64)
        found["io_ns"] = np.array(samples["timed"].io_ns, np.int64)
        found["at_ns"] = np.array(samples["timed"].at_ns, np.int64)
        found["every"] = max(1, samples["timed"].every)
        found["timed_from_ns"] = begun.get("timed")
    if "frames" in samples:
        found["frame_ns"] = np.array(samples["frames"].run_ns, np.int64)
        found["around_ns"] = np.array(samples["frames"].io_ns, np.int64)
    if "warm_up" in samples:
        found["warm_up_ns"] = np.array(samples["warm_up"].run_ns, np.int64)
    for event in events:
        if event.HasField("facts"):
            found["facts"] = facts(event.facts)
        elif event.HasField("placed"):
            found["placed"] = _placed(event.placed)
        elif event.HasField("warm_up"):
            steady = None if event.warm_up.unjudged else event.warm_up.steady
            found |= {"warm_up_runs": event.warm_up.runs, "warm_up_steady": steady}
        elif event.HasField("statistics") and event.statistics.phase == "timed":
            found["told"] = _told(event.statistics)
        elif event.HasField("synchronisation"):
            found["probe_run_ns"] = tuple(event.synchronisation.run_ns)
            found["probe_read_ns"] = tuple(event.synchronisation.read_ns)
            found["probe_reread_ns"] = tuple(event.synchronisation.reread_ns)
        elif event.HasField("outputs"):
            found["outputs"] = tuple(
                m.OutputFact(o.name, o.values, o.nan, o.inf, o.sha256.hex()) for o in event.outputs.outputs
            )
            found["output_constant"] = event.outputs.constant if event.outputs.constant_checked else None
    readings = tuple(reading(event.reading) for event in events if event.HasField("reading"))
    return m.Process(round_index, _last(events), readings=readings, **found)


def energy_run(events: Sequence[pb.Event]) -> m.EnergyRun:
    """What one energy phase measured."""
    begun = {event.phase.name: event.mono_ns for event in events if event.HasField("phase")}
    ended = _last(events)
    if not {"idle_before", "work", "idle_after", "report"} <= begun.keys():
        return m.EnergyRun(ended)
    return m.EnergyRun(
        ended=ended,
        idle_before_ns=(begun["idle_before"], begun["work"]),
        work_ns=(begun["work"], begun["idle_after"]),
        idle_after_ns=(begun["idle_after"], begun["report"]),
        runs=sum(event.samples.total for event in events if event.samples.phase == "work"),
        readings=tuple(reading(event.reading) for event in events if event.HasField("reading")),
    )


def outputs(events: Sequence[pb.Event]) -> tuple[m.Ended, list[m.Output]]:
    """How a reference job ended, and the outputs that it kept."""
    kept = [
        m.Output(tensor.name, array)
        for event in events
        if event.HasField("tensors")
        for tensor, array in zip(event.tensors.t, arrays(event.tensors), strict=True)
    ]
    return _last(events), kept


def profile(events: Sequence[pb.Event]) -> list[OpTime] | None:
    """Where an inference's time goes; None where the runtime does not tell."""
    told = next((event.profile for event in events if event.HasField("profile")), None)
    if told is None or _last(events).how != "ok":
        return None
    return [OpTime(op.op, op.runs_on, op.nodes, op.total_ns) for op in told.ops]


def device(hello: pb.HelloReply) -> m.Device:
    """What the agent said of its device."""
    said = hello.device
    told: dict[str, Any] = {field.name: getattr(said, field.name) for field in said.DESCRIPTOR.fields}
    told["clusters"] = tuple(
        Cluster(printable(one.policy[:MAX_NAME]), tuple(one.cpus[:MAX_CPUS]), one.max_khz, one.capacity)
        for one in said.clusters[:MAX_CPUS]
    )
    # Shown in lines of their own, and kept in each result.
    shown = {name: printable(value[:MAX_NAME]) for name, value in told.items() if isinstance(value, str)}
    return m.Device(
        **told | shown,
        runtimes=tuple(hello.runtimes),
        agent_build=hello.build_sha256,
    )


def facts(said: pb.ModelFacts) -> m.Facts:
    """What the runtime said of the model."""
    return m.Facts(
        inputs=tuple(_tensor(t) for t in said.inputs),
        outputs=tuple(_tensor(t) for t in said.outputs),
        runtime_version=said.runtime_version,
        precision=said.precision,
        inputs_from=said.inputs_from,
        python=said.python,
        numpy=said.numpy,
        emulated_by=said.emulated_by,
    )


def ended(said: pb.Ended) -> m.Ended:
    """How a job ended."""
    how = HOW.get(said.how, "error")
    return m.Ended(how, printable(said.stage[:MAX_STAGE]), said.message, said.signal, tuple(said.log_tail))


def reading(said: pb.Reading) -> m.Reading:
    """A reading."""
    return m.Reading(
        said.source, said.quantity, said.unit, tuple(said.t_ns), tuple(said.value), said.missing, said.text
    )


def tensors(values: Sequence[NDArray[Any]]) -> pb.Tensors:
    """Arrays for the wire."""
    return pb.Tensors(
        t=[pb.Tensor(dtype=a.dtype.name, shape=a.shape, data=np.ascontiguousarray(a).tobytes()) for a in values]
    )


def arrays(said: pb.Tensors) -> list[NDArray[Any]]:
    """Arrays from the wire."""
    return [np.frombuffer(t.data, np.dtype(t.dtype)).reshape(tuple(t.shape)) for t in said.t]


def _file(file: PlacedFile, name: str) -> pb.File:
    return pb.File(path=PurePosixPath(name).as_posix(), sha256=bytes.fromhex(file.sha256))


def _tensor(said: pb.TensorInfo) -> m.Tensor:
    return m.Tensor(
        name=said.name,
        dtype=said.dtype,
        shape=tuple(said.shape),
        scale=tuple(said.scale),
        zero_point=tuple(said.zero_point),
        axis=said.axis if said.has_axis else None,
    )


def _told(said: pb.Statistics) -> m.Told:
    told = {field.name: value for field, value in said.ListFields() if field.name.endswith("_ns")}
    return m.Told(said.runs, **told)


def _placed(said: pb.Placed) -> m.Placed:
    return m.Placed(
        known=said.known,
        nodes=said.nodes,
        delegated=said.delegated,
        partitions=said.partitions,
        on_cpu=dict(said.on_cpu),
        evidence=said.evidence,
        adapter=said.adapter,
        used=said.used,
        accelerated_by=said.accelerated_by,
        stated=said.coverage,
        quantized=said.quantized,
    )


def _last(events: Sequence[pb.Event]) -> m.Ended:
    last = events[-1] if events else None
    if last is None or not last.HasField("ended"):
        return m.Ended("no_output", "agent", "the events ended before the job did")
    return ended(last.ended)
