"""LiteRT's `benchmark_litert_model`, which reaches its GPU and NPU by CompiledModel.

The formats are those of google-ai-edge/LiteRT, litert/tools/benchmark_litert_model.h; lines of statistics are those of
`benchmark_model`, which it is built on, and its log is LiteRT's. Where these lines are missing, mean, least and most
are told with two decimals of a millisecond, and no median.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pocketbench_agent.errors import NotAvailable
from pocketbench_agent.native import NUMBER, Ask, Statistics, Told, benchmark_model, whole_lines
from pocketbench_agent.runtimes import Placement

LOOPED = False
STAGES = (*benchmark_model.STAGES[:2], ("BENCHMARK RESULTS", "report"))
LEAVES: Sequence[str] = ()
PRECISION = benchmark_model.PRECISION
MS = 1_000_000.0

INIT = re.compile(rf"Model initialization: +{NUMBER} ms\s*$")
FIRST = re.compile(rf"Warmup \(first\): +{NUMBER} ms\s*$")
WARM_UP = re.compile(rf"Warmup \(avg\): +{NUMBER} ms \((\d+) runs\)\s*$")
MEAN = re.compile(rf"Inference \(avg\): +{NUMBER} ms \((\d+) runs\)\s*$")
LEAST = re.compile(rf"Inference \(min\): +{NUMBER} ms\s*$")
MOST = re.compile(rf"Inference \(max\): +{NUMBER} ms\s*$")
STDEV = re.compile(rf"Inference \(std\): +{NUMBER}\s*$")
FOOTPRINT = re.compile(rf"Init footprint: +{NUMBER} MB\s*$")
PARTITIONED = re.compile(r"selected (\d+) ops, from a total of (\d+) ops\. resulted in (\d+) partitions")
# Nodes count as replaced before the dispatch library is tried.
NOT_DISPATCHED = ("Failed to create a dispatch delegate kernel", "No usable Dispatch runtime")
MISSING = ("No compiler plugin found", "GPU accelerator could not be loaded", "No adapters found")
FAILED = ("Failed to compile model", "Failed to load model", "Run failed")
DISPATCH = "DispatchDelegate"
DELEGATES = ("gpu", "npu")


@dataclass(frozen=True)
class Said:
    """What the output says, milliseconds and megabytes of 2^20 bytes, beside what `benchmark_model` says so too."""

    lines: benchmark_model.Said
    init_ms: float | None
    first_ms: float | None
    warm_up: tuple[float, int] | None
    mean: tuple[float, int] | None
    least_ms: float | None
    most_ms: float | None
    stdev_ms: float | None
    footprint_mb: float | None
    partitioned: tuple[int, int, int] | None
    not_dispatched: bool
    missing: str
    failed: str


def arguments(ask: Ask) -> list[str]:
    """Its flags; the CPU takes what the accelerator leaves, as in an application. NotAvailable for another delegate."""
    if ask.delegate not in ("cpu", *DELEGATES) or ask.library is not None:
        raise NotAvailable(
            f"benchmark_litert_model has no delegate {ask.delegate!r}; it has cpu, {', '.join(DELEGATES)}"
        )
    if ask.shapes:
        raise NotAvailable("benchmark_litert_model takes no --shape")
    flags = [f"--graph={ask.model}", f"--num_threads={ask.threads}"]
    flags += [f"--warmup_runs={ask.warm_up_runs}", f"--warmup_min_secs={ask.warm_up_s:g}"]
    flags += [f"--num_runs={ask.min_runs}", f"--min_secs={ask.min_time_s:g}", f"--max_secs={ask.max_time_s:g}"]
    flags += [f"--use_{name}=true" for name in DELEGATES if name == ask.delegate]
    if ask.signature:
        flags.append(f"--signature_to_run_for={ask.signature}")
    flags += [f"--{key}={value}" for key, value in ask.options.items()]
    return [*flags, "--use_profiler=true"] if ask.profile else flags


def parse(text: str) -> Said:
    """The output; what it does not say is None, empty or False."""
    lines = whole_lines(text)
    mean, warm_up = _first(MEAN, lines), _first(WARM_UP, lines)
    partitioned = _first(PARTITIONED, lines)
    return Said(
        lines=benchmark_model.parse(text),
        init_ms=_number(INIT, lines),
        first_ms=_number(FIRST, lines),
        warm_up=(float(warm_up[1]), int(warm_up[2])) if warm_up else None,
        mean=(float(mean[1]), int(mean[2])) if mean else None,
        least_ms=_number(LEAST, lines),
        most_ms=_number(MOST, lines),
        stdev_ms=_number(STDEV, lines),
        footprint_mb=_number(FOOTPRINT, lines),
        partitioned=(int(partitioned[1]), int(partitioned[2]), int(partitioned[3])) if partitioned else None,
        not_dispatched=any(word in line for line in lines for word in NOT_DISPATCHED),
        missing=next((word for line in lines for word in MISSING if word in line), ""),
        failed=next((line.strip() for line in lines if any(word in line for word in FAILED)), ""),
    )


def told(text: str, ask: Ask) -> Told:
    """What the output means."""
    said = parse(text)
    taken = placement(said, ask)
    absent = said.missing if ask.delegate != "cpu" and not taken.delegated and taken.coverage in ("", "none") else ""
    return Told(
        timed=benchmark_model.statistics(said.lines.timed) or _timed(said),
        warm_up=benchmark_model.statistics(said.lines.warm_up) or _warm_up(said),
        init_ns=said.init_ms and said.init_ms * MS,
        first_ns=said.first_ms and said.first_ms * MS,
        model_bytes=round(said.footprint_mb * benchmark_model.MIB) if said.footprint_mb else None,
        placement=taken,
        profile=tuple(benchmark_model.op_time(kind, ask.delegate) for kind in said.lines.profile),
        trouble=_trouble(said),
        missing=f"it finds no {ask.delegate}: {absent}" if absent else "",
    )


def placement(said: Said, ask: Ask) -> Placement:
    """Of the file's own nodes where a compiler plugin counted them; one that was compiled beforehand is one node."""
    if ask.delegate != "npu":
        return benchmark_model.placement(said.lines.replaced, said.lines.applied, said.lines.on_gpu, ask)
    dispatched = [r for r in said.lines.replaced if r.delegate == DISPATCH]
    took = bool(dispatched) and not said.not_dispatched
    taken, nodes, partitions = 0, 0, 0
    if said.partitioned is not None:
        taken, nodes, partitions = said.partitioned
    elif dispatched:
        taken, nodes = sum(r.taken for r in dispatched), sum(r.of for r in dispatched)
        partitions = sum(r.partitions for r in dispatched)
    if not took:
        taken = partitions = 0
    return Placement(
        known=True,
        nodes=nodes,
        delegated=taken,
        partitions=partitions,
        evidence="the tool's log",
        used="npu" if taken else "cpu",
        accelerated_by="npu" if taken else "",
        coverage="" if nodes else "none",
    )


def _timed(said: Said) -> Statistics | None:
    if said.mean is None or not said.mean[1]:
        return None
    parts = (said.mean[0], said.least_ms, said.most_ms, None, said.stdev_ms)
    return Statistics(said.mean[1], *(None if value is None else value * MS for value in parts))


def _warm_up(said: Said) -> Statistics | None:
    return Statistics(said.warm_up[1], said.warm_up[0] * MS) if said.warm_up and said.warm_up[1] else None


def _trouble(said: Said) -> str:
    if said.lines.unknown_flags:
        return f"this build does not know {said.lines.unknown_flags}, and would have gone on without"
    if said.failed or said.lines.refused:
        return said.failed or said.lines.refused
    stat = said.lines.timed
    if stat is None or said.mean is None or stat.mean is None:
        return ""
    if abs(said.mean[0] - stat.mean / 1000) > 0.006 + 1e-3 * said.mean[0] or said.mean[1] != stat.runs:
        return f"it contradicts itself: a mean of {stat.mean:g} us in one line, of {said.mean[0]:g} ms in another"
    return ""


def _first(pattern: re.Pattern[str], lines: list[str]) -> re.Match[str] | None:
    return next((found for line in lines if (found := pattern.search(line))), None)


def _number(pattern: re.Pattern[str], lines: list[str]) -> float | None:
    found = _first(pattern, lines)
    return float(found[1]) if found else None
