"""Chunks of an upload on the wire, without protobuf's own copies of their data.

The bytes are those of agent.proto's Chunk, and any protobuf implementation may be on the other side. What is saved
is two copies of every byte on each side, which is what an upload's speed hangs on where cores are few.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from pocketbench_agent.framing import varint
from pocketbench_agent.rpc import agent_pb2 as pb

_DATA = pb.Chunk.DATA_FIELD_NUMBER
_LENGTH_DELIMITED = 2


@dataclass(frozen=True)
class Chunk:
    """agent.proto's Chunk; received data is a view into the message."""

    sha256: bytes
    offset: int
    total: int
    data: bytes | memoryview


def encode(chunk: Chunk) -> bytes:
    """The message: protobuf reads concatenated fields as one message, so data can follow the small ones."""
    small = pb.Chunk(sha256=chunk.sha256, offset=chunk.offset, total=chunk.total).SerializeToString()
    tag = varint(_DATA << 3 | _LENGTH_DELIMITED)
    return b"".join((small, tag, varint(len(chunk.data)), chunk.data))


def decode(message: bytes) -> Chunk:
    """The chunk in a message, its fields in any order; DecodeError where it is none."""
    view = memoryview(message)
    data = view[:0]
    small = bytearray()
    position = 0
    while position < len(view):
        start = position
        tag, position = _varint(view, position)
        if tag & 7 != _LENGTH_DELIMITED:
            position = _skip(view, position, tag & 7)
        else:
            length, position = _varint(view, position)
            position += length
        if position > len(view):
            raise DecodeError("a chunk ends inside a field")
        if tag == _DATA << 3 | _LENGTH_DELIMITED:
            data = view[position - length : position]
        else:
            small += view[start:position]
    rest = pb.Chunk.FromString(bytes(small))
    return Chunk(rest.sha256, rest.offset, rest.total, data)


def _skip(view: memoryview, position: int, kind: int) -> int:
    if kind == 0:
        return _varint(view, position)[1]
    if kind in (1, 5):
        return position + (8 if kind == 1 else 4)
    raise DecodeError(f"a chunk has a field of wire type {kind}")


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(view[position : position + 10]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, position + index + 1
    raise DecodeError("a chunk ends inside a number")
