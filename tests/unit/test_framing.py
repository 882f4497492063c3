"""Frames: what was written is read, and anything else is a FramingError."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench_agent import framing
from pocketbench_agent.framing import FramingError, frame, read_message, read_messages
from pocketbench_agent.rpc import agent_pb2 as pb

logs = st.builds(lambda text, seq: pb.Event(seq=seq, log=pb.LogLine(text=text)), st.text(), st.integers(0, 2**64 - 1))


class Dribble(io.RawIOBase):
    """A pipe that gives a byte or two at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1, /) -> bytes:
        taken, self._data = self._data[: min(size, 2)], self._data[min(size, 2) :]
        return taken


def read_all(data: bytes) -> list[pb.Event]:
    return list(read_messages(io.BytesIO(data), pb.Event))


@given(st.lists(logs, max_size=5))
def test_what_was_written_is_read(events: list[pb.Event]) -> None:
    data = b"".join(map(frame, events))
    assert read_all(data) == events
    assert list(read_messages(Dribble(data), pb.Event)) == events  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 70_000])
def test_lengths_about_each_byte_of_the_varint(length: int) -> None:
    tensor = pb.Tensor(data=b"x" * length)
    assert read_message(io.BytesIO(frame(tensor)), pb.Tensor) == tensor


@given(st.binary(max_size=200))
def test_random_bytes_end_cleanly_or_with_a_framing_error(data: bytes) -> None:
    try:
        read_all(data)
    except FramingError:
        return


@given(st.lists(logs, min_size=1, max_size=4), st.data())
def test_a_truncated_stream_gives_the_whole_frames_and_then_an_error(
    events: list[pb.Event], data: st.DataObject
) -> None:
    frames = [frame(event) for event in events]
    whole = b"".join(frames)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [sum(map(len, frames[: k + 1])) for k in range(len(frames))]
    got: list[pb.Event] = []
    stream = read_messages(io.BytesIO(whole[:cut]), pb.Event)
    if cut in (0, *ends):
        got += stream
    else:
        with pytest.raises(FramingError, match="stream ends"):
            got += stream
            raise AssertionError("a cut frame was not noticed")
    assert len(got) <= sum(end <= cut for end in ends)


@given(st.lists(logs, min_size=1, max_size=3), st.data())
def test_a_flipped_bit_is_a_message_or_a_framing_error(events: list[pb.Event], data: st.DataObject) -> None:
    whole = bytearray(b"".join(map(frame, events)))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read_all(bytes(whole))
    except FramingError:
        return


def test_an_absurd_length_is_refused_before_anything_is_read() -> None:
    huge = framing.MAX_FRAME_BYTES + 1
    head = bytearray()
    while huge > 0x7F:
        head.append(huge & 0x7F | 0x80)
        huge >>= 7
    head.append(huge)
    with pytest.raises(FramingError, match="is larger than"):
        read_all(bytes(head))
    with pytest.raises(FramingError, match="more than five bytes"):
        read_all(b"\xff" * 12)


def test_a_body_that_does_not_parse_names_its_kind() -> None:
    with pytest.raises(FramingError, match="a frame of 2 bytes is not a Event"):
        read_all(b"\x02\xff\xff")


def test_a_clean_end_is_no_error() -> None:
    assert read_message(io.BytesIO(b""), pb.Event) is None
    assert read_all(b"\x00") == [pb.Event()]
