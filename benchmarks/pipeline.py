"""What the product's steps take beside the same libraries called by hand.

Arms of each step, alternating in an order shuffled anew in every round: `hand` (benchmarks/by_hand.py: the library with
the same settings on the same samples; for int8-static that means both calibrators, and the better of them on held out
samples), `step` (the product's step, its looks at the source taken out) and `stage` (step with them, a look at the
result, outputs beside the source's, provenance written into the file). Files are read and written by all; loading
libraries, networks and samples is nobody's. One thread. What is in which arm where torch networks are exported, pruned
or trained: benchmarks/pipeline_networks.py.
A ratio is the geometric mean over rounds with its 95 % t interval. Bounds for a step that takes 2 s or more by hand:
upper limit of step / hand 1.05, of stage / hand 1.25. What is faster is lost in the time of two sessions and 32 runs of
each; there the medians may differ by 0.1 s and 2 s. A miss whose interval still holds the bound says "not shown": more
rounds or a quieter machine may decide it. Where a bound cannot hold by design, the row says so.

MobileNetV2 is looked at where examples/imagenet_classification.py finds its data, digits and a net of matrix products
always.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pipeline_networks  # type: ignore[import-not-found]
from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer
from arms import Arms, Row, heads, judge, rounds  # type: ignore[import-not-found]
from by_hand import HANDS  # type: ignore[import-not-found]
from conditions import conditions  # type: ignore[import-not-found]
from onnx import TensorProto, helper, numpy_helper

from pocketbench import workload
from pocketbench.compress import (
    artifact,
    compare,
    onnx_float16,
    onnx_graph,
    onnx_quantize,
    pipeline,
    recipe,
    tflite_graph,
)
from pocketbench.compress import tflite_quantize as litert
from pocketbench.compress.artifact import Artifact
from pocketbench.compress.recipe import Context, Sample

VERSIONS = (
    "onnxruntime",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnx",
    "numpy",
    "torch",
    "torchao",
    "torch-pruning",
    "litert-torch",
)
ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 32
# ONNX Runtime has these for matrix products alone.
PRODUCTS = ("int8-dynamic", "int4-weight")


@dataclass(frozen=True)
class Network:
    """A float file, real inputs for it, and the steps to look at."""

    name: str
    path: Path
    samples: Sequence[Sample]
    steps: Sequence[str]


def main() -> int:
    """Print everything; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="for each row, after which its rounds end")
    parser.add_argument("--only", default="", help="only rows whose text contains this")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(conditions(VERSIONS))
    print(f"\n{heads()}")
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for row in chain(_files(Path(folder)), pipeline_networks.rows(Path(folder), SAMPLES)):
            if arguments.only in row.name:
                missed += judge(row, rounds(row, arguments.seconds))
    print(f"\n{conditions(VERSIONS)}")
    print("\n".join(f"MISSED: {line}" for line in missed) or "PASS: every bound holds")
    return 1 if missed else 0


def _arms(network: Network, name: str) -> Arms:
    form = network.path.suffix[1:]
    onnx_file = form == "onnx"
    graph = onnx_graph.load(network.path) if onnx_file else tflite_graph.load(network.path)
    tail = onnx_graph.tail(graph) if onnx_file else tflite_graph.tail(graph)
    runner: Callable[[Path], compare.Run] = onnx_quantize.runner if onnx_file else litert.runner
    context, by_hand = Context(network.samples), HANDS[form][name]
    target = network.path.with_name(f"made.{form}")

    def hand() -> None:
        by_hand(network.path, target, network.samples, tail)

    def step() -> None:
        with _blind():
            recipe.create(name, form).apply(network.path, target, context)

    def stage() -> None:
        one = recipe.create(name, form)
        done = one.apply(network.path, target, context)
        one.check(network.path, target)
        compare.agreement(runner(network.path), runner(target), network.samples[: pipeline.JUDGED])
        artifact.embed(target, form, {"recipe": name, "did": {key: str(value) for key, value in done.facts.items()}})

    return Arms(hand, step, stage)


@contextlib.contextmanager
def _blind() -> Iterator[None]:
    """Steps without their looks at the source."""
    with contextlib.ExitStack() as stack:
        for module, name, instead in (
            (onnx_graph, "load_float", onnx.load),
            (tflite_graph, "load_float", lambda path: flatbuffer.read_model(bytearray(path.read_bytes()))),
            (tflite_graph, "within_half", lambda _: None),
            (onnx_float16, "within_half", lambda *_: None),
            (onnx_float16, "_run", lambda *_: None),
        ):
            stack.enter_context(mock.patch.object(module, name, instead))
        yield


def _files(folder: Path) -> Iterator[Row]:
    for network in _networks(folder):
        for step in network.steps:
            yield Row(f"{network.name} {network.path.suffix[1:]} {step}", partial(_arms, network, step), {})


def _networks(folder: Path) -> Iterator[Network]:
    every = [name for name in recipe.STEPS if name in HANDS["tflite"]]
    convolutions = [name for name in every if name in HANDS["onnx"] and name not in PRODUCTS]
    yield _linear(folder / "linear.onnx")
    for name, path in (("digits", "digits.py"), ("mobilenet_v2", "imagenet_classification.py")):
        work = workload.load(ROOT / "examples" / path)
        try:
            batches = list(islice(work.module.calibration_batches(), SAMPLES))
        except (FileNotFoundError, ImportError) as error:
            print(f"{name}: not looked at: {error}")
            continue
        for form, steps in (("onnx", convolutions), ("tflite", every)):
            made: Path | str = ROOT / "examples" / "digits" / f"digits-float.{form}"
            if name != "digits":
                made = _float(work, form, folder)
            if isinstance(made, str):
                print(f"{name} {form}: not looked at: {made}")
                continue
            source = folder / f"{name}.{form}"
            source.write_bytes(made.read_bytes())
            (key,) = pipeline._inputs(source, form)
            yield Network(name, source, [{key: batch} for batch in batches], steps)


def _float(work: workload.Workload, form: str, folder: Path) -> Path | str:
    """The reference in a format, or why there is none."""
    (made,) = pipeline.make(work, [recipe.parse("fp32")], [form], folder, lambda _: None)
    return made.path if isinstance(made, Artifact) else made.why


def _linear(path: Path) -> Network:
    """Three products of 1024 x 1024, as linear layers are exported."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(3):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.03, (1024, 1024)).astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("Gemm", [f"x{layer}", f"w{layer}"], [f"y{layer}"], f"fc{layer}", transB=1))
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"], f"relu{layer}"))
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1024]) for name in ("x0", "x3")]
    graph = helper.make_graph(nodes, "net", tensors[:1], tensors[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    samples = [{"x0": rng.random((1, 1024), dtype=np.float32)} for _ in range(SAMPLES)]
    return Network("linear", path, samples, PRODUCTS)


if __name__ == "__main__":
    sys.exit(main())
