"""`sync:`: files.

Every request and answer begins with a four-letter id and a little-endian u32 (SYNC.TXT, file_sync_protocol.h):

    v1  STAT path            -> STAT mode size mtime                  (zeros where there is none)
        LIST path            -> DENT mode size mtime namelen name ... DONE + 16 zero bytes
        SEND "path,mode"     DATA n ... DONE mtime -> OKAY 0 | FAIL n text
        RECV path            -> DATA n ... DONE 0 | FAIL n text
    v2  STA2 LST2 path       -> id error dev ino mode nlink uid gid size atime mtime ctime
        LIS2 path            -> DNT2 (the same) namelen name ... DONE + 72 zero bytes
        SND2 path, SND2 mode flags;  RCV2 path, RCV2 flags      then as v1; flags are compression: none here
    QUIT                     the end
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from tests.peers.adbd.connection import Options, Stream, StreamClosed

REQUEST = struct.Struct("<4sI")
STAT_V1 = struct.Struct("<4sIII")
STAT_V2 = struct.Struct("<4sIQQIIIIQqqq")
DENT_V1 = struct.Struct("<4sIIII")
SEND_V2 = struct.Struct("<4sII")
DATA_MAX = 64 * 1024
# AOSP refuses longer names.
PATH_MAX = 1024


class Sync:
    """One sync stream."""

    def __init__(self, options: Options, stream: Stream) -> None:
        self._options = options
        self._stream = stream
        self._handlers: Mapping[bytes, Callable[[bytes, str], Awaitable[None]]] = {
            b"STAT": self._stat_v1,
            b"STA2": self._stat_v2,
            b"LST2": self._stat_v2,
            b"LIST": self._list,
            b"LIS2": self._list,
            b"SEND": self._send_v1,
            b"SND2": self._send_v2,
            b"RECV": self._recv,
            b"RCV2": self._recv,
        }

    async def run(self) -> None:
        """Until QUIT, the client's end, or a request that nobody knows."""
        while True:
            identity, length = REQUEST.unpack(await self._stream.exactly(REQUEST.size))
            if identity == b"QUIT":
                return
            if length > PATH_MAX:
                await self._fail("path too long")
                return
            name = (await self._stream.exactly(length)).decode("utf-8", "surrogateescape")
            handler = self._handlers.get(identity)
            if handler is None:
                await self._fail(f"unknown command {identity!r}")
                return
            await handler(identity, name)

    def _path(self, name: str) -> Path:
        """A relative name lies below the root; an absolute one too where shells see another root."""
        if self._options.sync_root is not None:
            return self._options.sync_root / name.lstrip("/")
        return self._options.root / name

    async def _stat_v1(self, identity: bytes, name: str) -> None:
        try:
            found = self._path(name).lstat()
        except OSError:
            await self._stream.write(STAT_V1.pack(identity, 0, 0, 0))
            return
        await self._stream.write(
            STAT_V1.pack(identity, found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime) & 0xFFFFFFFF)
        )

    async def _stat_v2(self, identity: bytes, name: str) -> None:
        await self._stream.write(_stat(identity, self._path(name), follow=identity == b"STA2"))

    async def _list(self, identity: bytes, name: str) -> None:
        second = identity == b"LIS2"
        answer = bytearray()
        try:
            entries = sorted(self._path(name).iterdir())
        except OSError:
            entries = []
        for entry in entries:
            encoded = os.fsencode(entry.name)
            if second:
                answer += _stat(b"DNT2", entry, follow=False) + struct.pack("<I", len(encoded)) + encoded
                continue
            try:
                found = entry.lstat()
            except OSError:
                continue
            size, changed = found.st_size & 0xFFFFFFFF, int(found.st_mtime) & 0xFFFFFFFF
            answer += DENT_V1.pack(b"DENT", found.st_mode, size, changed, len(encoded)) + encoded
        await self._stream.write(answer + b"DONE" + bytes(72 if second else 16))

    async def _send_v1(self, identity: bytes, name: str) -> None:
        path, comma, mode = name.rpartition(",")
        if not comma or not mode.isdecimal():
            await self._fail(f"missing mode in {name!r}")
            raise StreamClosed
        await self._receive(path, int(mode))

    async def _send_v2(self, identity: bytes, name: str) -> None:
        again, mode, flags = SEND_V2.unpack(await self._stream.exactly(SEND_V2.size))
        if again != identity or flags & ~0x80000000:
            await self._fail(f"flags {flags:#x} are not supported")
            raise StreamClosed
        await self._receive(name, mode)

    async def _receive(self, name: str, mode: int) -> None:
        """Take the whole file even where it cannot be written: the client reads the answer afterwards."""
        path, error = self._path(name), None
        link, file = bytearray(), None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = None if stat.S_ISLNK(mode) else _create(path)
        except OSError as problem:
            error = problem
        try:
            while True:
                identity, length = REQUEST.unpack(await self._stream.exactly(REQUEST.size))
                if identity == b"DONE":
                    break
                if identity != b"DATA" or length > DATA_MAX:
                    await self._fail(f"invalid data message {identity!r} of {length} bytes")
                    raise StreamClosed
                data = await self._stream.exactly(length)
                if file is None:
                    link += data
                elif error is None:
                    try:
                        file.write(data)
                    except OSError as problem:
                        error = problem
        finally:
            if file is not None:
                file.close()
        if error is None:
            try:
                if file is None:
                    path.unlink(missing_ok=True)
                    path.symlink_to(link.rstrip(b"\0").decode("utf-8", "surrogateescape"))
                else:
                    path.chmod(mode & 0o777)
                    os.utime(path, (length, length))
            except OSError as problem:
                error = problem
        if error is not None:
            await self._fail(f"couldn't create file: {error.strerror}")
            return
        await self._stream.write(REQUEST.pack(b"OKAY", 0))

    async def _recv(self, identity: bytes, name: str) -> None:
        if identity == b"RCV2":
            again, flags = REQUEST.unpack(await self._stream.exactly(REQUEST.size))
            if again != identity or flags:
                await self._fail(f"flags {flags:#x} are not supported")
                raise StreamClosed
        try:
            source = self._path(name).open("rb", buffering=0)
        except OSError as error:
            await self._fail(f"open failed: {error.strerror}")
            return
        with source:
            while data := source.read(DATA_MAX):
                await self._stream.write(REQUEST.pack(b"DATA", len(data)) + data)
        await self._stream.write(REQUEST.pack(b"DONE", 0))

    async def _fail(self, text: str) -> None:
        message = text.encode("utf-8", "surrogateescape")
        await self._stream.write(REQUEST.pack(b"FAIL", len(message)) + message)


def _create(path: Path) -> BinaryIO:
    """A fresh file, as adbd makes it: what had the name before keeps its content for those who have it open."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    return path.open("wb", buffering=0)


def _stat(identity: bytes, path: Path, follow: bool) -> bytes:
    try:
        found = path.stat() if follow else path.lstat()
    except OSError as error:
        return STAT_V2.pack(identity, error.errno or 0, *[0] * 10)
    return STAT_V2.pack(
        identity,
        0,
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        int(found.st_atime),
        int(found.st_mtime),
        int(found.st_ctime),
    )
