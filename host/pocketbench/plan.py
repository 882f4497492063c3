"""What is to be measured (Case) and how (Plan); the matrix of cases and the order of its rounds."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from types import MappingProxyType

from pocketbench.errors import UsageError, nearest
from pocketbench.models import ModelFile, PlacedFile

# Which runtimes read which suffix; the first is the default.
READERS: Mapping[str, tuple[str, ...]] = {
    ".tflite": ("litert", "tflite-runtime", "native"),
    ".onnx": ("onnxruntime", "native"),
    ".ort": ("onnxruntime",),
    ".param": ("ncnn", "native"),
    ".null": ("null",),
}
# The vendor's own benchmark program.
NATIVE = "native"
RUNTIMES = ("litert", "tflite-runtime", "onnxruntime", "ncnn", NATIVE, "null")
CPU = "cpu"
DELEGATES = (CPU, "gpu", "npu", "xnnpack", "qnn", "nnapi", "webgpu", "vulkan", "coreml", "acl", "openvino", "azure")
# A library that the user names, loaded in the worker: `external:PATH`.
EXTERNAL = "external"
SCENARIO = "single_stream"
SHUFFLED, ALTERNATING, MIRRORED = "shuffled", "alternating", "mirrored"
# Of a pair: what is there now, and what it is held against.
NEW, BASELINE = "new", "baseline"
# The recipe that changes nothing.
ORIGINAL = "fp32"


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime by name, with a version where one was asked for."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


@dataclass(frozen=True)
class DelegateSetup:
    """What stands behind a delegate's name: the name that runtimes know (None: the same), its options, and the files
    that are sent for it, of which the first is the library to load.
    """

    base: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    files: tuple[PlacedFile, ...] = ()


PLAIN = DelegateSetup()


@dataclass(frozen=True)
class NativeTool:
    """A vendor's benchmark program: its path on the device, or, where that is empty, the first of the files."""

    name: str
    path: str = ""
    files: tuple[PlacedFile, ...] = ()


@dataclass(frozen=True)
class Case:
    """One cell: device x model x runtime x delegate x threads x cpus x shape x scenario."""

    device: str
    model: ModelFile
    runtime: RuntimeChoice
    delegate: str = "cpu"
    threads: int = 1
    cpus: tuple[int, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    signature: str | None = None
    scenario: str = SCENARIO
    setup: DelegateSetup = PLAIN
    # Which of a pair it is, and of which pair, where the same thing is measured several times in one run.
    arm: str = ""
    pair: int = 0
    # Of runtime `native`.
    tool: NativeTool | None = None
    # What was asked for, where the device was chosen since: any of a kind.
    asked: str = ""

    @property
    def files(self) -> tuple[PlacedFile, ...]:
        """All that goes to a device for it, but for what it is fed."""
        return (*self.model.files, *self.setup.files, *(self.tool.files if self.tool is not None else ()))

    @property
    def delegate_base(self) -> str:
        """The delegate by the name that runtimes know."""
        return self.setup.base or self.delegate

    def on_cpu(self) -> Case:
        """The same on one thread of the plain CPU: what its outputs are compared with."""
        return replace(self, delegate=CPU, setup=PLAIN, threads=1, cpus=())

    @property
    def rate_hz(self) -> float | None:
        """Frames a second of the paced scenario (`paced:30`)."""
        return float(self.scenario.removeprefix("paced:")) if self.scenario.startswith("paced:") else None

    @property
    def sustained_s(self) -> float | None:
        """How long the sustained scenario lasts (`sustained:60`)."""
        return float(self.scenario.removeprefix("sustained:")) if self.scenario.startswith("sustained:") else None

    @property
    def key(self) -> str:
        """Names the cell within a run; the same cell of another run has the same key."""
        parts = {
            "device": self.asked or self.device,
            "model": [self.model.name, *([f.name, f.sha256] for f in self.model.files)],
            "runtime": str(self.runtime),
            "delegate": self.delegate,
            "threads": self.threads,
            "cpus": self.cpus,
            "shapes": self.shapes,
            "signature": self.signature,
            "scenario": self.scenario,
        }
        if self.arm:
            parts["arm"] = [self.arm, self.pair]
        if self.setup != PLAIN:
            files = [[file.name, file.sha256] for file in self.setup.files]
            parts["setup"] = [self.setup.base, self.setup.options, files]
        if self.tool is not None:
            parts["tool"] = [self.tool.name, self.tool.path, [[file.name, file.sha256] for file in self.tool.files]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """For progress and messages."""
        delegate = "" if self.delegate == CPU else f" {self.delegate}"
        arm = f" ({self.arm}, pair {self.pair + 1})" if self.arm else ""
        return f"{self.model.file_name} {self.runtime}{delegate} x{self.threads}{arm}"


@dataclass(frozen=True)
class Plan:
    """How each case is measured; times in seconds."""

    processes: int = 6
    min_runs: int = 120
    max_runs: int = 10_000
    min_time_s: float = 0.5
    max_time_s: float = 10.0
    warm_up_min_runs: int = 3
    warm_up_min_time_s: float = 0.5
    warm_up_max_time_s: float = 30.0
    cooldown_s: float | None = None
    seed: int = 0
    # The cases of a round: shuffled, or by turns in their order and in reverse; mirrored begins with the reverse.
    turns: str = SHUFFLED
    profile: bool = False
    # The energy phase: so long at work, where it is asked for; a third of it idle before and after.
    energy_s: float | None = None
    settle_s: float = 0.0

    @property
    def idle_s(self) -> float:
        """Each idle window of the energy phase."""
        return (self.energy_s or 0.0) / 3

    @property
    def deadline_s(self) -> int:
        """When the agent ends a job that hangs: a slow load, a cold accelerator, then twice the longest phases."""
        return round(120 + 2 * (self.warm_up_max_time_s + self.max_time_s))


@dataclass(frozen=True)
class Request:
    """One invocation: its cases, how they are measured, and what they are fed and scored with.

    `content` is a hash over the files of `inputs` and `workload`.
    """

    cases: tuple[Case, ...]
    plan: Plan
    inputs: str | None = None
    workload: str | None = None
    content: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    # The night of a suite that the results belong to.
    night: str | None = None

    @property
    def digest(self) -> str:
        """The same for two invocations that would measure the same: `--resume` looks for it."""
        parts = {
            "cases": [case.key for case in self.cases],
            "plan": asdict(self.plan) | {"seed": None},
            "inputs": self.inputs,
            "workload": self.workload,
            "content": self.content,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def matrix(
    devices: Sequence[str],
    models: Sequence[ModelFile],
    runtimes: Sequence[RuntimeChoice],
    delegates: Sequence[str],
    threads: Sequence[int],
    cpus: tuple[int, ...] = (),
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = (),
    signature: str | None = None,
    setups: Mapping[str, DelegateSetup] = MappingProxyType({}),
    scenario: str = SCENARIO,
) -> tuple[Case, ...]:
    """Every combination, each once; `setups` are of delegates that are more than their name.

    UsageError where a runtime reads none of the models, or a model has no reader.
    """
    pairs = [(model, runtime) for model in models for runtime in readers(model, runtimes)]
    for runtime in runtimes:
        if not any(chosen == runtime for _, chosen in pairs):
            suffixes = ", ".join(s for s, names in READERS.items() if runtime.name in names)
            raise UsageError(f"--runtime {runtime} reads {suffixes} files, and no --model is one")
    cells = (
        Case(
            device,
            model,
            runtime,
            delegate,
            count,
            cpus,
            shapes,
            signature,
            scenario,
            setup=setups.get(delegate, PLAIN),
        )
        for device, (model, runtime), delegate, count in product(devices, pairs, delegates, threads)
    )
    return tuple({cell.key: cell for cell in cells}.values())


def program(case: Case) -> tuple[object, ...]:
    """What decides a case's outputs: thread counts and cores share one score."""
    files = tuple((file.name, file.sha256) for file in case.model.files)
    return (files, str(case.runtime), case.delegate, case.setup, case.tool, case.shapes, case.signature)


def original(case: Case, cases: Sequence[Case]) -> Case | None:
    """What a compressed case is compared with: the uncompressed network in the same format, on the same device, asked
    the same way (on the CPU, where it is measured there too). None where there is none, or the case is it.
    """
    if case.arm:
        pairs = (one for one in cases if (one.arm, one.pair, one.device) == (BASELINE, case.pair, case.device))
        return next(pairs, None) if case.arm == NEW else None
    if case.model.recipe in (None, ORIGINAL):
        return None
    rank = [
        (other.delegate != CPU, other.threads != case.threads, position)
        for position, other in enumerate(cases)
        if (other.model.recipe, other.device, other.model.format) == (ORIGINAL, case.device, case.model.format)
        and (other.runtime, other.shapes, other.signature, other.scenario)
        == (case.runtime, case.shapes, case.signature, case.scenario)
    ]
    return cases[min(rank)[2]] if rank else None


def readers(model: ModelFile, runtimes: Sequence[RuntimeChoice]) -> list[RuntimeChoice]:
    """The runtimes that this model is to run on. UsageError where there is none."""
    able = READERS.get(model.suffix)
    if able is None:
        known = ", ".join(READERS)
        raise UsageError(
            f"{model.path}: no runtime reads {model.suffix or 'a file without a suffix'!s}; known: {known}"
        )
    if not runtimes:
        return [RuntimeChoice(able[0])]
    chosen = [runtime for runtime in runtimes if runtime.name in able]
    if not chosen:
        given = ", ".join(map(str, runtimes))
        raise UsageError(f"{model.path}: --runtime {given} does not read {model.suffix}; {', '.join(able)} does")
    return chosen


def parse_runtime(text: str) -> RuntimeChoice:
    """`NAME` or `NAME==VERSION`; UsageError with the nearest name for an unknown one."""
    name, _, version = text.partition("==")
    if name not in RUNTIMES:
        raise UsageError(f"unknown runtime {name!r}{nearest(name, RUNTIMES)}; known: {', '.join(RUNTIMES)}")
    return RuntimeChoice(name, version or None)


def check_delegate(name: str, own: Sequence[str] = ()) -> str:
    """The name, if it is in the vocabulary, one of the devices' own or `external:PATH`; UsageError otherwise."""
    known = tuple(dict.fromkeys((*DELEGATES, *own)))
    if name not in known and not name.startswith(f"{EXTERNAL}:"):
        raise UsageError(f"unknown delegate {name!r}{nearest(name, known)}; known: {', '.join(known)}, external:PATH")
    return name


def order(keys: Sequence[str], rounds: int, seed: int, turns: str = SHUFFLED) -> list[list[str]]:
    """For each round every key once, shuffled anew or turned round, so that drift and heat fall on all alike."""
    if turns != SHUFFLED:
        first = list(keys) if turns == ALTERNATING else list(keys)[::-1]
        return [first if number % 2 == 0 else first[::-1] for number in range(rounds)]
    shuffler = random.Random(seed)
    made = []
    for _ in range(rounds):
        shuffled = list(keys)
        shuffler.shuffle(shuffled)
        made.append(shuffled)
    return made
