"""A worker: reads one Job from stdin, writes Events to stdout, both length-delimited protobuf, and ends.

Any program that does this is a worker (docs/worker-protocol.md); this one drives the Python runtimes. For
phase `score` the Job is followed by Tensors, each answered by one Event with tensors, until stdin ends.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pocketbench_agent import device_info, frames, inputs, loop, program_cache, rounding
from pocketbench_agent.emitter import Emitter, serve
from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.framing import read_message
from pocketbench_agent.meters import android
from pocketbench_agent.rpc import agent_pb2 as pb
from pocketbench_agent.runtimes import Array, LoadOptions, ModelFacts, Placement, Runtime, TensorInfo, create

OTHER_SEED = 0x5EED
# Larger outputs are not fetched for comparison: they would not fit through one message of the wire.
KEPT_BYTES = 128 * 1024 * 1024
S = 1_000_000_000


def main() -> int:
    """Run the one job on stdin."""
    return serve(_run)


def _run(job: pb.Job, stdin: BinaryIO, emitter: Emitter) -> None:
    emitter.begin("start")
    pin(job.placement.cpus)
    _memory(emitter, "start")
    emitter.begin("runtime")
    program = job.program
    builtin = "" if program.delegate_files else program.delegate
    runtime: Runtime = create(program.runtime, program.runtime_class, builtin)
    _memory(emitter, "runtime")
    emitter.begin("load")
    options = LoadOptions(
        threads=job.placement.threads or 1,
        delegate=job.program.delegate or "cpu",
        options=options_of(job.program),
        signature=job.program.signature or None,
        shapes={name: tuple(shape.dims) for name, shape in job.program.shapes.items()},
        process_index=job.plan.process_index,
        libraries=tuple(Path(file.path).absolute() for file in job.program.delegate_files),
        version=program.runtime_version,
    )
    facts = runtime.load([Path(file.path) for file in job.files], options)
    if program.runtime_version and runtime.version != program.runtime_version:
        raise StageError(f"{program.runtime} {program.runtime_version} was asked for, {runtime.version} was loaded")
    emitter.begin("inputs")
    _memory(emitter, "loaded")
    from_file = bool(job.program.inputs.path)
    emitter.send(facts=_facts(facts, runtime, "file" if from_file else "seed"))
    if job.phase == "score":
        _score(runtime, facts, stdin, emitter)
    else:
        if from_file:
            arrays = inputs.from_file(Path(job.program.inputs.path), facts.inputs)
        else:
            arrays = inputs.seeded(facts.inputs, job.program.seed)
        if job.phase == "rounding":
            files = [Path(file.path) for file in job.files]
            plain = create(job.program.runtime, job.program.runtime_class)
            found = rounding.spread(runtime, plain, facts, files, options, arrays, job.program.seed)
            emitter.send(tensors=pb.Tensors(t=[pb.Tensor(dtype="float64", shape=found.shape, data=found.tobytes())]))
        elif job.phase == "profile":
            emitter.begin("profile")
            _profile(runtime, arrays, emitter)
        else:
            _measure(job, runtime, facts, arrays, emitter)
    runtime.close()


def options_of(program: pb.Program) -> dict[str, str]:
    """The delegate's options, with the folder of compiled programs where one asks for it."""
    place = os.environ.get(program_cache.VARIABLES[0], "")
    return {key: text.replace(program_cache.PLACE, place) for key, text in program.options.items()}


def pin(cpus: Sequence[int]) -> None:
    """Run on these cores alone, and what is started from here too; StageError where they cannot be had."""
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, AttributeError) as error:
        raise StageError(f"--cpus {','.join(map(str, cpus))}: {error}") from error
    missing = sorted(set(cpus) - os.sched_getaffinity(0))
    if missing:
        raise StageError(f"--cpus: this device has no core {', '.join(map(str, missing))}")


def _measure(job: pb.Job, runtime: Runtime, facts: ModelFacts, arrays: list[Array], emitter: Emitter) -> None:
    plan = job.plan
    moves = loop.Moves(lambda: runtime.bind(arrays), runtime.run, runtime.read)
    emitter.begin("first")
    moves.bind()
    begin = loop.CLOCK()
    runtime.run()
    runtime.read()
    emitter.send(samples=pb.Samples(phase="first", run_ns=[loop.CLOCK() - begin], io_ns=[0], every=1))
    if job.phase == "reference":
        _outputs(job, runtime, facts, arrays, emitter)
        return
    gc.collect()
    gc.freeze()
    gc.disable()
    emitter.begin("probe")
    probe = loop.probe(moves)
    emitter.begin("warm_up")
    warm = loop.warm_up(
        moves,
        plan.warm_up_min_runs or 1,
        round(plan.warm_up_min_time_s * S),
        round(plan.warm_up_max_time_s * S),
    )
    if job.phase == "energy":
        _energy(plan, moves, emitter)
        return
    load_peak, reset = device_info.peak_rss_bytes(), device_info.reset_peak_rss()
    emitter.begin("timed")
    before, cpu_before = conditions(), time.process_time_ns()
    timed = _timed(plan, moves)
    cpu_after, after = time.process_time_ns(), conditions()
    gc.enable()
    emitter.begin("report")
    # Before the checks, whose copies are the harness's and not the model's.
    run_peak, now = device_info.peak_rss_bytes(), time.perf_counter_ns()
    peaks = [peak for peak in (load_peak, run_peak) if peak is not None]
    emitter.reading("memory", "peak", "bytes", (now, max(peaks, default=None)))
    emitter.reading("memory", "run_peak", "bytes", (now, run_peak if reset else None))
    emitter.reading("memory", "pss", "bytes", (now, device_info.pss_bytes()))
    emitter.reading("memory", "graphics", "bytes", (now, android.graphics_bytes(os.getpid())))
    emitter.send(
        synchronisation=pb.Synchronisation(run_ns=probe.run_ns, read_ns=probe.read_ns, reread_ns=probe.reread_ns)
    )
    emitter.send(warm_up=pb.WarmUp(runs=warm.runs, steady=warm.steady))
    kept = warm.samples
    emitter.send(samples=pb.Samples(phase="warm_up", run_ns=kept.run_ns, io_ns=kept.io_ns, every=kept.every))
    emitter.send(samples=_lasting("timed", timed))
    (t0, first), (t1, last) = before, after
    emitter.reading("worker", "cpu_time", "ns", (t0, cpu_before), (t1, cpu_after))
    for (source, quantity, unit), value in first.items():
        emitter.reading(source, quantity, unit, (t0, value), (t1, last[source, quantity, unit]))
    _outputs(job, runtime, facts, arrays, emitter)
    if job.program.pipeline.path:
        emitter.begin("frames")
        pipeline = frames.load(Path(job.program.pipeline.path), Path(job.program.items.path))
        kept = frames.timed(pipeline, runtime, facts)
        emitter.send(samples=pb.Samples(phase="frames", run_ns=kept.run_ns, io_ns=kept.io_ns, every=1))
    emitter.begin("placement")
    emitter.send(placed=placed_event(runtime.placement()))


def _timed(plan: pb.Plan, moves: loop.Moves) -> loop.Lasting:
    """The timed runs, as the scenario has them."""
    if plan.scenario.startswith("sustained"):
        return loop.lasting(moves, round(plan.work_s * S))
    limits = loop.Limits(plan.min_runs, plan.max_runs, round(plan.min_time_s * S), round(plan.max_time_s * S))
    if plan.scenario.startswith("paced"):
        return loop.paced(moves, limits, plan.rate_hz)
    samples = loop.timed(moves, limits)
    return loop.Lasting(samples, array("q"), len(samples.run_ns))


def _energy(plan: pb.Plan, moves: loop.Moves, emitter: Emitter) -> None:
    """Runs back to back between two idle windows with the model loaded; the meters' process looks on."""
    if plan.settle_s > 0:
        emitter.begin("settle")
        time.sleep(plan.settle_s)
    begun = device_info.clocks()
    emitter.begin("idle_before")
    time.sleep(plan.idle_s)
    emitter.begin("work")
    made = loop.lasting(moves, round(plan.work_s * S))
    emitter.begin("idle_after")
    time.sleep(plan.idle_s)
    ended = device_info.clocks()
    emitter.begin("report")
    boots = [(clocks.mono_ns, clocks.boottime_ns) for clocks in (begun, ended)]
    emitter.reading("clock", "boottime", "ns", *boots)
    emitter.send(samples=_lasting("work", made))


def _lasting(phase: str, made: loop.Lasting) -> pb.Samples:
    kept = made.samples
    return pb.Samples(
        phase=phase, run_ns=kept.run_ns, io_ns=kept.io_ns, every=kept.every, total=made.total, at_ns=made.at_ns
    )


def _profile(runtime: Runtime, arrays: list[Array], emitter: Emitter) -> None:
    profile = getattr(runtime, "profile", None)
    if profile is None:
        raise NotAvailable("this runtime does not tell where its time goes")
    runtime.bind(arrays)
    emitter.send(
        profile=pb.Profile(
            ops=[pb.OpTime(op=o.op, runs_on=o.runs_on, nodes=o.nodes, total_ns=o.total_ns) for o in profile()]
        )
    )


def conditions() -> tuple[int, dict[tuple[str, str, str], int | None]]:
    """What is read just before and just after the timed runs."""
    clocks = device_info.clocks()
    times = device_info.cpu_times()
    return clocks.mono_ns, {
        ("clock", "boottime", "ns"): clocks.boottime_ns,
        ("clock", "realtime", "ns"): clocks.realtime_ns,
        ("worker", "run_delay", "ns"): device_info.run_delay_ns(),
        ("worker", "swap", "bytes"): device_info.swap_bytes(),
        ("system", "stolen", "ticks"): times[1] if times else None,
        ("system", "all", "ticks"): times[2] if times else None,
    }


def _memory(emitter: Emitter, point: str) -> None:
    emitter.reading("memory", point, "bytes", (time.perf_counter_ns(), device_info.rss_bytes()))


def _outputs(job: pb.Job, runtime: Runtime, facts: ModelFacts, arrays: list[Array], emitter: Emitter) -> None:
    """What the outputs are like, whether they depend on the inputs, and where asked for, the outputs themselves."""
    emitter.begin("outputs")
    outputs = runtime.read()
    made = pb.OutputFacts(outputs=[_fact(a, info) for a, info in zip(outputs, facts.outputs, strict=True)])
    if job.plan.keep_outputs and sum(array.nbytes for array in outputs) <= KEPT_BYTES:
        emitter.send(tensors=_tensors(outputs, facts.outputs))
    constant = _constant(runtime, facts, arrays, [output.sha256 for output in made.outputs])
    made.constant_checked, made.constant = constant is not None, bool(constant)
    emitter.send(outputs=made)


def _constant(runtime: Runtime, facts: ModelFacts, arrays: list[Array], digests: list[bytes]) -> bool | None:
    """Do other inputs give the very same outputs? None where there are no other inputs, or they are refused."""
    others = inputs.seeded(facts.inputs, OTHER_SEED)
    if all(np.array_equal(a, b) for a, b in zip(arrays, others, strict=True)):
        return None
    try:
        runtime.bind(others)
        runtime.run()
        outputs = runtime.read()
    except (StageError, ValueError):
        return None
    if not any(array.size for array in outputs):
        return None
    return [_digest(array) for array in outputs] == digests


def _fact(array: Array, info: TensorInfo) -> pb.OutputFact:
    floating = array.dtype.kind == "f"
    return pb.OutputFact(
        name=info.alias or info.name,
        values=array.size,
        nan=int(np.isnan(array).sum()) if floating else 0,
        inf=int(np.isinf(array).sum()) if floating else 0,
        sha256=_digest(array),
        dtype=array.dtype.name,
        shape=array.shape,
    )


def _digest(array: Array) -> bytes:
    """Of the values and the shape, without a copy of them."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _score(runtime: Runtime, facts: ModelFacts, stdin: BinaryIO, emitter: Emitter) -> None:
    """Answer tensors with tensors until stdin ends."""
    emitter.begin("score")
    while (message := read_message(stdin, pb.Tensors)) is not None:
        if len(message.t) != len(facts.inputs):
            raise StageError(f"{len(message.t)} inputs came for a model with {len(facts.inputs)}")
        arrays = []
        for tensor, info in zip(message.t, facts.inputs, strict=True):
            if tensor.dtype != info.dtype or tuple(tensor.shape) != info.shape:
                raise StageError(
                    f"input {info.name!r} came as {tensor.dtype} {list(tensor.shape)}, "
                    f"the model wants {info.dtype} {list(info.shape)}"
                )
            arrays.append(np.frombuffer(tensor.data, tensor.dtype).reshape(info.shape))
        runtime.bind(arrays)
        begin = loop.CLOCK()
        runtime.run()
        outputs = runtime.read()
        size = sum(array.nbytes for array in outputs)
        if size > KEPT_BYTES:
            raise StageError(
                f"outputs of {size / 1e6:.0f} MB are more than scoring carries ({KEPT_BYTES / 1e6:.0f} MB)"
            )
        answer = _tensors(outputs, facts.outputs)
        answer.id, answer.run_ns = message.id, loop.CLOCK() - begin
        emitter.send(tensors=answer)


def _tensors(arrays: Sequence[Array], infos: Sequence[TensorInfo]) -> pb.Tensors:
    return pb.Tensors(
        t=[
            pb.Tensor(name=info.alias or info.name, dtype=array.dtype.name, shape=array.shape, data=array.tobytes())
            for array, info in zip(arrays, infos, strict=True)
        ]
    )


def _facts(facts: ModelFacts, runtime: Runtime, inputs_from: str) -> pb.ModelFacts:
    return pb.ModelFacts(
        inputs=[_tensor_info(info) for info in facts.inputs],
        outputs=[_tensor_info(info) for info in facts.outputs],
        runtime_version=runtime.version,
        precision=facts.precision,
        inputs_from=inputs_from,
        python=sys.version.split()[0],
        numpy=np.__version__,
        signatures=facts.signatures,
    )


def _tensor_info(info: TensorInfo) -> pb.TensorInfo:
    return pb.TensorInfo(
        name=info.alias or info.name,
        dtype=info.dtype,
        shape=info.shape,
        scale=info.scale,
        zero_point=info.zero_point,
        axis=info.axis or 0,
        has_axis=info.axis is not None,
    )


def placed_event(placement: Placement) -> pb.Placed:
    """For the wire."""
    return pb.Placed(
        known=placement.known,
        nodes=placement.nodes,
        delegated=placement.delegated,
        partitions=placement.partitions,
        on_cpu=placement.on_cpu,
        evidence=placement.evidence,
        adapter=placement.adapter,
        used=placement.used,
        accelerated_by=placement.accelerated_by,
        coverage=placement.coverage,
        quantized=placement.quantized,
    )


if __name__ == "__main__":
    sys.exit(main())
