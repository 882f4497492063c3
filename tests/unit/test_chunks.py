"""Chunks must be protobuf's own bytes, whoever wrote or reads them."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from pocketbench_agent import chunks
from pocketbench_agent.rpc import agent_pb2 as pb

SHA256 = bytes(range(32))


def fields(message: bytes) -> tuple[bytes, int, int, bytes] | None:
    """What our decoder sees; None where it refuses."""
    try:
        chunk = chunks.decode(message)
    except DecodeError:
        return None
    return chunk.sha256, chunk.offset, chunk.total, bytes(chunk.data)


def protobuf_fields(message: bytes) -> tuple[bytes, int, int, bytes] | None:
    """What protobuf sees; None where it refuses."""
    try:
        chunk = pb.Chunk.FromString(message)
    except DecodeError:
        return None
    return chunk.sha256, chunk.offset, chunk.total, chunk.data


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300_000])
def test_both_ways(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    ours = chunks.encode(chunks.Chunk(SHA256, 7, size + 9, data))
    theirs = pb.Chunk(sha256=SHA256, offset=7, total=size + 9, data=data).SerializeToString()
    for message in (ours, theirs):
        assert fields(message) == protobuf_fields(message) == (SHA256, 7, size + 9, data)


@given(st.data())
def test_damaged_messages_are_read_as_protobuf_reads_them(draw: st.DataObject) -> None:
    message = bytearray(pb.Chunk(sha256=SHA256, offset=3, total=99, data=b"abc" * 9).SerializeToString())
    for _ in range(draw.draw(st.integers(0, 3))):
        message[draw.draw(st.integers(0, len(message) - 1))] = draw.draw(st.integers(0, 255))
    damaged = bytes(message[: draw.draw(st.integers(0, len(message)))])
    ours = fields(damaged)
    # protobuf also skips groups, which no version of this protocol has; we refuse them.
    assert ours is None or ours == protobuf_fields(damaged)
