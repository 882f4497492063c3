"""Tiny .tflite models made on the spot: a chain of element-wise ops, so that a test decides who can run which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

# Each takes what came before; the binary ones a constant too.
BINARY = frozenset({"ADD", "MUL", "ATAN2", "FLOOR_MOD"})


def write(path: Path, ops: Sequence[str], size: int = 64, open_batch: bool = False) -> Path:
    """A model of one float32 input [1, size], or [open, size], that goes through `ops`, names of the schema's
    BuiltinOperator.
    """
    model = schema.ModelT()
    model.version, model.description = 3, "chain"
    constant = schema.BufferT()
    constant.data = np.full(size, 1.5, np.float32).view(np.uint8)
    model.buffers = [schema.BufferT(), constant]
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = [_tensor("x", size, 0), _tensor("c", size, 1)]
    graph.inputs, graph.operators, codes, last = [0], [], [], 0
    for name in ops:
        number = getattr(schema.BuiltinOperator, name)
        if number not in codes:
            codes.append(number)
        graph.tensors.append(_tensor(f"t{len(graph.tensors)}", size, 0))
        op = schema.OperatorT()
        op.opcodeIndex = codes.index(number)
        op.inputs = [last, 1] if name in BINARY else [last]
        last = len(graph.tensors) - 1
        op.outputs = [last]
        if name in ("ADD", "MUL"):
            op.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name.title()}Options")
            op.builtinOptions = schema.AddOptionsT() if name == "ADD" else schema.MulOptionsT()
        graph.operators.append(op)
    graph.outputs = [last]
    for tensor in (graph.tensors[0], *graph.tensors[2:]):
        tensor.shapeSignature = [-1, size] if open_batch else None
    model.operatorCodes = []
    for number in codes:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        model.operatorCodes.append(code)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _tensor(name: str, size: int, buffer: int) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, size], schema.TensorType.FLOAT32, buffer
    return tensor
