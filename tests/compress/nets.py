"""Small networks with known faults, as .onnx and .tflite files, and real-looking inputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
SHAPE = (1, 3, 16, 16)


def samples(count: int = 24) -> list[dict[str, NDArray[np.float32]]]:
    """Inputs named `x`."""
    rng = np.random.default_rng(1)
    return [{"x": rng.random(SHAPE, dtype=np.float32)} for _ in range(count)]


def conv(path: Path, *extra: Any, change: Any = None) -> Path:
    """Two convolutions and a matrix product; `extra` nodes follow `y`, `change` may spoil the weights."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.2, (16, 8, 3, 3)),
        "b2": rng.normal(0, 0.1, 16),
        "w3": rng.normal(0, 0.3, (10, 16)),
        "b3": rng.normal(0, 0.1, 10),
    }
    if change:
        change(weights)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "fc", transB=1),
        *extra,
    ]
    return save(path, nodes, weights, {nodes[-1].output[0]: [1, 10]})


def linear(path: Path) -> Path:
    """A linear layer as it is exported on two dimensions (Gemm), and as on three (MatMul)."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(0, 0.1, (96, 768)), "b1": rng.normal(0, 0.1, 96), "w2": rng.normal(0, 0.1, (96, 10))}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["h"], "gemm", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "matmul"),
    ]
    return save(path, nodes, weights, {"y": [1, 10]})


def detector(path: Path, order: Sequence[int] = (0, 1, 2, 3), pixels: float = 640.0) -> Path:
    """A convolution whose map is decoded into boxes of hundreds of pixels and scores below one, in one tensor.

    `order` is that of its axes, channels last.
    """
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(0, 0.4, (6, 3, 3, 3)), "b1": np.zeros(6), "size": np.array(pixels)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"], "sigmoid"),
        helper.make_node("Transpose", ["s"], ["t"], "transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Split", ["t"], ["b", "k"], "split", axis=3, num_outputs=2),
        helper.make_node("Mul", ["b", "size"], ["px"], "pixels"),
        helper.make_node("Concat", ["px", "k"], ["y"], "concat", axis=3),
    ]
    shape = [1, 16, 16, 6]
    if list(order) != [0, 1, 2, 3]:
        nodes[-1].output[0] = "last"
        nodes.append(helper.make_node("Transpose", ["last"], ["y"], "order", perm=list(order)))
    return save(path, nodes, weights, {"y": [shape[axis] for axis in order]})


def save(path: Path, nodes: list[Any], weights: dict[str, NDArray[Any]], outputs: dict[str, list[int]]) -> Path:
    """Checked and written."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return path


def tflite_with_a_dead_channel(path: Path) -> Path:
    """The digits network, its second convolution's first channel all bias."""
    from ai_edge_litert.tools import flatbuffer_utils

    from pocketbench.compress import tflite_graph

    model = tflite_graph.load(DIGITS / "digits-float.tflite")
    graph = model.subgraphs[0]
    op = [op for op in graph.operators if tflite_graph._code(model, op) == 3][1]
    kernel, bias = (graph.tensors[index] for index in op.inputs[1:3])
    values = np.frombuffer(bytes(model.buffers[kernel.buffer].data), np.float32).reshape(kernel.shape).copy()
    values[0] = 0
    offsets = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.float32).copy()
    offsets[0] = 2.5
    model.buffers[kernel.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers[bias.buffer].data = np.frombuffer(offsets.tobytes(), np.uint8)
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return path
