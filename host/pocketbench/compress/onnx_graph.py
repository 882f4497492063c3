"""What is looked at in an ONNX graph: weights and their types, and the tail that no weights follow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from pocketbench.compress import tail as tails
from pocketbench.compress.recipe import StepFailed

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul")
# Where operators have their weights that have them elsewhere: input and recurrent ones.
RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
LARGEST_BYTES = 2 * 1000**3


def files(path: Path) -> list[Path]:
    """The file, and those beside it that hold weights. StepFailed: no ONNX, over 2 GB, or one of them is not there."""
    _small_enough(path, path.stat().st_size)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise StepFailed(f"{path.name}: is no ONNX file: {str(error).splitlines()[0]}") from error
    names = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    beside = [path.parent / name for name in sorted(names)]
    for one in beside:
        if not one.is_file():
            raise StepFailed(f"{path.name}: has weights in {one.name}, which is not beside it")
    return [path, *beside]


def _small_enough(path: Path, size: int) -> None:
    if size > LARGEST_BYTES:
        raise StepFailed(f"{path.name}: {size / 1e9:.1f} GB are more than one ONNX file can hold (2 GB)")


def opset(model: Any) -> int:
    """Of the standard's operators."""
    return int(max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def load(path: Path) -> Any:
    """The model. StepFailed: no ONNX, over 2 GB, weights that are not finite, operators outside the standard."""
    _small_enough(path, sum(one.stat().st_size for one in files(path)))
    try:
        model = onnx.load(path)
    except Exception as error:
        raise StepFailed(f"{path.name}: cannot be read: {str(error).splitlines()[0]}") from error
    custom = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if custom:
        raise StepFailed(
            f"{path.name}: has operators outside the standard, which no quantizer knows: {', '.join(custom)}"
        )
    for tensor in [*model.graph.initializer, *held(model).values()]:
        floating = tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        if floating and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise StepFailed(f"{path.name}: weights {tensor.name!r} hold NaN or infinity")
    return model


def held(model: Any) -> Mapping[str, Any]:
    """Tensors that stand in nodes, by the name of what the node gives, which becomes theirs."""
    found = {
        node.output[0]: one.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for one in node.attribute
        if one.name == "value"
    }
    for name, tensor in found.items():
        tensor.name = name
    return found


def without_constant_nodes(model: Any) -> int:
    """Nodes that hold a tensor become initializers, where libraries look for weights; how many there were."""
    moved = held(model)
    if moved:
        model.graph.initializer.extend(moved.values())
        kept = [node for node in model.graph.node if node.output[0] not in moved]
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return len(moved)


def load_float(path: Path) -> Any:
    """The model that a step starts from. StepFailed as load(), and where it is not float32, but done with already."""
    model = load(path)
    others = sorted(set(weights(model)) - {"float"})
    if others:
        raise StepFailed(f"{path.name}: has weights in {', '.join(others)} already: start from the float32 network")
    return model


def name_nodes(model: Any) -> None:
    """Give every node a name of its own: quantizers leave nodes out by name, and an empty one means them all."""
    taken: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{position}_{node.output[0] if node.output else ''}"
        taken.add(node.name)


def tail(model: Any) -> list[str]:
    """Names of the nodes after the last weights."""
    constants = {tensor.name for tensor in model.graph.initializer}

    def weighted(node: Any) -> bool:
        return node.op_type in WEIGHTED and any(name in constants for name in node.input[1:])

    nodes = tails.tail(model.graph.node, lambda node: node.input, lambda node: node.output, weighted)
    return [node.name for node in nodes]


def weights(model: Any) -> Mapping[str, int]:
    """How many weights of convolutions, products, recurrent layers are of each type, also behind DequantizeLinear."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    behind = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type in ("DequantizeLinear", "Cast")
    }
    found: Counter[str] = Counter()
    names = {
        behind.get(name, name)
        for node in model.graph.node
        for name in (
            node.input[:2] if node.op_type in WEIGHTED else node.input[1:3] if node.op_type in RECURRENT else ()
        )
    }
    for name in names & set(constants):
        tensor = constants[name]
        found[TensorProto.DataType.Name(tensor.data_type).lower()] += int(np.prod(tensor.dims))
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            # Packed in bytes: how many they are stands in the node.
            size = {one.name: one.i for one in node.attribute}
            found[f"int{size.get('bits', 4)}"] += size["K"] * size["N"]
    return dict(found)


def convolutions_left(model: Any) -> tuple[list[str], list[str]]:
    """Names of convolutions whose quantized weights share one scale, and of those whose activations are float."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    scales = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    channels = {tensor.name: max(tensor.dims[:1], default=1) for tensor in model.graph.initializer}
    made_from = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    coarse, floating = [], []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in scales:
            if sizes.get(scales[node.input[1]]) == 1 and channels.get(made_from[node.input[1]], 1) > 1:
                coarse.append(node.name)
            if node.input[0] not in scales:
                floating.append(node.name)
    return coarse, floating


def unsigned_activations(model: Any) -> None:
    """The same real values in u8 instead of s8: x86 has the instructions for that, and is several times faster.

    Every zero point of an activation moves by 128; weights stay as they are.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in constants:
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.data_type != TensorProto.INT8:
            continue
        if zero.name not in made:
            made[zero.name] = f"{zero.name}_u8"
            moved = (numpy_helper.to_array(zero).astype(np.int16) + 128).astype(np.uint8)
            model.graph.initializer.append(numpy_helper.from_array(moved, made[zero.name]))
        node.input[2] = made[zero.name]
        if node.op_type == "QuantizeLinear":
            for one in [one for one in node.attribute if one.name == "output_dtype"]:
                one.i = TensorProto.UINT8
    for info in [one for one in model.graph.value_info if one.type.tensor_type.elem_type == TensorProto.INT8]:
        model.graph.value_info.remove(info)


def operators(model: Any) -> Mapping[str, int]:
    """How many nodes of each kind."""
    return dict(Counter(node.op_type for node in model.graph.node))


def session(model: str | bytes) -> Any:
    """Of a path or a model, on one thread of the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


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
