"""Vendors' own benchmark programs as a worker: how each is called, and what its output says.

One module a tool. Each has a parser, a pure function from text to a frozen dataclass in the tool's own units, which
holds nothing that the text does not say; only whole lines count, for a process that is killed leaves a broken one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from pocketbench_agent.errors import NotAvailable
from pocketbench_agent.runtimes import OpTime, Placement

TOOLS: Mapping[str, str] = {
    "benchmark_model": "pocketbench_agent.native.benchmark_model",
    "benchmark_litert_model": "pocketbench_agent.native.benchmark_litert_model",
    "onnxruntime_perf_test": "pocketbench_agent.native.perf_test",
    "benchncnn": "pocketbench_agent.native.benchncnn",
}
# As C++ streams and printf write one; an average of a second or more comes as 1.23457e+06.
NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)"


@dataclass(frozen=True)
class Ask:
    """What one start of a tool is to do. `loops` are timed runs of a tool that counts them; times in seconds."""

    model: Path
    scratch: Path
    delegate: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    library: Path | None = None
    signature: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 1
    warm_up_runs: int = 1
    warm_up_s: float = 0.0
    min_runs: int = 1
    max_runs: int = 1
    min_time_s: float = 0.0
    max_time_s: float = 10.0
    loops: int = 1
    # A start that is not measured: it says what the tool keeps to itself while it measures.
    verbose: bool = False
    profile: bool = False


@dataclass(frozen=True)
class Statistics:
    """Of a phase, nanoseconds; None where the tool does not say."""

    runs: int
    mean_ns: float | None = None
    min_ns: float | None = None
    max_ns: float | None = None
    median_ns: float | None = None
    stdev_ns: float | None = None


@dataclass(frozen=True)
class Told:
    """What one start of a tool said. `trouble` is why nothing of it may be believed, `missing` what its build lacks;
    `samples_ns` are single runs in their order, where the tool keeps them.
    """

    timed: Statistics | None = None
    warm_up: Statistics | None = None
    samples_ns: tuple[int, ...] = ()
    init_ns: float | None = None
    first_ns: float | None = None
    model_bytes: int | None = None
    placement: Placement | None = None
    profile: tuple[OpTime, ...] = ()
    trouble: str = ""
    missing: str = ""


class Tool(Protocol):
    """A module of this package. LOOPED: the tool makes as many runs as it is told, however long they take, so that it
    is started once before to learn how long. STAGES: what a line holds when a stage of the worker begins, in
    their order. LEAVES: files of its scratch folder that are read. PRECISION: what is to be known of the weights.
    """

    LOOPED: bool
    STAGES: Sequence[tuple[str, str]]
    LEAVES: Sequence[str]
    PRECISION: str
    arguments: Callable[[Ask], list[str]]
    told: Callable[[str, Ask], Told]


def tool(name: str) -> Tool:
    """The module for a tool of that name; NotAvailable for another."""
    if name not in TOOLS:
        raise NotAvailable(f"no tool {name!r} is known; known: {', '.join(TOOLS)}")
    return cast(Tool, importlib.import_module(TOOLS[name]))


def whole_lines(text: str) -> list[str]:
    """Without what stands after the last line's end."""
    return text.split("\n")[:-1]


def emulated_by(text: str) -> str:
    """What stands in for the tool, where it says so itself (`emulated by NAME`); else an empty string."""
    marked = (line.partition("emulated by ")[2].strip() for line in whole_lines(text) if "emulated by " in line)
    return next(marked, "")
