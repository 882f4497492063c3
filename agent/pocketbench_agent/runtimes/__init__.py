"""Runtimes: what loads a model file and computes. One Protocol, found through a literal table."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketbench_agent.errors import NotAvailable, StageError

Array = NDArray[Any]
# A dimension of an output that only an inference decides.
OPEN = -1

RUNTIMES: Mapping[str, str] = {
    "litert": "pocketbench_agent.runtimes.litert:LiteRt",
    "tflite-runtime": "pocketbench_agent.runtimes.litert:TfliteRuntime",
    "onnxruntime": "pocketbench_agent.runtimes.onnxruntime:OnnxRuntime",
    "ncnn": "pocketbench_agent.runtimes.ncnn:Ncnn",
    "null": "pocketbench_agent.runtimes.null:Null",
}

# What a runtime does by another of its interfaces, unless the user sends a library for that delegate.
BY_DELEGATE: Mapping[tuple[str, str], str] = {
    ("litert", "gpu"): "pocketbench_agent.runtimes.litert_compiled:Compiled",
    ("litert", "npu"): "pocketbench_agent.runtimes.litert_compiled:Compiled",
}

# The Python package that must be importable for each, so that a list of runtimes needs no import of them.
PACKAGES: Mapping[str, str | None] = {
    "litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
    "onnxruntime": "onnxruntime",
    "ncnn": "ncnn",
    "null": None,
}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of the loaded model. Real value = (stored - zero_point) * scale, along `axis`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None
    alias: str | None = None


@dataclass(frozen=True)
class LoadOptions:
    """How the model is to be loaded. `shapes` are static shapes by input name; `libraries` are what the delegate
    needs, the first one to be loaded; `version` is the runtime's where a certain one was asked for.

    `plain` asks for the runtime's plain kernels, without what makes them fast: the same mathematics, rounded otherwise.
    A runtime that has but one kind ignores it.
    """

    threads: int
    delegate: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    signature: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    process_index: int = 0
    libraries: tuple[Path, ...] = ()
    plain: bool = False
    version: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """What the runtime says of the loaded model."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    precision: str = "as stored"
    signatures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where the graph runs. `known` False: the runtime cannot tell. `coverage` (full, partial, none) stands where it
    tells that, and counts no nodes. `quantized`: what passes between its nodes is rounded to integers; that can be told
    even where nothing else can.
    """

    known: bool = False
    nodes: int = 0
    delegated: int = 0
    partitions: int = 0
    on_cpu: Mapping[str, int] = field(default_factory=dict)
    evidence: str = ""
    adapter: str = ""
    used: str = "cpu"
    accelerated_by: str = ""
    coverage: str = ""
    quantized: bool = False


@dataclass(frozen=True)
class OpTime:
    """Time of all nodes of one kind in one inference. `op` of what a delegate has fused is `delegate (fused)`."""

    op: str
    runs_on: str
    nodes: int
    total_ns: int


class Runtime(Protocol):
    """A runtime in a worker. Every method may raise StageError with a message for the user.

    One that can tell where its time goes also has `profile() -> list[OpTime]`.
    """

    version: str

    def load(self, files: Sequence[Path], options: LoadOptions) -> ModelFacts:
        """Load files[0]; afterwards bind, run and read work. NotAvailable: the delegate is not installed."""

    def bind(self, arrays: Sequence[Array]) -> None:
        """Copy one array an input, of its dtype and shape, into the runtime's own memory."""

    def run(self) -> None:
        """One inference; returns when the runtime says that it is done."""

    def read(self) -> list[Array]:
        """Copy every output out; the arrays are reused by the next read."""

    def placement(self) -> Placement:
        """Which nodes the delegate took; called after the timed runs, may be slow."""

    def close(self) -> None:
        """Free the model."""


def create(name: str, class_path: str = "", delegate: str = "") -> Runtime:
    """The runtime of that name (or `module:Class` of a vendor's own) as it computes by `delegate`, which is empty where
    a library of the user's does. NotAvailable where it cannot be imported.
    """
    target = class_path or BY_DELEGATE.get((name, delegate)) or RUNTIMES.get(name)
    if target is None:
        raise NotAvailable(f"this agent knows no runtime {name!r}; it has {', '.join(sorted(RUNTIMES))}")
    module, _, attribute = target.partition(":")
    try:
        made: Runtime = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise NotAvailable(f"runtime {name} cannot be imported here: {error}") from error
    return made


def flag(name: str, text: str) -> bool:
    """An option that is on or off; StageError for anything else."""
    known = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
    if text.lower() not in known:
        raise StageError(f"option {name}: {text!r} is neither on nor off")
    return known[text.lower()]


def check_static(inputs: Sequence[tuple[str, Sequence[int | str | None]]]) -> None:
    """Raise StageError where an input still has an open dimension, with the option that closes it."""
    open_inputs = [(n, dims) for n, dims in inputs if any(not isinstance(d, int) or d < 0 for d in dims)]
    if not open_inputs:
        return
    name, dims = open_inputs[0]
    shown = ", ".join(str(d) if isinstance(d, int) and d >= 0 else str(d or "?") for d in dims)
    hint = "x".join(str(d) if isinstance(d, int) and d >= 0 else "N" for d in dims)
    raise StageError(f"input {name!r} has open dimensions [{shown}]: give --shape '{name}={hint}' with numbers")


def check_shapes(shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Sequence[int | str | None]]) -> None:
    """Raise StageError where --shape names no input or contradicts a fixed dimension."""
    for name, wanted in shapes.items():
        if name not in inputs:
            raise StageError(f"--shape names {name!r}, but the inputs are {', '.join(map(repr, inputs))}")
        have = inputs[name]
        fits = len(have) == len(wanted) and all(
            not isinstance(h, int) or h < 0 or h == w for h, w in zip(have, wanted, strict=False)
        )
        if not fits:
            shown = "x".join(str(h if isinstance(h, int) and h >= 0 else "?") for h in have)
            raise StageError(f"--shape {name}={'x'.join(map(str, wanted))} does not fit the file's {shown}")


def dtype_name(dtype: Any) -> str:
    """numpy's name of a dtype; StageError for what has no fixed size (strings)."""
    kind = np.dtype(dtype)
    if kind.kind not in "biufc":
        raise StageError(f"tensors of type {kind} cannot be benchmarked")
    return str(kind.name)
