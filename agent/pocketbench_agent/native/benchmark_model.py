"""TensorFlow Lite's `benchmark_model`.

The formats are those of google-ai-edge/LiteRT, tflite/tools/benchmark/{benchmark_model,benchmark_tflite_model}.cc and
xla/tsl/util/stats_calculator.h. Statistics are of microseconds; builds of 2023 and newer tell the median, older ones do
not. Single runs are never told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pocketbench_agent.errors import NotAvailable
from pocketbench_agent.native import NUMBER, Ask, Statistics, Told, whole_lines
from pocketbench_agent.runtimes import OpTime, Placement

LOOPED = False
STAGES = (
    ("Running benchmark for at least", "warm_up"),
    ("Running benchmark for at least", "timed"),
    ("nference timings in us", "report"),
)
LEAVES: Sequence[str] = ()
PRECISION = "as the tool has it"
US = 1000.0
MIB = 1024 * 1024

PHASE = re.compile(r"Running benchmark for at least ")
STAT = re.compile(
    rf"^(?!.*(?:Timings|Memory) \().*\bcount=(\d+)(?: first={NUMBER})?(?: curr={NUMBER}(\(all same\))?)?"
    rf"(?: min={NUMBER} max={NUMBER} avg={NUMBER} std={NUMBER})?(?: p5={NUMBER} median={NUMBER} p95={NUMBER})?\s*$"
)
FINAL = re.compile(
    rf"nference timings in us: Init: {NUMBER}, First inference: {NUMBER}, Warmup \(avg\): {NUMBER}, "
    rf"Inference \(avg\): {NUMBER}\s*$"
)
OLD_FINAL = re.compile(rf"nference timings in us: Warmup: {NUMBER}, Init: {NUMBER}, Inference: {NUMBER}\s*$")
MEMORY = re.compile(rf"[Mm]emory footprint.*\(MB\): init={NUMBER} overall={NUMBER}\s*$")
REPLACED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]+)\) node, yielding (\d+) partitions"
)
APPLIED = re.compile(
    r"(?:Explicitly applied|Though) (\S+) delegate(?:, and the model graph will be (completely|partially) executed by "
    r"the delegate(?: w/ (\d+) delegate kernels)?| is explicitly applied, the model graph will not be executed)"
)
SPLIT = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
UNKNOWN_FLAGS = re.compile(r"Unconsumed cmdline flags: *(.+?)\s*$")
REFUSED = ("Disallowed CPU fallback detected", "Benchmarking failed", "Failed to apply", "failed to prepare")
PROFILE_BEGINS = "Profiling Info for Regular Benchmark Runs"
SUMMARY_BEGINS = "Summary by node type"
KIND = re.compile(rf"^\s*(\S.*?)\s+(\d+)\s+{NUMBER}\s+[\d.]+%\s+[\d.]+%")

FLAGS = {"gpu": "--use_gpu=true", "nnapi": "--use_nnapi=true", "xnnpack": "--use_xnnpack=true"}


@dataclass(frozen=True)
class Stat:
    """One line of statistics, microseconds."""

    runs: int
    mean: float | None
    least: float | None
    most: float | None
    median: float | None
    stdev: float | None


@dataclass(frozen=True)
class Applied:
    """What became of a delegate: how is full, partial or none."""

    delegate: str
    how: str
    kernels: int | None


@dataclass(frozen=True)
class Replaced:
    """Nodes of the graph that one delegate's took the place of."""

    taken: int
    of: int
    delegate: str
    partitions: int


@dataclass(frozen=True)
class Kind:
    """All nodes of one kind in the profile, milliseconds of one inference."""

    op: str
    nodes: int
    ms: float


@dataclass(frozen=True)
class Said:
    """What the output says: microseconds, and megabytes of 2^20 bytes."""

    warm_up: Stat | None
    timed: Stat | None
    init_us: float | None
    first_us: float | None
    mean_us: float | None
    init_mb: float | None
    applied: tuple[Applied, ...]
    replaced: tuple[Replaced, ...]
    on_gpu: tuple[int, int] | None
    unknown_flags: str
    refused: str
    profile: tuple[Kind, ...]


def arguments(ask: Ask) -> list[str]:
    """Its flags. NotAvailable for a delegate that it does not have."""
    flags = [f"--graph={ask.model}", f"--num_threads={ask.threads}"]
    flags += [f"--warmup_runs={ask.warm_up_runs}", f"--warmup_min_secs={ask.warm_up_s:g}"]
    flags += [f"--num_runs={ask.min_runs}", f"--min_secs={ask.min_time_s:g}", f"--max_secs={ask.max_time_s:g}"]
    if ask.library is not None:
        flags.append(f"--external_delegate_path={ask.library}")
        if ask.options:
            told = ";".join(f"{key}:{value}" for key, value in ask.options.items())
            flags.append(f"--external_delegate_options={told}")
    elif ask.delegate in FLAGS:
        flags.append(FLAGS[ask.delegate])
    elif ask.delegate != "cpu":
        raise NotAvailable(f"benchmark_model has no delegate {ask.delegate!r}; it has cpu, {', '.join(FLAGS)}")
    if ask.library is None:
        flags += [f"--{key}={value}" for key, value in ask.options.items()]
    if ask.signature:
        flags.append(f"--signature_to_run_for={ask.signature}")
    if ask.shapes:
        flags.append(f"--input_layer={','.join(ask.shapes)}")
        flags.append(f"--input_layer_shape={':'.join(','.join(map(str, dims)) for dims in ask.shapes.values())}")
    return [*flags, "--enable_op_profiling=true"] if ask.profile else flags


def parse(text: str) -> Said:
    """The output; what it does not say is None or empty."""
    stats: list[Stat | None] = [None, None, None]
    phase, memory, gpu = 0, None, None
    final: tuple[float | None, float | None, float | None] = (None, None, None)
    applied: list[Applied] = []
    replaced: list[Replaced] = []
    unknown = refused = ""
    for line in whole_lines(text):
        if PHASE.search(line):
            phase = min(phase + 1, 2)
        elif found := STAT.match(line):
            stats[phase] = _stat(found)
        elif found := FINAL.search(line):
            final = (float(found[1]), float(found[2]), float(found[4]))
        elif found := OLD_FINAL.search(line):
            final = (float(found[2]), None, float(found[3]))
        elif found := MEMORY.search(line):
            memory = float(found[1])
        elif found := REPLACED.search(line):
            replaced.append(Replaced(int(found[1]), int(found[2]), found[3], int(found[4])))
        elif found := APPLIED.search(line):
            how = {"completely": "full", "partially": "partial"}.get(found[2] or "", "none")
            applied.append(Applied(found[1], how, int(found[3]) if found[3] else None))
        elif found := SPLIT.search(line):
            gpu = (int(found[1]), int(found[2]))
        elif found := UNKNOWN_FLAGS.search(line):
            unknown = found[1]
        if any(word in line for word in REFUSED):
            refused = refused or line.strip()
    init, first, mean = final
    return Said(
        warm_up=stats[1],
        timed=stats[2],
        init_us=init,
        first_us=first,
        mean_us=mean,
        init_mb=memory,
        applied=tuple(applied),
        replaced=tuple(replaced),
        on_gpu=gpu,
        unknown_flags=unknown,
        refused=refused,
        profile=_profile(text),
    )


def told(text: str, ask: Ask) -> Told:
    """What the output means."""
    said = parse(text)
    return Told(
        timed=statistics(said.timed),
        warm_up=statistics(said.warm_up),
        init_ns=said.init_us and said.init_us * US,
        first_ns=said.first_us and said.first_us * US,
        model_bytes=round(said.init_mb * MIB) if said.init_mb else None,
        placement=placement(said.replaced, said.applied, said.on_gpu, ask),
        profile=tuple(op_time(kind, ask.delegate) for kind in said.profile),
        trouble=_trouble(said),
    )


def statistics(stat: Stat | None) -> Statistics | None:
    """In nanoseconds."""
    if stat is None:
        return None
    values = (stat.mean, stat.least, stat.most, stat.median, stat.stdev)
    return Statistics(stat.runs, *(None if value is None else value * US for value in values))


def op_time(kind: Kind, delegate: str) -> OpTime:
    """What a delegate has fused is one line of the profile."""
    fused = "Delegate" in kind.op
    return OpTime(
        "delegate (fused)" if fused else kind.op, delegate if fused else "cpu", kind.nodes, round(kind.ms * 1e6)
    )


def placement(
    replaced: Sequence[Replaced], applied: Sequence[Applied], on_gpu: tuple[int, int] | None, ask: Ask
) -> Placement:
    """How much the delegate took. Nodes may be replaced by a delegate that then fails, so that what the tool says at
    the end goes before; where it names no such delegate, none was applied.
    """
    if ask.delegate == "cpu":
        return Placement()
    ours = [r for r in replaced if _is(r.delegate, ask)]
    nodes = sum(r.of for r in ours)
    taken, partitions = sum(r.taken for r in ours), sum(r.partitions for r in ours)
    if on_gpu is not None and ask.delegate == "gpu":
        nodes, taken = sum(on_gpu), on_gpu[0]
    last = next((a for a in reversed(applied) if a.delegate.lower() == ask.delegate), None)
    how = last.how if last is not None else "" if ours else "none"
    if how == "none":
        taken = partitions = 0
    if how == "full" and taken < nodes:
        nodes, taken = 0, 0
    took = taken > 0 or how in ("full", "partial")
    return Placement(
        known=True,
        nodes=nodes,
        delegated=taken,
        partitions=partitions or (last.kernels or 0 if last is not None else 0),
        evidence="the tool's log",
        used=ask.delegate if took else "cpu",
        accelerated_by=(ask.library.name if ask.library else ask.delegate) if took else "",
        coverage="" if nodes else how or "none",
    )


def _is(name: str, ask: Ask) -> bool:
    """Is a delegate that calls itself so the one that was asked for?"""
    if ask.library is not None:
        return "xnnpack" not in name.lower()
    return ask.delegate in name.lower()


def _stat(found: re.Match[str]) -> Stat | None:
    runs = int(found[1])
    current = None if found[3] is None else float(found[3])
    same = found[4] is not None or (runs == 1 and found[5] is None)
    if not runs or (not same and found[7] is None):
        return None
    if same:
        return Stat(runs, current, current, current, current, None)
    median = None if found[10] is None else float(found[10])
    return Stat(runs, float(found[7]), float(found[5]), float(found[6]), median, float(found[8]))


def _trouble(said: Said) -> str:
    if said.unknown_flags:
        return f"this build does not know {said.unknown_flags}, and would have gone on without"
    if said.refused:
        return said.refused
    if said.timed is None or said.timed.mean is None:
        return ""
    if said.mean_us is not None and abs(said.mean_us - said.timed.mean) > 1e-3 * said.mean_us + 0.01:
        return f"it contradicts itself: a mean of {said.timed.mean:g} us in one line, of {said.mean_us:g} us in another"
    return ""


def _profile(text: str) -> tuple[Kind, ...]:
    """The first summary of the regular runs: further ones are of what is inside of delegates."""
    _, begins, rest = text.partition(PROFILE_BEGINS)
    _, summary, rest = rest.partition(SUMMARY_BEGINS)
    if not begins or not summary:
        return ()
    kinds = []
    for line in whole_lines(rest)[1:]:
        found = KIND.match(line)
        if found is not None:
            kinds.append(Kind(found[1], int(found[2]), float(found[3])))
        elif kinds:
            break
    return tuple(kinds)
