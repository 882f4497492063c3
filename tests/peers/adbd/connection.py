"""One client's connection: handshake, streams and their flow control."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.peers.adbd import wire
from tests.peers.adbd.wire import Violation

FEATURES = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "sendrecv_v2", "delayed_ack")
BANNER = "device::ro.product.name=peer;ro.product.model=Peer;ro.product.device=peer"


@dataclass
class Options:
    """What the daemon was told."""

    root: Path
    exec_prefix: tuple[str, ...] = ()
    sync_root: Path | None = None
    shell: str = "/bin/sh"
    environment: dict[str, str] = field(default_factory=dict)
    banner: str = BANNER
    features: tuple[str, ...] = FEATURES
    version: int = wire.VERSION_NO_CHECKSUM
    maxdata: int = wire.LARGEST_MAXDATA
    # None: every client is let in.
    keys: Path | None = None
    accept_new: bool = False
    # Faults: after that many bytes from the client the link is cut, or nothing is read any more.
    cut_after: int | None = None
    hole_after: int | None = None
    # As today's adbd, which looks at no checksum, whatever version was agreed on.
    trusting: bool = False
    verbose: bool = False


Service = Callable[["Stream"], Awaitable[None]]
Finder = Callable[["Connection", str], Awaitable[Service | None]]


class StreamClosed(ConnectionError):
    """The client closed the stream, or its connection is gone."""


class Stream:
    """One OPEN. Data goes out when the client has acknowledged, and is acknowledged when it was consumed."""

    def __init__(self, connection: Connection, local: int, remote: int, window: int | None) -> None:
        self.maxdata = connection.maxdata
        self._connection = connection
        self._local, self._remote = local, remote
        # Bytes that may go out with delayed_ack; None: one packet at a time.
        self._window = window
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._writing = asyncio.Lock()
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self._unacknowledged = 0
        self._rest = bytearray()
        self.closed = asyncio.Event()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """All of it. StreamClosed when the client has gone."""
        view = memoryview(data)
        async with self._writing:
            for start in range(0, len(view), self.maxdata):
                await self._may_write.wait()
                if self.closed.is_set():
                    raise StreamClosed
                part = view[start : start + self.maxdata]
                if self._window is not None:
                    self._window -= len(part)
                if self._window is None or self._window <= 0:
                    self._may_write.clear()
                await self._connection.send(wire.WRTE, self._local, self._remote, part)

    async def read(self) -> bytes:
        """What has come; StreamClosed at the end."""
        if self._rest:
            data = bytes(self._rest)
            self._rest.clear()
            return data
        data = await self._incoming.get()
        if not data:
            self._incoming.put_nowait(b"")
            raise StreamClosed
        self._unacknowledged -= len(data)
        told = struct.pack("<i", len(data)) if self._window is not None else b""
        await self._connection.send(wire.OKAY, self._local, self._remote, told)
        return data

    async def exactly(self, count: int) -> bytes:
        """That many bytes."""
        while len(self._rest) < count:
            rest = bytes(self._rest)
            self._rest.clear()
            self._rest += rest + await self.read()
        data = bytes(memoryview(self._rest)[:count])
        del self._rest[:count]
        return data

    def arrived(self, data: bytes) -> None:
        """A WRTE. Violation where the client did not wait for its turn."""
        self._unacknowledged += len(data)
        if self._window is None and self._incoming.qsize() and not self.closed.is_set():
            raise Violation(f"stream {self._remote}: a second WRTE before OKAY")
        if self._window is not None and self._unacknowledged > wire.DELAYED_ACK_BYTES + self.maxdata:
            raise Violation(f"stream {self._remote}: {self._unacknowledged} bytes beyond its window")
        self._incoming.put_nowait(data)

    def acknowledged(self, payload: bytes) -> None:
        """An OKAY."""
        if self._window is not None:
            self._window += struct.unpack("<i", payload)[0]
        if self._window is None or self._window > 0:
            self._may_write.set()

    def gone(self) -> None:
        """No more in either direction."""
        self.closed.set()
        self._may_write.set()
        self._incoming.put_nowait(b"")


class Connection:
    """Packets of one client."""

    def __init__(
        self, options: Options, find: Finder, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.options = options
        self.maxdata = wire.FIRST_MAXDATA
        self._find = find
        self._reader, self._writer = reader, writer
        self._version = wire.VERSION_CHECKSUM
        self._delayed_ack = False
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self._authorized = options.keys is None
        self._token = b""
        self._known = _known_keys(options.keys)
        self._received = 0
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self) -> None:
        """Until the client is gone or breaks the protocol."""
        try:
            while True:
                header = wire.parse(await self._exactly(wire.HEADER.size))
                data = await self._exactly(header.length)
                self._check(header, data)
                self._handle(header, data)
        except Violation as error:
            print(f"VIOLATION {error}", file=sys.stderr, flush=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await self._end()

    async def send(self, command: bytes, arg0: int, arg1: int, data: bytes | memoryview = b"") -> None:
        """Send, and wait while the socket's buffer is full."""
        self.post(command, arg0, arg1, data)
        await self._writer.drain()

    def post(self, command: bytes, arg0: int, arg1: int, data: bytes | memoryview = b"") -> None:
        """Send without waiting: the reading loop must go on whatever the client reads."""
        summed = command in (wire.CNXN, wire.AUTH) or self._version < wire.VERSION_NO_CHECKSUM
        self._writer.write(wire.packet(command, arg0, arg1, len(data), wire.checksum(data) if summed else 0))
        if len(data):
            self._writer.write(data)

    async def _exactly(self, count: int) -> bytes:
        if not count:
            return b""
        data = await self._reader.readexactly(count)
        self._received += count
        if self.options.cut_after is not None and self._received > self.options.cut_after:
            self._writer.transport.abort()
            raise ConnectionResetError
        if self.options.hole_after is not None and self._received > self.options.hole_after:
            await asyncio.Event().wait()
        return data

    def _check(self, header: wire.Header, data: bytes) -> None:
        if header.length > max(self.maxdata, wire.FIRST_MAXDATA):
            raise Violation(f"{header.command!r} with {header.length} bytes; {self.maxdata} were agreed on")
        # adb 29 that connects again keeps to the version agreed upon before, and CNXN has no checksum then.
        again = header.command == wire.CNXN and not header.checksum
        summed = self._version < wire.VERSION_NO_CHECKSUM and not self.options.trusting
        if summed and header.checksum != wire.checksum(data) and not again:
            raise Violation(f"{header.command!r}: wrong checksum")

    def _handle(self, header: wire.Header, data: bytes) -> None:
        command = header.command
        if self.options.verbose:
            print(command.decode(errors="replace"), header.arg0, header.arg1, data[:60], file=sys.stderr, flush=True)
        if command == wire.CNXN:
            self._connect(header, data)
        elif command == wire.AUTH:
            self._authorize(header.arg0, data)
        elif not self._authorized:
            raise Violation(f"{command!r} before the client was authorized")
        elif command == wire.OPEN:
            self._start(header, data)
        elif command in (wire.OKAY, wire.WRTE, wire.CLSE):
            self._to_stream(header, data)
        else:
            raise Violation(f"unknown command {command!r}")

    def _connect(self, header: wire.Header, banner: bytes) -> None:
        self._version = min(header.arg0, self.options.version)
        self.maxdata = min(header.arg1, self.options.maxdata)
        _, _, features = banner.rstrip(b"\0").decode(errors="replace").partition("features=")
        self._delayed_ack = "delayed_ack" in features.split(",") and "delayed_ack" in self.options.features
        if self._authorized:
            self._welcome()
        else:
            self._challenge()

    def _challenge(self) -> None:
        self._token = os.urandom(wire.TOKEN_BYTES)
        self.post(wire.AUTH, wire.AUTH_TOKEN, 0, self._token)

    def _authorize(self, kind: int, data: bytes) -> None:
        if kind == wire.AUTH_SIGNATURE:
            if self._token and any(wire.signed_by(key, self._token, data) for key in self._known):
                self._authorized = True
                self._welcome()
            else:
                self._challenge()
        elif kind == wire.AUTH_PUBLIC_KEY and self.options.accept_new and self.options.keys is not None:
            text = data.rstrip(b"\0")
            self._known.append(wire.public_key(text))
            (self.options.keys / f"accepted-{len(self._known)}.pub").write_bytes(text)
            self._authorized = True
            self._welcome()
        # Else nobody taps "Allow": a phone says nothing then.

    def _welcome(self) -> None:
        banner = f"{self.options.banner};features={','.join(self.options.features)}".encode()
        self.post(wire.CNXN, self.options.version, self.options.maxdata, banner)

    def _start(self, header: wire.Header, data: bytes) -> None:
        if bool(header.arg1) != self._delayed_ack:
            raise Violation(f"OPEN with a window of {header.arg1}; delayed_ack is {self._delayed_ack}")
        self._count += 1
        stream = Stream(self, self._count, header.arg0, header.arg1 if self._delayed_ack else None)
        service = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        task = asyncio.create_task(self._serve(stream, self._count, header.arg0, service))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream, local: int, remote: int, name: str) -> None:
        service = await self._find(self, name)
        # The client may have gone at any point.
        with contextlib.suppress(ConnectionError):
            if service is None:
                await self.send(wire.CLSE, 0, remote)
                return
            self._streams[local] = stream
            window = struct.pack("<i", wire.DELAYED_ACK_BYTES) if self._delayed_ack else b""
            try:
                await self.send(wire.OKAY, local, remote, window)
                with contextlib.suppress(ConnectionError):
                    await service(stream)
            finally:
                if self._streams.pop(local, None) is not None:
                    stream.gone()
                    await self.send(wire.CLSE, local, remote)

    def _to_stream(self, header: wire.Header, data: bytes) -> None:
        stream = self._streams.get(header.arg1)
        if stream is None:
            if header.command == wire.WRTE:
                self.post(wire.CLSE, 0, header.arg0)
        elif header.command == wire.OKAY:
            stream.acknowledged(data)
        elif header.command == wire.WRTE:
            stream.arrived(data)
        else:
            del self._streams[header.arg1]
            stream.gone()
            self.post(wire.CLSE, header.arg1, header.arg0)

    async def _end(self) -> None:
        for stream in self._streams.values():
            stream.gone()
        self._streams.clear()
        if self._tasks:
            # The services see the end by themselves; what does not is cancelled.
            _, late = await asyncio.wait(self._tasks, timeout=5)
            for task in late:
                task.cancel()
        self._writer.transport.abort()


def _known_keys(folder: Path | None) -> list[RSAPublicKey]:
    if folder is None:
        return []
    return [wire.public_key(path.read_bytes()) for path in sorted(folder.glob("*.pub"))]
