"""An .onnx file as a .tflite file without torch: the second way, for operators that the first does not know."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from pocketbench.compress import onnx_graph
from pocketbench.compress.recipe import Inputs, Say, StepFailed
from pocketbench.convert import programs
from pocketbench.convert.from_onnx import CHECKED, alike
from pocketbench.scratch import scratch

NAME = f"onnx2tf {programs.ONNX2TF}"


def convert(source: Path, samples: Sequence[Inputs], target: Path, say: Say) -> Mapping[str, Any]:
    """Write it with static shapes, inputs and outputs as they are, named as litert-torch does. StepFailed."""
    python = programs.onnx2tf(say)
    wanted = _wanted(source, samples)
    failed = []
    for ends in (_identities, _renamed):
        # It writes into what it is given.
        with scratch() as folder:
            model = onnx_graph.load(source)
            ends(model.graph, [array.shape for array in samples[0]])
            onnx.save(model, Path(folder) / "network.onnx")
            try:
                made = _run(python, Path(folder), len(samples[0]))
                _check(made, samples, wanted)
            except StepFailed as error:
                failed.append(error)
            else:
                shutil.copyfile(made, target)
                return {"converter": NAME}
    raise failed[0]


def _wanted(source: Path, samples: Sequence[Inputs]) -> list[list[Any]]:
    session = onnx_graph.session(str(source))
    names = [one.name for one in session.get_inputs()]
    if len(names) != len(samples[0]):
        raise StepFailed(f"{source.name}: has {len(names)} inputs, calibration_batches() gives {len(samples[0])}")
    try:
        return [session.run(None, dict(zip(names, sample, strict=True))) for sample in samples[:CHECKED]]
    except Exception as error:
        raise StepFailed(f"{source.name}: does not run: {str(error).splitlines()[0]}") from error


def _run(python: Path, folder: Path, inputs: int) -> Path:
    command = [str(python), "-I", "-m", "onnx2tf", "-i", "network.onnx", "-o", "made", "--verbosity", "error"]
    # It would put channels last. And in a loop that stays one LiteRT begins with the state that the run before left.
    command += ["--keep_shape_absolutely_input_names", *map(_given, range(inputs)), "--enable_rnn_unroll"]
    try:
        done = programs.run(command, folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepFailed(f"{NAME} did not end well: {error}") from error
    made = folder / "made" / "network_float32.tflite"
    if done.returncode or not made.is_file():
        raise StepFailed(f"{NAME} made nothing of it: {programs.last_said(done)}")
    return made


def _check(made: Path, samples: Sequence[Inputs], wanted: Sequence[Sequence[Any]]) -> None:
    from pocketbench.compress import tflite_quantize

    try:
        run = tflite_quantize.runner(made)
        found = [run({_given(at): array for at, array in enumerate(one)}) for one in samples[:CHECKED]]
    except Exception as error:
        raise StepFailed(f"what {NAME} made does not run: {str(error).splitlines()[0]}") from error
    for before, after in zip(wanted, found, strict=True):
        for position, (source, result) in enumerate(zip(before, after, strict=True)):
            if source.shape != result.shape or not alike(source.astype(np.float64), result.astype(np.float64)):
                raise StepFailed(f"output {position} of what {NAME} made is not that of ONNX Runtime")


def _given(position: int) -> str:
    return f"args_{position}"


def _identities(graph: Any, shapes: Sequence[Sequence[int]]) -> None:
    """A node that does nothing at each end: at an output it keeps the layout, which onnx2tf would change in many."""
    inputs, outputs = _ends(graph, shapes)
    before = [helper.make_node("Identity", [new], [old]) for old, new in inputs.items()]
    after = [helper.make_node("Identity", [old], [new]) for old, new in outputs.items()]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def _renamed(graph: Any, shapes: Sequence[Sequence[int]]) -> None:
    """The names alone: there are networks that onnx2tf makes no sense of with a node more."""
    inputs, outputs = _ends(graph, shapes)
    for node in graph.node:
        node.input[:] = [{**inputs, **outputs}.get(name, name) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]


def _ends(graph: Any, shapes: Sequence[Sequence[int]]) -> tuple[dict[str, str], dict[str, str]]:
    """New names of inputs and outputs by the old ones; the graph has the new."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [one.name for one in graph.input if one.name not in weights]
    outputs = [(one.name, one.type.tensor_type.elem_type) for one in graph.output]
    del graph.input[:], graph.output[:], graph.value_info[:]
    for position, shape in enumerate(shapes):
        graph.input.append(helper.make_tensor_value_info(_given(position), onnx.TensorProto.FLOAT, shape))
    for position, (_, kind) in enumerate(outputs):
        graph.output.append(helper.make_tensor_value_info(f"output_{position}", kind, None))
    return (
        {old: _given(position) for position, old in enumerate(inputs)},
        {old: f"output_{position}" for position, (old, _) in enumerate(outputs)},
    )
