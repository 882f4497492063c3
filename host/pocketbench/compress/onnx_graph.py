"""What is looked at in an ONNX graph: weights and their types, and the tail that no weights follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pocketbench.compress import tail as tails
from pocketbench.compress.recipe import StepFailed

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LARGEST_BYTES = 2 * 1000**3


def load(path: Path) -> Any:
    """The model. StepFailed: no ONNX, over 2 GB, weights that are not finite, operators outside the standard."""
    if path.stat().st_size > LARGEST_BYTES:
        raise StepFailed(f"{path.name}: {path.stat().st_size / 1e9:.1f} GB are more than one ONNX file can hold (2 GB)")
    try:
        model = onnx.load(path)
    except Exception as error:
        raise StepFailed(f"{path.name}: is no ONNX file: {str(error).splitlines()[0]}") from error
    custom = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if custom:
        raise StepFailed(
            f"{path.name}: has operators outside the standard, which no quantizer knows: {', '.join(custom)}"
        )
    for tensor in model.graph.initializer:
        floating = tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        if floating and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise StepFailed(f"{path.name}: weights {tensor.name!r} hold NaN or infinity")
    return model


def tail(model: Any) -> list[str]:
    """Names of the nodes after the last weights."""
    constants = {tensor.name for tensor in model.graph.initializer}

    def weighted(node: Any) -> bool:
        return node.op_type in WEIGHTED and any(name in constants for name in node.input[1:])

    nodes = tails.tail(model.graph.node, lambda node: node.input, lambda node: node.output, weighted)
    return [node.name for node in nodes]


def weights(model: Any) -> Mapping[str, int]:
    """How many weights of convolutions and matrix products there are of each type, also behind a DequantizeLinear."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    behind = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type in ("DequantizeLinear", "Cast")
    }
    found: Counter[str] = Counter()
    names = {behind.get(name, name) for node in model.graph.node if node.op_type in WEIGHTED for name in node.input[:2]}
    for name in names & set(constants):
        tensor = constants[name]
        found[TensorProto.DataType.Name(tensor.data_type).lower()] += int(np.prod(tensor.dims))
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            # Packed in bytes: how many they are stands in the node.
            size = {one.name: one.i for one in node.attribute}
            found[f"int{size.get('bits', 4)}"] += size["K"] * size["N"]
    return dict(found)


def operators(model: Any) -> Mapping[str, int]:
    """How many nodes of each kind."""
    return dict(Counter(node.op_type for node in model.graph.node))


def strip(model: Any) -> bytes:
    """The file without what exporters leave in it: stack traces, folders, operator sets that no node needs."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    used = {node.domain for node in graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used or not opset.domain]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
