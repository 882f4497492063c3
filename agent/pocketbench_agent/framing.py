"""Length-delimited protobuf: a varint length before each message.

The format is protobuf's own "delimited" one
(https://protobuf.dev/programming-guides/techniques/#streaming).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

MAX_FRAME_BYTES = 512 * 1024 * 1024


class FramingError(Exception):
    """The stream holds something that is not a frame."""


def frame(message: Message) -> bytes:
    """One message with its length before it."""
    body = message.SerializeToString()
    return varint(len(body)) + body


def varint(value: int) -> bytes:
    """A non-negative number in protobuf's base-128 form."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def read_message(stream: BinaryIO, kind: type[M]) -> M | None:
    """The next message, or None at a clean end of the stream.

    Raises FramingError for a truncated frame, an absurd length or bytes that do not parse.
    """
    length = _read_varint(stream)
    if length is None:
        return None
    if length > MAX_FRAME_BYTES:
        raise FramingError(f"a frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
    body = _read_exactly(stream, length)
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise FramingError(f"a frame of {length} bytes is not a {kind.__name__}") from error
    return message


def read_messages(stream: BinaryIO, kind: type[M]) -> Iterator[M]:
    """Every message until the end of the stream; FramingError as `read_message`."""
    while (message := read_message(stream, kind)) is not None:
        yield message


def _read_varint(stream: BinaryIO) -> int | None:
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            if shift:
                raise FramingError("the stream ends inside a length")
            return None
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
        shift += 7
        if shift > 35:
            raise FramingError("a length of more than five bytes")


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    parts: list[bytes] = []
    missing = length
    while missing:
        part = stream.read(missing)
        if not part:
            raise FramingError(f"the stream ends {missing} bytes before the end of a frame")
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
