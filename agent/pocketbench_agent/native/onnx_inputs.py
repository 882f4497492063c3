"""Inputs of an .onnx whose dimensions are open, read without ONNX.

The walk is of protobuf's wire format: ModelProto.graph 7, GraphProto.input 11, ValueInfoProto.type 2,
TypeProto.tensor_type 1, Tensor.shape 2, TensorShapeProto.dim 1, Dimension.dim_value 1
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator

PATH_TO_DIMS = (2, 1, 2, 1)
DIM_VALUE = 0x08


def open_input(model: bytes) -> str:
    """The first input that has an open dimension; an empty string where none has, or the file is no such thing."""
    for graph in _fields(model, 7):
        for told in _fields(graph, 11):
            parts = [told]
            for number in PATH_TO_DIMS:
                parts = [inner for part in parts for inner in _fields(part, number)]
            if any(dim[:1] != bytes([DIM_VALUE]) or dim[1:] == b"\0" or _negative(dim[1:]) for dim in parts):
                return next(_fields(told, 1), b"?").decode(errors="replace")
    return ""


def _negative(varint: bytes) -> bool:
    """Of 64 bits with the sign set: all ten bytes are there, and the last is 1."""
    return len(varint) >= 10 and varint[9] == 1


def _fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """Every length-delimited field with that number; what does not parse ends the walk."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                return
            if tag >> 3 == wanted:
                yield data[at : at + length]
            at += length
        else:
            return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at
    return 0, len(data)
