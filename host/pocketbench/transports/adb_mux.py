"""Many streams on one ADB connection, above a finished handshake.

A reader thread hands packets to their streams, a writer thread sends: the reader never waits for the socket to take
something, so that two sides that both have much to send cannot block each other.

Flow control (AOSP protocol.txt): after a WRTE the sender waits for OKAY. What arrives is acknowledged at once while a
stream holds less than WINDOW_BYTES that nobody has read, afterwards when it was read.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from collections import deque

import numpy as np

from pocketbench.transports.adb_services import LinkLost, LinkTimeout, Refused

HEADER = struct.Struct("<4sIIIII")
OPEN, OKAY, WRTE, CLSE = b"OPEN", b"OKAY", b"WRTE", b"CLSE"
# From this version of both sides on, checksums are left out.
VERSION_NO_CHECKSUM = 0x01000001
WINDOW_BYTES = 4 * 1024 * 1024
BUFFER_BYTES = 128 * 1024
# Below this a copy is cheaper than a second system call.
JOIN_BYTES = 16 * 1024
JOIN_S = 2.0


class Mux:
    """The streams of one connection. Takes the socket over."""

    def __init__(self, connection: socket.socket, maxdata: int, checksums: bool, label: str) -> None:
        self.maxdata = maxdata
        self.failure: str | None = None
        self._socket = connection
        self._socket.settimeout(None)
        self._checksums = checksums
        self._outgoing: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._streams: dict[int, MuxStream] = {}
        # Opened, and given up before the device had answered.
        self._abandoned: set[int] = set()
        self._count = 0
        self._threads = [
            threading.Thread(target=work, name=f"{label}-adb-{what}", daemon=True)
            for what, work in (("read", self._read), ("write", self._write))
        ]
        for thread in self._threads:
            thread.start()

    def open(self, service: str, timeout_s: float) -> MuxStream:
        """A stream to a service. Refused, LinkTimeout, LinkLost."""
        name = service.encode("utf-8", "surrogateescape") + b"\0"
        if len(name) > self.maxdata or b"\0" in name[:-1]:
            raise Refused(f"the device takes no service of {len(name)} bytes" if len(name) > self.maxdata else "NUL")
        with self._lock:
            if self.failure is not None:
                raise LinkLost(self.failure)
            self._count += 1
            stream = MuxStream(self, self._count)
            self._streams[stream.local] = stream
        self.post(OPEN, stream.local, 0, name)
        try:
            stream.wait_opened(timeout_s)
        except LinkTimeout:
            with self._lock:
                self._streams.pop(stream.local, None)
                if not stream.remote:
                    self._abandoned.add(stream.local)
            stream.close()
            raise
        return stream

    def post(self, command: bytes, arg0: int, arg1: int, data: bytes = b"") -> None:
        """Send soon; whether it went out shows at the streams."""
        checksum = _checksum(data) if self._checksums else 0
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        self._outgoing.put((HEADER.pack(command, arg0, arg1, len(data), checksum, magic), data))

    def forget(self, stream: MuxStream) -> None:
        """A closed stream takes no more packets."""
        with self._lock:
            self._streams.pop(stream.local, None)

    def close(self) -> None:
        """End every stream and the connection."""
        self._fail("the link was closed")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_S)
        self._socket.close()

    def _fail(self, why: str) -> None:
        with self._lock:
            if self.failure is None:
                self.failure = why
            streams = list(self._streams.values())
            self._streams.clear()
        for stream in streams:
            stream.ended(self.failure)
        self._outgoing.put(None)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _write(self) -> None:
        try:
            while (item := self._outgoing.get()) is not None:
                header, data = item
                if len(data) <= JOIN_BYTES:
                    self._socket.sendall(header + data)
                else:
                    self._socket.sendall(header)
                    self._socket.sendall(data)
        except OSError as error:
            self._fail(f"the link broke: {error}")

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb", buffering=BUFFER_BYTES) as source:
                while True:
                    raw = source.read(HEADER.size)
                    if len(raw) < HEADER.size:
                        raise EOFError
                    command, arg0, arg1, length, checksum, magic = HEADER.unpack(raw)
                    if magic != int.from_bytes(command, "little") ^ 0xFFFFFFFF or length > self.maxdata:
                        raise ValueError("a damaged packet")
                    data = source.read(length) if length else b""
                    if len(data) < length:
                        raise EOFError
                    if self._checksums and checksum != _checksum(data):
                        raise ValueError("a damaged packet")
                    self._dispatch(command, arg0, arg1, data)
        except EOFError:
            self._fail("the device closed the link")
        except (OSError, ValueError) as error:
            self._fail(f"the link broke: {error}")

    def _dispatch(self, command: bytes, remote: int, local: int, data: bytes) -> None:
        with self._lock:
            stream = self._streams.get(local)
            late = stream is None and local in self._abandoned
            self._abandoned.discard(local)
        if stream is None:
            if command == WRTE or (command == OKAY and late):
                self.post(CLSE, local, remote)
        elif command == OKAY:
            stream.acknowledged(remote)
        elif command == WRTE:
            stream.arrived(data)
        elif command == CLSE:
            self.forget(stream)
            stream.ended(None)


class MuxStream:
    """One stream; every method may be called from any thread, `read` and `write` from one each at a time."""

    def __init__(self, mux: Mux, local: int) -> None:
        self.local, self.remote = local, 0
        self._mux = mux
        self._changed = threading.Condition()
        self._incoming: deque[bytes] = deque()
        self._buffered = 0
        self._owed = False
        self._credit = False
        self._ended = False
        self._closed = False
        self._why: str | None = None

    def wait_opened(self, timeout_s: float) -> None:
        """Until the device has taken or refused it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.remote or self._ended, timeout_s):
                raise LinkTimeout(f"no answer for {timeout_s:.0f} s")
            if self._why is not None:
                raise LinkLost(self._why)
            if not self.remote:
                raise Refused("the device refused the service")

    def read(self, timeout_s: float | None) -> bytes:
        """What has come, empty at the end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._incoming or self._ended or self._closed, timeout_s):
                raise LinkTimeout(f"nothing came for {timeout_s or 0:.0f} s")
            if self._incoming:
                data = b"".join(self._incoming) if len(self._incoming) > 1 else self._incoming[0]
                self._incoming.clear()
                self._buffered = 0
                owed, self._owed = self._owed, False
                ended = self._ended or self._closed
            elif self._why is not None and not self._closed:
                raise LinkLost(self._why)
            else:
                return b""
        if owed and not ended:
            self._mux.post(OKAY, self.local, self.remote)
        return data

    def write(self, data: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """All of it, packet by packet, each within the timeout."""
        view = memoryview(data)
        for start in range(0, len(view), self._mux.maxdata):
            with self._changed:
                if not self._changed.wait_for(lambda: self._credit or self._ended or self._closed, timeout_s):
                    raise LinkTimeout(f"nothing moved for {timeout_s:.0f} s")
                if self._ended or self._closed:
                    raise LinkLost(self._why or "the device closed the stream")
                self._credit = False
            # The caller may use its buffer again while this waits to be sent.
            self._mux.post(WRTE, self.local, self.remote, bytes(view[start : start + self._mux.maxdata]))

    def readable(self) -> bool:
        """Is something there?"""
        with self._changed:
            return bool(self._incoming) or self._ended

    def close(self) -> None:
        """Tell the device, unless it was the first to close."""
        with self._changed:
            tell = not self._closed and not self._ended and self.remote != 0
            self._closed = True
            self._changed.notify_all()
        self._mux.forget(self)
        if tell:
            self._mux.post(CLSE, self.local, self.remote)

    def acknowledged(self, remote: int) -> None:
        """OKAY: opened, or the last WRTE was taken."""
        with self._changed:
            self.remote = self.remote or remote
            self._credit = True
            self._changed.notify_all()

    def arrived(self, data: bytes) -> None:
        """WRTE."""
        with self._changed:
            self._incoming.append(data)
            self._buffered += len(data)
            take = self._buffered < WINDOW_BYTES
            self._owed = not take
            self._changed.notify_all()
        if take:
            self._mux.post(OKAY, self.local, self.remote)

    def ended(self, why: str | None) -> None:
        """No more from the device; `why` where the whole link has gone."""
        with self._changed:
            tell = why is None and not self._closed and self.remote != 0
            self._ended = True
            self._why = why
            self._changed.notify_all()
        if tell:
            self._mux.post(CLSE, self.local, self.remote)


def _checksum(data: bytes) -> int:
    """The sum of the bytes; exact in 32 bits up to 16 MiB."""
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint32)) if data else 0
