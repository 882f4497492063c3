"""ncnn's `benchncnn`, of builds that take `param=` (2023 and newer).

The formats are those of Tencent/ncnn, benchmark/benchncnn.cpp and src/gpu.cpp. It tells least, most and mean, with two
decimals of a millisecond: no median, no load time. Weights are zeros, whatever the .bin holds, and inputs 0.01.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.native import NUMBER, Ask, Statistics, Told, whole_lines
from pocketbench_agent.ncnn_param import input_shapes
from pocketbench_agent.runtimes import Placement

LOOPED = True
STAGES = (("cooling_down =", "warm_up"),)
LEAVES: Sequence[str] = ()
PRECISION = "weights of zeros, whatever the file holds"
MS = 1_000_000.0
GPU = ("gpu", "vulkan")
OPTIONS = ("powersave", "gpu_device")
# Before the timed runs, and not to be changed.
WARM_UP, WARM_UP_GPU = 8, 10

ROW = re.compile(rf"^\s*(\S.*?)\s+min = +{NUMBER}\s+max = +{NUMBER}\s+avg = +{NUMBER}\s*$")
LOOPS = re.compile(r"^loop_count = (\d+)\s*$")
ADAPTER = re.compile(r"^\[(\d+) (.+?)\]\s+queueC=")
FAILED = (
    "find_blob_index_by_name",
    "not exists or not registered",
    "input tensor shape empty",
    "tensors while model has",
)


@dataclass(frozen=True)
class Row:
    """One network, milliseconds."""

    name: str
    least: float
    most: float
    mean: float


@dataclass(frozen=True)
class Said:
    """What the output says."""

    rows: tuple[Row, ...]
    loops: int | None
    adapters: tuple[tuple[int, str], ...]
    failed: str


def arguments(ask: Ask) -> list[str]:
    """Its arguments by position. StageError for an option that it has none for, or inputs of unknown size."""
    if ask.delegate not in ("cpu", *GPU) or ask.library is not None:
        raise NotAvailable(f"benchncnn has no delegate {ask.delegate!r}; it has cpu and vulkan")
    unknown = sorted(set(ask.options) - set(OPTIONS))
    if unknown:
        raise StageError(f"benchncnn has no option {', '.join(unknown)}; it has {', '.join(OPTIONS)}")
    gpu = ask.options.get("gpu_device", "0") if ask.delegate in GPU else "-1"
    fixed = [str(ask.loops), str(ask.threads), ask.options.get("powersave", "0"), gpu, "0"]
    # Widths come first there.
    known = {**input_shapes(ask.model.read_text(errors="replace")), **ask.shapes}
    if not known:
        raise StageError("the file does not tell the size of its input: give --shape NAME=1x3x224x224")
    shapes = [tuple(reversed(dims[1:] if len(dims) == 4 and dims[0] == 1 else dims)) for dims in known.values()]
    shown = ",".join(f"[{','.join(map(str, dims))}]" for dims in shapes)
    return [*fixed, f"param={ask.model}", f"shape={shown}"]


def parse(text: str) -> Said:
    """The output; what it does not say is None or empty."""
    rows, loops, adapters, failed = [], None, [], ""
    for line in whole_lines(text):
        if found := ROW.match(line):
            rows.append(Row(found[1], float(found[2]), float(found[3]), float(found[4])))
        elif found := LOOPS.match(line):
            loops = int(found[1])
        elif found := ADAPTER.match(line):
            adapters.append((int(found[1]), found[2]))
        elif any(word in line for word in FAILED):
            failed = failed or line.strip()
    return Said(tuple(rows), loops, tuple(adapters), failed)


def told(text: str, ask: Ask) -> Told:
    """What the output means; a build that benchmarks nets of its own has not seen ours."""
    said = parse(text)
    ours = [row for row in said.rows if Path(row.name).name == ask.model.name]
    trouble = said.failed
    if said.rows and not ours:
        trouble = f"it benchmarked {said.rows[0].name} instead: this build is too old to be given a file (param=)"
    row = ours[-1] if ours else None
    gpu = ask.delegate in GPU
    return Told(
        timed=Statistics(said.loops, row.mean * MS, row.least * MS, row.most * MS) if row and said.loops else None,
        warm_up=Statistics(WARM_UP_GPU if gpu else WARM_UP) if row else None,
        placement=_placed(said, ask) if gpu else Placement(used=ask.delegate),
        trouble=trouble,
    )


def _placed(said: Said, ask: Ask) -> Placement:
    """It does not say what took which layer. Built without Vulkan it takes the GPU's number and computes on the CPU:
    each GPU that it has is named before the model is loaded, and one that is not named has computed nothing.
    """
    adapter = dict(said.adapters).get(int(ask.options.get("gpu_device", "0")))
    if adapter is None:
        return Placement(known=True, coverage="none", used="cpu", evidence="the tool names no such GPU")
    return Placement(adapter=adapter, used=ask.delegate)
