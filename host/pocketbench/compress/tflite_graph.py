"""What is looked at, and mended, in a .tflite file: weights and their types, dead channels, the tail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer
from numpy.typing import NDArray

from pocketbench.compress import recipe
from pocketbench.compress import tail as tails
from pocketbench.compress.recipe import StepFailed

# Of the schema's BuiltinOperator (litert/core/schema/schema.fbs): CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED,
# TRANSPOSE_CONV, BATCH_MATMUL, with the places of weights and bias.
WEIGHTED: Mapping[int, tuple[int, int]] = {3: (1, 2), 4: (1, 2), 9: (1, 2), 67: (1, 3), 126: (1, 3)}
DEPTHWISE = 4
# ADD, MUL, SUB, DIV: they repeat the smaller operand.
ELEMENTWISE = (0, 18, 41, 42)
# TensorType of the same schema.
TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 7: "int16", 9: "int8", 17: "int4"}
# A channel whose weights are all smaller is dead: what it gives is its bias.
DEAD = 1e-4


def load(path: Path) -> Any:
    """The model, as ai-edge-quantizer reads it. StepFailed: no .tflite, weights that are not finite."""
    try:
        model = flatbuffer.read_model(bytearray(path.read_bytes()))
    except Exception as error:
        raise StepFailed(f"{path.name}: is no .tflite file: {error}") from error
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            data = _data(model, tensor)
            if data is not None and tensor.type == 0 and not np.isfinite(data).all():
                raise StepFailed(f"{path.name}: weights {_name(tensor)!r} hold NaN or infinity")
    return model


def load_float(path: Path) -> Any:
    """The model that a step starts from. StepFailed as load(), and where it is not float32, but done with already."""
    model = load(path)
    others = sorted(set(weights(model)) - {"float32"})
    if others:
        raise StepFailed(f"{path.name}: has weights in {', '.join(others)} already: start from the float32 network")
    return model


def within_half(model: Any) -> None:
    """StepFailed: weights that half precision cannot hold."""
    for graph in model.subgraphs:
        weighted = [op for op in graph.operators if _code(model, op) in WEIGHTED]
        for tensor in (graph.tensors[index] for op in weighted for index in op.inputs[1:] if index >= 0):
            if tensor.type == 0 and (values := _data(model, tensor)) is not None:
                recipe.within_half(f"weights {_name(tensor)!r} reach", values)


def operators(model: Any) -> Mapping[str, int]:
    """How many operators of each kind, by the schema's number."""
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return dict(Counter(str(codes[op.opcodeIndex]) for graph in model.subgraphs for op in graph.operators))


def weights(model: Any) -> Mapping[str, int]:
    """How many weights of convolutions and matrix products there are of each type, also behind a DEQUANTIZE."""
    found: Counter[str] = Counter()
    for graph in model.subgraphs:
        made_from = {op.outputs[0]: op.inputs[0] for op in graph.operators if _code(model, op) == 6}
        seen = set()
        for op in graph.operators:
            code = _code(model, op)
            if code in WEIGHTED:
                index = op.inputs[WEIGHTED[code][0]]
                index = made_from.get(index, index)
                tensor = graph.tensors[index]
                if index not in seen and _data(model, tensor) is not None:
                    seen.add(index)
                    found[TYPES.get(tensor.type, str(tensor.type))] += int(np.prod(tensor.shape))
    return dict(found)


def tail(model: Any) -> list[str]:
    """Scopes, as the quantizer's rules name operators, of all after the last weights."""
    graph = model.subgraphs[0]

    def weighted(op: Any) -> bool:
        code = _code(model, op)
        return code in WEIGHTED and _data(model, graph.tensors[op.inputs[WEIGHTED[code][0]]]) is not None

    operators = tails.tail(graph.operators, lambda op: op.inputs, lambda op: op.outputs, weighted)
    return [flatbuffer.get_op_scope(op, graph.tensors) for op in operators]


def revive_dead_channels(model: Any) -> tuple[bytes, int]:
    """One small weight in each channel that has none but a bias: the file, and how many there were.

    ai-edge-quantizer 0.10 gives such a channel the smallest scale there is, in which its bias does not fit: it
    saturates, and what the channel contributes is lost. A weight of 1e-4 changes no output that anybody could tell.
    """
    revived = 0
    for graph in model.subgraphs:
        for op in graph.operators:
            code = _code(model, op)
            if code not in WEIGHTED or len(op.inputs) <= WEIGHTED[code][1]:
                continue
            kernel, bias = (graph.tensors[op.inputs[place]] for place in WEIGHTED[code])
            values, offsets = _data(model, kernel), _data(model, bias)
            if values is None or offsets is None or kernel.type != 0:
                continue
            values = values.reshape(kernel.shape).copy()
            axis = values.ndim - 1 if code == DEPTHWISE else 0
            channels = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
            dead = (np.abs(channels).max(axis=1) < DEAD) & (np.abs(offsets) > 0)
            if dead.any():
                centre = tuple(size // 2 for size in np.moveaxis(values, axis, 0).shape[1:])
                view = np.moveaxis(values, axis, 0)
                view[(np.flatnonzero(dead), *(np.full(int(dead.sum()), at) for at in centre))] = DEAD
                model.buffers[kernel.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
                revived += int(dead.sum())
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), revived


def shrink_repeats(model: Any) -> int:
    """Constants that only repeat themselves along an axis, where the arithmetic repeats them by itself: bytes saved.

    Grids and anchors of a detector are such. In int8 they would weigh little; its tail stays float, where they are a
    sixth of the file.
    """
    saved = 0
    holders = Counter(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)
    for graph in model.subgraphs:
        uses = Counter(int(index) for op in graph.operators for index in op.inputs)
        for op in graph.operators:
            if _code(model, op) not in ELEMENTWISE:
                continue
            for index, other in (op.inputs, op.inputs[::-1]):
                tensor, shape = graph.tensors[index], list(graph.tensors[index].shape)
                values = _data(model, tensor)
                alone = uses[int(index)] == 1 and holders[tensor.buffer] == 1
                if values is None or not alone or tensor.type != 0 or list(graph.tensors[other].shape) != shape:
                    continue
                if _data(model, graph.tensors[other]) is not None:
                    continue
                full = values.reshape(shape)
                for axis in range(full.ndim):
                    if (full == full.take([0], axis)).all():
                        full = full.take([0], axis)
                if full.nbytes < values.nbytes:
                    saved += values.nbytes - full.nbytes
                    tensor.shape = tensor.shapeSignature = np.array(full.shape, np.int32)
                    model.buffers[tensor.buffer].data = np.frombuffer(full.tobytes(), np.uint8)
    return saved


def saturated_biases(model: Any) -> list[str]:
    """Names of int32 biases at the end of their range: what a quantizer leaves of a channel that it could not hold."""
    found = []
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = _data(model, tensor)
            if (
                data is not None
                and tensor.type == 2
                and data.size > 1
                and (np.abs(data.astype(np.int64)) >= 2**31 - 1).any()
            ):
                found.append(_name(tensor))
    return found


def _code(model: Any, op: Any) -> int:
    code = model.operatorCodes[op.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _data(model: Any, tensor: Any) -> NDArray[Any] | None:
    data = model.buffers[tensor.buffer].data
    dtype = TYPES.get(tensor.type)
    if data is None or dtype is None:
        return None
    if dtype == "int4":
        # Two to a byte, the first in the lower half.
        packed = np.frombuffer(bytes(data), np.int8)
        found = np.stack([(packed << 4) >> 4, packed >> 4], axis=-1).reshape(-1)[: int(np.prod(tensor.shape))]
    else:
        found = np.frombuffer(bytes(data), dtype)
    return found if found.size else None


def _name(tensor: Any) -> str:
    return tensor.name.decode(errors="replace") if isinstance(tensor.name, bytes) else str(tensor.name)
