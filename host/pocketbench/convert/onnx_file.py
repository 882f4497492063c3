"""An .onnx file as every step can take it: one file, weights where quantizers look, an operator set that will do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, shape_inference, version_converter

from pocketbench.compress import onnx_graph
from pocketbench.compress.recipe import StepFailed

# The first in which weights can have a scale a channel.
OLDEST_OPSET = 13
# The first of the file format that goes with it.
OLDEST_IR = 7


def convert(source: Path, target: Path) -> Mapping[str, Any]:
    """Write it; byte for byte the same where nothing stands in the way. StepFailed."""
    model = onnx_graph.load(source)
    facts: dict[str, Any] = {}
    if len(onnx_graph.files(source)) > 1:
        facts["weights"] = "brought in from other files"
    moved = onnx_graph.without_constant_nodes(model) + _inputs(model)
    if moved:
        facts["constants"] = moved
    opset = onnx_graph.opset(model)
    if opset < OLDEST_OPSET:
        model.ir_version = max(model.ir_version, OLDEST_IR)
        try:
            model = version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as error:
            raise StepFailed(
                f"{source.name}: is of operator set {opset}; steps need {OLDEST_OPSET}, to which onnx cannot bring it: "
                f"{str(error).splitlines()[0]}"
            ) from error
        facts["opset"] = f"{opset} brought to {OLDEST_OPSET}"
    if facts:
        target.write_bytes(model.SerializeToString(deterministic=True))
    else:
        shutil.copyfile(source, target)
    return {"converter": "none", **facts}


def inputs(source: Path) -> Mapping[str, tuple[str, list[int]]]:
    """Type and shape of each input by its name, in order; 0 where a dimension is open."""
    graph = onnx_graph.load(source).graph
    weights = {tensor.name for tensor in graph.initializer}
    kinds = {one.name: one.type.tensor_type for one in graph.input if one.name not in weights}
    return {
        name: (TensorProto.DataType.Name(kind.elem_type).lower(), [max(0, dim.dim_value) for dim in kind.shape.dim])
        for name, kind in kinds.items()
    }


def fix(source: Path, shapes: Mapping[str, Sequence[int]], target: Path) -> None:
    """Write it with these shapes of its inputs, and what follows from them for its outputs. StepFailed: it cannot."""
    model = onnx_graph.load(source)
    for one in model.graph.input:
        for dim, size in zip(one.type.tensor_type.shape.dim, shapes.get(one.name, ()), strict=False):
            dim.dim_value = size
    # What they are said to be, by names of open dimensions, would be believed.
    del model.graph.value_info[:]
    for one in model.graph.output:
        for dim in one.type.tensor_type.shape.dim:
            # Some write -1.
            if dim.dim_value <= 0:
                dim.Clear()
    try:
        known = shape_inference.infer_shapes(model, data_prop=True).graph.output
        for one, found in zip(model.graph.output, known, strict=True):
            one.CopyFrom(found)
        data = model.SerializeToString(deterministic=True)
        zeros = {name: np.zeros(dims, np.float32) for name, dims in shapes.items()}
        onnx_graph.session(data).run(None, zeros)
    except Exception as error:
        given = ", ".join(f"{name}={'x'.join(map(str, dims))}" for name, dims in shapes.items())
        raise StepFailed(f"{source.name}: does not run with {given}: {str(error).splitlines()[0]}") from error
    target.write_bytes(data)


def _inputs(model: Any) -> int:
    """Weights of old files are inputs as well, for a caller to replace: no more."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [one for one in graph.input if one.name not in weights]
    moved = len(graph.input) - len(kept)
    if moved:
        model.ir_version = max(model.ir_version, OLDEST_IR)
        del graph.input[:]
        graph.input.extend(kept)
    return moved
