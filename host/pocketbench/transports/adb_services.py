"""What both ways of ADB share: byte streams to a device's services, the shell protocol and sync pushes.

Sources of the formats: AOSP packages/modules/adb, shell_protocol.h (shell v2) and SYNC.TXT (sync).
"""

from __future__ import annotations

import contextlib
import stat
import struct
import time
from pathlib import Path
from typing import Protocol

from pocketbench import transports
from pocketbench.transports import Completed, Sent, unheard

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
FRAME = struct.Struct("<BI")
# A frame of more than this is no shell protocol: adbd's largest packet is 1 MiB.
FRAME_MAX = 4 * 1024 * 1024
SYNC = struct.Struct("<4sI")
SYNC_DATA_BYTES = 64 * 1024
# One write of about a packet: fifteen DATA messages and their headers fit in 1 MiB.
SYNC_MESSAGES_A_WRITE = 15
# adbd refuses longer names (file_sync_service.cpp).
SYNC_PATH_MAX = 1024
# A device writes everything back to flash before it answers DONE.
SYNC_DONE_S = 120.0
STALL_S = 30.0


class LinkError(Exception):
    """Something about the link; the transport adds the device's name and what to do."""


class LinkTimeout(LinkError):
    """Nothing moved for as long as was allowed."""


class LinkLost(LinkError):
    """The link, or the stream's other end, is gone."""


class Refused(LinkError):
    """The device or the server does not do what was asked."""


class ByteStream(Protocol):
    """A connection to one service on the device."""

    def read(self, timeout_s: float | None) -> bytes:
        """What has come, empty at the end. LinkTimeout, LinkLost."""

    def write(self, data: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """All of it; LinkTimeout when nothing moves for that long, LinkLost when the other end is gone."""

    def readable(self) -> bool:
        """Would `read` return at once?"""

    def close(self) -> None:
        """May be called twice, and from another thread."""


class Link(Protocol):
    """A device that services can be opened on."""

    def open(self) -> None:
        """Connect. NotReachable, with the remedy."""

    def stream(self, service: str, timeout_s: float) -> ByteStream:
        """Open a service. LinkError."""

    def forward(self, port: int) -> str:
        """A local `host:port` that leads to the device's loopback port. LinkError."""

    def close(self) -> None:
        """Give everything back."""


class Frames:
    """The shell protocol on a stream: one byte id, little-endian u32 length, data."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    def read(self, deadline: float | None) -> tuple[int, bytes] | None:
        """The next frame; None at the end. `deadline` is on time.monotonic's clock."""
        while True:
            if len(self._buffer) >= FRAME.size:
                identity, length = FRAME.unpack_from(self._buffer)
                if length > FRAME_MAX:
                    raise LinkLost("the device does not speak the shell protocol")
                end = FRAME.size + length
                if len(self._buffer) >= end:
                    data = bytes(memoryview(self._buffer)[FRAME.size : end])
                    del self._buffer[:end]
                    return identity, data
            more = self._stream.read(None if deadline is None else max(deadline - time.monotonic(), 0.0))
            if not more:
                return None
            self._buffer += more

    def write(self, identity: int, data: bytes, timeout_s: float) -> None:
        """One frame."""
        self._stream.write(FRAME.pack(identity, len(data)) + data, timeout_s)


def run(link: Link, line: str, timeout_s: float) -> Completed:
    """A shell command line to its end, without stdin. LinkError; LinkTimeout when it does not end in time."""
    deadline = time.monotonic() + timeout_s
    stream = link.stream(f"shell,v2,raw:{line}", timeout_s)
    try:
        frames = Frames(stream)
        # A quick command has ended, and its stream with it: what it said is there to be read all the same.
        with contextlib.suppress(LinkLost):
            frames.write(CLOSE_STDIN, b"", timeout_s)
        outputs: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        size = 0
        while (frame := frames.read(deadline)) is not None:
            identity, data = frame
            if identity == EXIT:
                return Completed(data[0], b"".join(outputs[STDOUT]), b"".join(outputs[STDERR]))
            if identity in outputs:
                outputs[identity].append(data)
                size += len(data)
            if size > transports.MOST_OUTPUT_BYTES:
                raise LinkError("it prints without end")
        raise LinkLost("the command ended without an exit code")
    except LinkTimeout:
        raise LinkTimeout(f"it did not end within {timeout_s:g} s") from None
    finally:
        stream.close()


def push(link: Link, source: Path, target: str, sent: Sent = unheard) -> None:
    """Copy a file with its mode and time by sync SEND. LinkError; Refused with the device's reason; OSError here."""
    found = source.stat()
    request = f"{target},{stat.S_IFREG | stat.S_IMODE(found.st_mode) & 0o777}".encode("utf-8", "surrogateescape")
    if len(request) > SYNC_PATH_MAX:
        raise Refused(f"the name has {len(request)} bytes, ADB takes {SYNC_PATH_MAX}")
    stream = link.stream("sync:", STALL_S)
    try:
        stream.write(SYNC.pack(b"SEND", len(request)) + request, STALL_S)
        _send(stream, source, sent)
        stream.write(SYNC.pack(b"DONE", int(found.st_mtime) & 0xFFFFFFFF), STALL_S)
        _answer(stream)
        stream.write(SYNC.pack(b"QUIT", 0), STALL_S)
    finally:
        stream.close()


def _send(stream: ByteStream, source: Path, sent: Sent) -> None:
    """The content as DATA messages; stops early where the device has already said no."""
    step = SYNC.size + SYNC_DATA_BYTES
    block = bytearray(step * SYNC_MESSAGES_A_WRITE)
    view = memoryview(block)
    with source.open("rb", buffering=0) as file:
        while True:
            filled = 0
            for _ in range(SYNC_MESSAGES_A_WRITE):
                count = file.readinto(view[filled + SYNC.size : filled + step])
                if not count:
                    break
                SYNC.pack_into(block, filled, b"DATA", count)
                filled += SYNC.size + count
            if not filled:
                return
            if stream.readable():
                _answer(stream)
                raise LinkLost("the device ended the copy early")
            stream.write(view[:filled], STALL_S)
            sent(file.tell())


def _answer(stream: ByteStream) -> None:
    deadline = time.monotonic() + SYNC_DONE_S
    buffer = bytearray()

    def exactly(count: int) -> bytes:
        while len(buffer) < count:
            try:
                more = stream.read(max(deadline - time.monotonic(), 0.0))
            except LinkTimeout:
                raise LinkTimeout(f"no answer within {SYNC_DONE_S:g} s") from None
            if not more:
                raise LinkLost("the device ended the copy without an answer")
            buffer.extend(more)
        data = bytes(buffer[:count])
        del buffer[:count]
        return data

    identity, length = SYNC.unpack(exactly(SYNC.size))
    if identity == b"FAIL":
        raise Refused(exactly(min(length, SYNC_DATA_BYTES)).decode(errors="replace"))
    if identity != b"OKAY":
        raise LinkLost(f"the device answered a copy with {identity!r}")
