"""Which service an OPEN asks for, and the daemon that listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from tests.peers.adbd import shell
from tests.peers.adbd.connection import Connection, Options, Service, Stream
from tests.peers.adbd.sync import Sync

READ_BYTES = 256 * 1024
LIMIT_BYTES = 4 * 1024 * 1024


async def find(connection: Connection, name: str) -> Service | None:
    """The service of that name; None refuses the stream."""
    kind, _, rest = name.partition(":")
    word, *arguments = kind.split(",")
    if word == "shell":
        return shell.service(connection, arguments, rest)
    if kind == "exec":
        return shell.service(connection, [], rest)
    if kind == "sync":
        return lambda stream: Sync(connection.options, stream).run()
    if kind == "tcp":
        return await _tcp(rest)
    return None


async def serve(options: Options, port: int, ready: Callable[[int], None], host: str = "127.0.0.1") -> None:
    """Listen there until cancelled; `ready` is told the port."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        # asyncio's own callback in 3.11 calls a cancelled connection an error.
        with contextlib.suppress(asyncio.CancelledError):
            await Connection(options, find, reader, writer).run()
        connections.discard(task)

    server = await asyncio.start_server(connected, host, port, limit=LIMIT_BYTES)
    try:
        ready(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()
    finally:
        server.close()
        ending = list(connections)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await shell.kill_all()


async def _tcp(address: str) -> Service | None:
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host or "127.0.0.1", int(port), limit=LIMIT_BYTES)
    except (OSError, ValueError):
        return None

    async def pump(stream: Stream) -> None:
        up = asyncio.create_task(_up(stream, writer))
        try:
            while data := await reader.read(min(READ_BYTES, stream.maxdata)):
                await stream.write(data)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    return pump


async def _up(stream: Stream, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(await stream.read())
            await writer.drain()
    finally:
        # The client's end ends the target's connection, and by that the reading side.
        writer.close()
