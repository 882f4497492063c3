"""`shell:`, `shell,v2,raw:` and `exec:`: commands that really run.

Shell protocol (AOSP shell_protocol.h): one byte id, little-endian u32 length, data. 0 stdin, 1 stdout, 2 stderr,
3 exit code (one byte), 4 close stdin, 5 window size (taken and ignored: there is no pty).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable
from typing import TypeVar

from tests.peers.adbd.connection import Connection, Options, Service, Stream

STDIN, STDOUT_ID, STDERR_ID, EXIT, CLOSE_STDIN = range(5)
FRAME = struct.Struct("<BI")
PIPE_BYTES = 64 * 1024
REAP_S = 2.0

T = TypeVar("T")
_running: set[Process] = set()
# The loop keeps weak references only.
_reaping: set[asyncio.Task[None]] = set()


async def kill_all() -> None:
    """Every command and what it started, when the daemon ends."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if _reaping:
        await asyncio.wait(_reaping, timeout=REAP_S)


def service(connection: Connection, arguments: list[str], command: str) -> Service:
    """A command's service. `arguments` are what stood between `shell` and the colon."""
    options = connection.options
    protocol = "v2" in arguments
    environment = dict(word.split("=", 1) for word in arguments if word.startswith("TERM="))

    async def run(stream: Stream) -> None:
        process = await _start(options, command, environment, separate=protocol)
        _running.add(process)
        try:
            await (_framed(stream, process) if protocol else _bare(stream, process))
        finally:
            await _end(process)

    return run


async def _start(options: Options, command: str, environment: dict[str, str], separate: bool) -> Process:
    path = f"{options.root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    argv = [*options.exec_prefix, options.shell, *(["-c", command] if command else [])]
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE if separate else STDOUT,
        cwd=options.root,
        env={**os.environ, "PATH": path, "HOME": str(options.root), **environment, **options.environment},
        start_new_session=True,
    )


async def _framed(stream: Stream, process: Process) -> None:
    assert process.stdout is not None and process.stderr is not None
    outputs = [
        asyncio.create_task(_copy(stream, process.stdout, STDOUT_ID)),
        asyncio.create_task(_copy(stream, process.stderr, STDERR_ID)),
    ]
    client = asyncio.create_task(_framed_input(stream, process))
    try:
        await _until_closed(stream, asyncio.gather(*outputs))
        code = await _until_closed(stream, process.wait())
        await stream.write(FRAME.pack(EXIT, 1) + bytes([code & 0xFF if code >= 0 else 128 - code]))
    finally:
        for task in (client, *outputs):
            task.cancel()
        await asyncio.gather(client, *outputs, return_exceptions=True)


async def _bare(stream: Stream, process: Process) -> None:
    assert process.stdout is not None
    client = asyncio.create_task(_bare_input(stream, process))
    try:
        await _until_closed(stream, _copy(stream, process.stdout, None))
        await _until_closed(stream, process.wait())
    finally:
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)


async def _until_closed(stream: Stream, work: Awaitable[T]) -> T:
    """The work's result; ConnectionResetError when the client closes the stream before it is done."""
    doing = asyncio.ensure_future(work)
    closed = asyncio.ensure_future(stream.closed.wait())
    try:
        await asyncio.wait((doing, closed), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ConnectionResetError
        return doing.result()
    finally:
        closed.cancel()
        doing.cancel()
        await asyncio.gather(doing, closed, return_exceptions=True)


async def _copy(stream: Stream, source: asyncio.StreamReader, identity: int | None) -> None:
    while data := await source.read(min(PIPE_BYTES, stream.maxdata - FRAME.size)):
        await stream.write(data if identity is None else FRAME.pack(identity, len(data)) + data)


async def _framed_input(stream: Stream, process: Process) -> None:
    assert process.stdin is not None
    while True:
        identity, length = FRAME.unpack(await stream.exactly(FRAME.size))
        data = await stream.exactly(length)
        if identity == STDIN:
            await _feed(process, data)
        elif identity == CLOSE_STDIN:
            process.stdin.close()


async def _bare_input(stream: Stream, process: Process) -> None:
    while True:
        await _feed(process, await stream.read())


async def _feed(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    # A command that reads no stdin must not stop the client.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()


async def _end(process: Process) -> None:
    """As adbd does it: SIGHUP to the command itself when the client has gone first."""
    assert process.stdin is not None
    process.stdin.close()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGHUP)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.stdin.wait_closed()
    waited = asyncio.create_task(_reap(process))
    _reaping.add(waited)
    waited.add_done_callback(_reaping.discard)
    waited.add_done_callback(lambda _: _running.discard(process))


async def _reap(process: Process) -> None:
    """Until nobody has its pipes any more: asyncio gives a process back only then."""
    assert process.stdout is not None
    for pipe in filter(None, (process.stdout, process.stderr)):
        while await pipe.read(PIPE_BYTES):
            pass
    await process.wait()
