"""The worker of runtime `native`: starts the vendor's tool, follows what it prints, and writes Events."""

from __future__ import annotations

import math
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pocketbench_agent import driven
from pocketbench_agent.emitter import Emitter, serve
from pocketbench_agent.errors import NotAvailable, ProgramEnded, StageError
from pocketbench_agent.native import Ask, Statistics, Told, Tool, emulated_by, tool
from pocketbench_agent.native.start import Here, Program, Ran, There
from pocketbench_agent.rpc import agent_pb2 as pb
from pocketbench_agent.worker import conditions, options_of, placed_event

# Runs of the start that tells how long one lasts.
FEW = 4


def main() -> int:
    """Run the one job on stdin."""
    return serve(_run)


def _run(job: pb.Job, stdin: BinaryIO, emitter: Emitter) -> None:
    emitter.begin("start")
    link = driven.link()
    _check(job, link)
    module = tool(job.program.tool.name)
    program: Program = Here(job) if link is None else There(link, job)
    emitter.begin("runtime")
    version = program.version(job.program.tool.name)
    with tempfile.TemporaryDirectory() as scratch:
        ask = _ask(job, Path(scratch))
        if job.phase == "profile":
            emitter.begin("profile")
            _profile(program, module, replace(ask, profile=True), emitter)
        else:
            emitter.begin("load")
            _measure(program, module, ask, version, emitter)


def _check(job: pb.Job, link: driven.Link | None) -> None:
    """NotAvailable for what no tool can do."""
    if link is not None and job.program.runtime != "native":
        raise NotAvailable(
            f"nothing of ours runs on this device ('python: host' in devices.yaml), {job.program.runtime} included: "
            "its vendor's tools alone can be measured, with --runtime native"
        )
    told = job.program.tool
    suffix = Path(job.files[0].path).suffix
    if not told.name:
        raise NotAvailable(
            f"this device has no tool that runs {suffix} files on {job.program.delegate or 'cpu'}: name one under "
            "native_tools in devices.yaml"
        )
    if job.phase not in ("latency", "profile"):
        raise NotAvailable(f"{told.name} gives no outputs, and is not measured in phase {job.phase}")
    if not job.plan.scenario.startswith("single_stream") and job.plan.scenario:
        raise NotAvailable(f"{told.name} is measured back to back only, not {job.plan.scenario}")
    if job.program.inputs.path:
        raise NotAvailable(f"{told.name} makes its own inputs: leave --inputs out")


def _ask(job: pb.Job, scratch: Path) -> Ask:
    plan, program = job.plan, job.program
    libraries_sent = [Path(file.path).absolute() for file in program.delegate_files]
    return Ask(
        model=Path(job.files[0].path).absolute(),
        scratch=scratch,
        delegate=program.delegate or "cpu",
        options=options_of(program),
        library=libraries_sent[0] if libraries_sent else None,
        signature=program.signature,
        shapes={name: tuple(shape.dims) for name, shape in program.shapes.items()},
        threads=job.placement.threads or 1,
        warm_up_runs=plan.warm_up_min_runs or 1,
        warm_up_s=plan.warm_up_min_time_s,
        min_runs=plan.min_runs,
        max_runs=plan.max_runs or 1,
        min_time_s=plan.min_time_s,
        max_time_s=plan.max_time_s,
        loops=min(plan.min_runs, plan.max_runs) or 1,
    )


def _measure(program: Program, module: Tool, ask: Ask, version: str, emitter: Emitter) -> None:
    learnt = Told()
    if module.LOOPED:
        learnt = _believed(program, module, replace(ask, loops=FEW, warm_up_runs=1, verbose=True))
        ask = _looped(ask, _mean_ns(learnt) or 1.0)
    before = conditions()

    coming = list(module.STAGES)

    def stage(line: str) -> None:
        if coming and coming[0][0] in line:
            emitter.begin(coming.pop(0)[1])

    ran = program.start(module.arguments(ask), ask.scratch, module.LEAVES, stage)
    after = conditions()
    told = _read(program, module, ran, ask)
    if emitter.stage != "report":
        emitter.begin("report")
    now = time.perf_counter_ns()
    emitter.reading("memory", "peak", "bytes", (now, ran.peak_bytes))
    emitter.reading("memory", "model", "bytes", (now, told.model_bytes))
    if program.kept:
        emitter.reading("programs", "kept", "bytes", *program.kept)
    for key, value in before[1].items():
        # The clocks are this machine's, which is not always the device.
        if key[0] != "worker" and (key[0] != "clock" or isinstance(program, Here)):
            emitter.reading(*key, (before[0], value), (after[0], after[1][key]))
    facts = pb.ModelFacts(runtime_version=version, precision=module.PRECISION, inputs_from="tool")
    facts.python = sys.version.split()[0] if isinstance(program, Here) else ""
    facts.emulated_by = emulated_by(ran.text)
    emitter.send(facts=facts)
    _send(told, ask, emitter)
    placement = told.placement or learnt.placement
    if placement is not None:
        known = learnt.placement if not placement.known and learnt.placement is not None else placement
        emitter.send(placed=placed_event(known))


def _looped(ask: Ask, mean_ns: float) -> Ask:
    """As many runs, and runs of warm-up before, as the plan's times take; no more runs than the plan allows."""
    mean_s = mean_ns / 1e9
    most = max(1, math.floor(ask.max_time_s / mean_s))
    loops = max(ask.loops, math.ceil(ask.min_time_s / mean_s))
    warm_up = max(ask.warm_up_runs, math.ceil(ask.warm_up_s / mean_s))
    return replace(ask, loops=min(most, ask.max_runs, loops), warm_up_runs=min(most, warm_up))


def _mean_ns(told: Told) -> float | None:
    if told.samples_ns:
        return sum(told.samples_ns) / len(told.samples_ns)
    return told.timed.mean_ns if told.timed is not None else None


def _profile(program: Program, module: Tool, ask: Ask, emitter: Emitter) -> None:
    told = _believed(program, module, ask)
    if not told.profile:
        raise NotAvailable("this tool does not tell where its time goes")
    ops = [pb.OpTime(op=o.op, runs_on=o.runs_on, nodes=o.nodes, total_ns=o.total_ns) for o in told.profile]
    emitter.send(profile=pb.Profile(ops=ops))


def _send(told: Told, ask: Ask, emitter: Emitter) -> None:
    if told.init_ns is not None:
        emitter.send(samples=pb.Samples(phase="load", run_ns=[round(told.init_ns)], every=1))
    if told.first_ns is not None:
        emitter.send(samples=pb.Samples(phase="first", run_ns=[round(told.first_ns)], every=1))
    if told.samples_ns:
        split = min(ask.warm_up_runs, len(told.samples_ns) - 1)
        for phase, part in (("warm_up", told.samples_ns[:split]), ("timed", told.samples_ns[split:])):
            emitter.send(samples=pb.Samples(phase=phase, run_ns=part, every=1))
        emitter.send(warm_up=pb.WarmUp(runs=split, unjudged=True))
        return
    for phase, found in (("warm_up", told.warm_up), ("timed", told.timed)):
        if found is not None:
            emitter.send(statistics=_statistics(phase, found))
    if told.warm_up is not None:
        emitter.send(warm_up=pb.WarmUp(runs=told.warm_up.runs, unjudged=True))


def _statistics(phase: str, found: Statistics) -> pb.Statistics:
    return pb.Statistics(
        phase=phase,
        runs=found.runs,
        mean_ns=found.mean_ns,
        min_ns=found.min_ns,
        max_ns=found.max_ns,
        median_ns=found.median_ns,
        stdev_ns=found.stdev_ns,
    )


def _believed(program: Program, module: Tool, ask: Ask) -> Told:
    """A start that is not measured."""
    told = _read(
        program, module, program.start(module.arguments(ask), ask.scratch, module.LEAVES, lambda line: None), ask
    )
    for left in ask.scratch.iterdir():
        left.unlink()
    return told


def _read(program: Program, module: Tool, ran: Ran, ask: Ask) -> Told:
    """What the tool said; an error where it failed, said that it did, or told no time."""
    told = module.told(ran.text, ask)
    if told.missing:
        raise NotAvailable(f"{program.name}: {told.missing}")
    if ran.code < 0:
        raise ProgramEnded(f"{program.name} died of {signal.Signals(-ran.code).name}", -ran.code)
    lines = [line.strip() for line in ran.text.splitlines() if line.strip()]
    if told.trouble:
        raise StageError(f"{program.name}: {told.trouble}")
    if ran.code:
        said = next((line for line in lines if "rror" in line or "xception" in line), lines[-1] if lines else "nothing")
        raise StageError(f"{program.name} ended with code {ran.code}, and says: {said[:300]}")
    mean_ns = _mean_ns(told)
    if mean_ns is None:
        said = f"; its last line is: {lines[-1][:200]}" if lines else ", and printed nothing"
        raise ProgramEnded(f"{program.name} ended without a result{said}")
    if not mean_ns and module.LOOPED:
        # How many loops take a second is not to be known; elsewhere a latency of nothing is for the verdict.
        raise StageError(f"{program.name}: a mean of 0: one inference is shorter than the last digit that it prints")
    return told


if __name__ == "__main__":
    sys.exit(main())
