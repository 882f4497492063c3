"""ONNX Runtime's `onnxruntime_perf_test`.

The formats are those of microsoft/onnxruntime, onnxruntime/test/perftest/{performance_runner,ort_test_session}.cc: a
line of text for each figure, and for each run a line of a file (model, seconds, bytes, percent, number), so that its
samples are known. It makes one warm-up run alone: more are asked for, and the first of them are the warm-up. Where the
nodes went is in ONNX Runtime's verbose log (core/framework/session_state.cc), which is asked for in a start of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.native import NUMBER, Ask, Statistics, Told, whole_lines
from pocketbench_agent.native.onnx_inputs import open_input
from pocketbench_agent.runtimes import Placement

LOOPED = True
STAGES = (("Session creation time cost", "timed"), ("Total inference requests", "report"))
PRECISION = "as the tool has it"
RESULTS = "results.csv"
LEAVES = (RESULTS,)
MS, S = 1_000_000.0, 1_000_000_000.0
CPU = "CPUExecutionProvider"

# The tool's word for a provider, and how that calls itself in the log.
PROVIDERS: Mapping[str, tuple[str, str]] = {
    "npu": ("qnn", "QNN"),
    "qnn": ("qnn", "QNN"),
    "gpu": ("webgpu", "WebGpu"),
    "webgpu": ("webgpu", "WebGpu"),
    "nnapi": ("nnapi", "Nnapi"),
    "xnnpack": ("xnnpack", "Xnnpack"),
    "coreml": ("coreml", "CoreML"),
    "acl": ("acl", "ACL"),
    "openvino": ("openvino", "OpenVINO"),
}

CREATION = re.compile(rf"^\s*Session creation time cost: {NUMBER} s\s*$")
FIRST = re.compile(r"^\s*First inference time cost: (\d+) ms\s*$")
REQUESTS = re.compile(r"^\s*Total inference requests: (\d+)\s*$")
MEAN = re.compile(rf"^\s*Average inference time cost: {NUMBER} ms\s*$")
PLACED = re.compile(r"(?:Node\(s\)|All nodes) placed on \[(\w+)\]\. Number of nodes: (\d+)\s*$")
ON_CPU = re.compile(r"(?:\]|^) {2,}(\w+) \(.*\)\s*$")
MISSING = re.compile(r"(\w+ is not supported in this build|not included in this tool)")
FAILED = ("caught exception", "Load model from", "failed to initialize", "there is no test data", "Exception")
# From the right: the name of the folder, which stands first, may hold commas.
SAMPLE = re.compile(rf"^.*,{NUMBER},(\d+),(-?\d+),(\d+)\s*$")


@dataclass(frozen=True)
class Said:
    """What the output says: seconds, milliseconds, nodes by provider and those on the CPU by kind."""

    creation_s: float | None
    first_ms: int | None
    requests: int | None
    mean_ms: float | None
    placed: tuple[tuple[str, int], ...]
    on_cpu: tuple[str, ...]
    missing: str
    failed: str


def arguments(ask: Ask) -> list[str]:
    """Its arguments; inputs are its own (`-I`). NotAvailable for a provider that it has no word for."""
    if ask.delegate != "cpu" and ask.delegate not in PROVIDERS:
        known = ", ".join(("cpu", *PROVIDERS))
        raise NotAvailable(f"onnxruntime_perf_test has no provider {ask.delegate!r}; it has {known}")
    if ask.shapes:
        raise NotAvailable("onnxruntime_perf_test takes no --shape: make the file's dimensions fixed")
    name = open_input(ask.model.read_bytes())
    if name:
        raise StageError(
            f"input {name!r} has open dimensions, which this tool makes 1 without a word: fix them in the file"
        )
    given = {key: value for key, value in ask.options.items() if "." not in key}
    session = {key: value for key, value in ask.options.items() if "." in key}
    if ask.delegate == "cpu" and given:
        raise StageError(f"onnxruntime_perf_test on the CPU has no option {', '.join(sorted(given))}")
    word = PROVIDERS[ask.delegate][0] if ask.delegate != "cpu" else "cpu"
    flags = ["-I", "-S", "1", "-e", word, "-x", str(ask.threads), "-y", "1", "-m", "times"]
    flags += ["-r", str(ask.loops + ask.warm_up_runs)]
    if given:
        flags += ["-i", " ".join(f"{key}|{value}" for key, value in given.items())]
    if session:
        flags += ["-C", " ".join(f"{key}|{value}" for key, value in session.items())]
    if ask.verbose:
        flags.append("-v")
    return [*flags, str(ask.model), str(ask.scratch / RESULTS)]


def parse(text: str) -> Said:
    """The output; what it does not say is None or empty."""
    creation = first = requests = mean = None
    placed: list[tuple[str, int]] = []
    on_cpu: list[str] = []
    missing = failed = provider = ""
    for line in whole_lines(text):
        if found := PLACED.search(line):
            provider = found[1]
            placed.append((provider, int(found[2])))
        elif provider == CPU and (found := ON_CPU.search(line)):
            on_cpu.append(found[1])
        else:
            provider = ""
        if found := CREATION.match(line):
            creation = float(found[1])
        elif found := FIRST.match(line):
            first = int(found[1])
        elif found := REQUESTS.match(line):
            requests = int(found[1])
        elif found := MEAN.match(line):
            mean = float(found[1])
        elif found := MISSING.search(line):
            missing = found[1]
        elif any(word in line for word in FAILED):
            failed = failed or line.strip()
    return Said(creation, first, requests, mean, tuple(placed), tuple(on_cpu), missing, failed)


def samples(text: str) -> tuple[float, ...]:
    """Seconds of each run, in the file of results."""
    return tuple(float(found[1]) for line in whole_lines(text) if (found := SAMPLE.match(line)))


def told(text: str, ask: Ask) -> Told:
    """What the output and the file of results mean; runs before `warm_up_runs` are warm-up."""
    said = parse(text)
    kept = [round(seconds * S) for seconds in samples(_read(ask.scratch / RESULTS))]
    trouble = said.failed
    if said.requests is not None and kept and said.requests != len(kept):
        trouble = f"it contradicts itself: {said.requests} runs in its output, {len(kept)} in its file"
    return Told(
        timed=Statistics(said.requests, said.mean_ms and said.mean_ms * MS) if said.requests else None,
        samples_ns=tuple(kept),
        init_ns=said.creation_s and said.creation_s * S,
        # Whole milliseconds: 0 is none.
        first_ns=said.first_ms * MS if said.first_ms else None,
        placement=placement(said, ask),
        trouble=trouble,
        missing=said.missing,
    )


def placement(said: Said, ask: Ask) -> Placement:
    """Nodes by provider, as the log has them; a provider fuses what it takes, so that one node may be many."""
    if ask.delegate == "cpu" or not said.placed:
        return Placement()
    name = PROVIDERS[ask.delegate][1].lower()
    taken = sum(count for provider, count in said.placed if provider.lower().startswith(name))
    return Placement(
        known=True,
        nodes=sum(count for _, count in said.placed),
        delegated=taken,
        partitions=0,
        on_cpu={op: said.on_cpu.count(op) for op in dict.fromkeys(said.on_cpu)},
        evidence="the tool's verbose log",
        used=ask.delegate if taken else "cpu",
        accelerated_by=PROVIDERS[ask.delegate][1] if taken else "",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
