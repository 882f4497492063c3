"""The content-addressed blob cache: files named by their sha256, uploads that go on where they stopped."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import BinaryIO

OLD_UPLOAD_WAIT_S = 5.0
# What must stay free on the disk for events and logs while a blob comes in.
RESERVE_BYTES = 64 * 1024 * 1024
_REHASH_BYTES = 1024 * 1024
# So often what came is sent to the disk, so that the last sync has little left to wait for.
_SYNC_BYTES = 8 * 1024 * 1024


class CacheError(Exception):
    """A blob cannot be taken in: wrong hash, wrong offset, no space."""


class NoSpace(CacheError):
    """The disk is full even after old blobs were dropped."""


class BlobCache:
    """Blobs below `folder`; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._finished = threading.Condition(self._lock)
        self._uploading: set[str] = set()
        self._pinned: dict[str, int] = {}
        self._verified: dict[str, tuple[int, ...]] = {}

    def path(self, sha256: bytes) -> Path | None:
        """The complete blob's path, or None.

        Its content is hashed when this agent first sees it, and whenever the file has changed since: one that was
        altered is dropped, and is sent again.
        """
        path = self._folder / sha256.hex()
        if len(sha256) != 32 or not path.is_file():
            return None
        mark = _mark(path)
        if self._verified.get(path.name) != mark:
            with path.open("rb") as file:
                if _sha256(file).digest() != sha256:
                    path.unlink(missing_ok=True)
                    return None
            self._verified[path.name] = mark
        return path

    def committed(self, sha256: bytes) -> tuple[int, bool]:
        """(bytes on disk, complete?); an upload may go on at that offset.

        After a cut link the old upload may still be writing what it had received: it is waited for.
        """
        with self._finished:
            self._finished.wait_for(lambda: sha256.hex() not in self._uploading, OLD_UPLOAD_WAIT_S)
        return self._on_disk(sha256)

    def _on_disk(self, sha256: bytes) -> tuple[int, bool]:
        complete = self.path(sha256)
        if complete is not None:
            return complete.stat().st_size, True
        part = self._part(sha256)
        return (part.stat().st_size if part.exists() else 0), False

    def pin(self, sha256: bytes) -> None:
        """Keep this blob while a job uses it."""
        with self._lock:
            self._pinned[sha256.hex()] = self._pinned.get(sha256.hex(), 0) + 1

    def unpin(self, sha256: bytes) -> None:
        """Undo one `pin`."""
        with self._lock:
            left = self._pinned.get(sha256.hex(), 0) - 1
            if left > 0:
                self._pinned[sha256.hex()] = left
            else:
                self._pinned.pop(sha256.hex(), None)

    def put(self, sha256: bytes, offset: int, total: int, chunks: Iterator[bytes | memoryview]) -> int:
        """Append chunks from `offset` on; at `total` bytes check the hash, sync and publish.

        Returns the bytes committed. Raises CacheError where the offset is not the committed one, the hash
        differs (the partial file is dropped) or another upload of the same blob is going on; NoSpace where
        the disk is full. When the chunks end early, what came stays and the upload can be resumed.
        """
        if len(sha256) != 32:
            raise CacheError("a blob is named by 32 bytes of sha256")
        name = sha256.hex()
        complete = self.path(sha256)
        if complete is not None:
            os.utime(complete)
            self._verified[name] = _mark(complete)
            return complete.stat().st_size
        with self._lock:
            if name in self._uploading:
                raise CacheError(f"another upload of {name[:12]} is going on")
            self._uploading.add(name)
        try:
            return self._receive(sha256, offset, total, chunks)
        except OSError as error:
            if error.errno in (28, 122):  # ENOSPC, EDQUOT
                self._part(sha256).unlink(missing_ok=True)
                raise NoSpace(f"no space left for a file of {total} bytes") from error
            raise CacheError(f"cannot write to the cache: {error.strerror}") from error
        finally:
            with self._finished:
                self._uploading.discard(name)
                self._finished.notify_all()

    def _receive(self, sha256: bytes, offset: int, total: int, chunks: Iterator[bytes | memoryview]) -> int:
        part = self._part(sha256)
        committed, _ = self._on_disk(sha256)
        if offset != committed:
            raise CacheError(f"the upload starts at {offset}, but {committed} bytes are committed")
        self._make_room(total - committed)
        digest = hashlib.sha256()
        with part.open("ab", buffering=0) as file:
            if committed:
                with part.open("rb") as old:
                    digest = _sha256(old)
            committed = self._append(file, digest, committed, total, chunks)
            if committed == total:
                os.fsync(file.fileno())
        if committed < total:
            return committed
        if digest.digest() != sha256:
            part.unlink()
            raise CacheError(f"what arrived for {sha256.hex()[:12]} has another sha256; nothing was kept")
        self._verified[sha256.hex()] = _mark(part)
        part.replace(self._folder / sha256.hex())
        return committed

    @staticmethod
    def _append(
        file: FileIO, digest: hashlib._Hash, committed: int, total: int, chunks: Iterator[bytes | memoryview]
    ) -> int:
        """Write, hash and sync side by side: each of them leaves Python's lock to the others."""
        unsynced = 0
        hashed: Future[None] | None = None
        synced: Future[None] | None = None
        with ThreadPoolExecutor(2, "blob") as aside:
            for data in chunks:
                if committed + len(data) > total:
                    raise CacheError(f"more than the announced {total} bytes arrived")
                # One chunk is being hashed, one is being written: memory stays flat however large the file.
                if hashed is not None:
                    hashed.result()
                hashed = aside.submit(digest.update, data)
                _write(file, data)
                committed += len(data)
                unsynced += len(data)
                if unsynced >= _SYNC_BYTES and (synced is None or synced.done()):
                    if synced is not None:
                        synced.result()
                    synced = aside.submit(os.fdatasync, file.fileno())
                    unsynced = 0
            # A failed write-back is reported once, to whoever syncs first: to lose it would publish a broken blob.
            for waiting in (hashed, synced):
                if waiting is not None:
                    waiting.result()
        return committed

    def _part(self, sha256: bytes) -> Path:
        return self._folder / f"{sha256.hex()}.part"

    def _make_room(self, wanted: int) -> None:
        if self._free() >= wanted + RESERVE_BYTES:
            return
        with self._lock:
            keep = set(self._pinned)
        blobs = [p for p in self._folder.iterdir() if p.is_file() and p.name.split(".")[0] not in keep]
        for blob in sorted(blobs, key=lambda p: p.stat().st_mtime):
            if blob.suffix == ".part" and blob.stem in self._uploading:
                continue
            blob.unlink(missing_ok=True)
            if self._free() >= wanted + RESERVE_BYTES:
                return
        free = self._free()
        if free < wanted + RESERVE_BYTES:
            raise NoSpace(
                f"{wanted / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free on the device's disk "
                f"({RESERVE_BYTES / 1e6:.0f} MB are kept for results)"
            )

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free


def _sha256(file: BinaryIO) -> hashlib._Hash:
    digest = hashlib.sha256()
    while block := file.read(_REHASH_BYTES):
        digest.update(block)
    return digest


def _mark(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to. Not its change time: a job's link to it changes that too."""
    told = path.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns


def _write(file: FileIO, data: bytes | memoryview) -> None:
    """All of it: an unbuffered write may take less."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
