"""cpio archives as Linux unpacks them at boot (newc; the kernel's Documentation/driver-api/early-userspace)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"070701"
# The kernel takes several archives one after another when each fills its blocks.
BLOCK_BYTES = 512


@dataclass(frozen=True)
class Entry:
    """A file, folder or symbolic link; the target is the link's data."""

    name: str
    mode: int
    data: bytes = b""


def entries(root: Path, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """What lies below the folder and is wanted, by its name relative to it; folders come before what they hold."""
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if wanted(str((here / name).relative_to(root))))
        kept = sorted(name for name in files if wanted(str((here / name).relative_to(root))))
        for name in [*folders, *kept]:
            path = here / name
            relative, mode = str(path.relative_to(root)), path.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield Entry(relative, mode, os.fsencode(path.readlink()))
            elif stat.S_ISDIR(mode):
                yield Entry(relative, mode)
            elif stat.S_ISREG(mode):
                yield Entry(relative, mode, path.read_bytes())


def folder(name: str, mode: int = 0o755) -> Entry:
    """An empty folder."""
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, data: str | bytes, mode: int = 0o644) -> Entry:
    """A file with that content."""
    return Entry(name, stat.S_IFREG | mode, data.encode() if isinstance(data, str) else data)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def write(out: BinaryIO, found: Iterable[Entry]) -> None:
    """One archive; everything in it belongs to root."""
    written = 0
    for number, entry in enumerate(found, 1):
        written += _write(out, number, entry)
    written += _write(out, 0, Entry("TRAILER!!!", 0))
    out.write(bytes(-written % BLOCK_BYTES))


def _write(out: BinaryIO, number: int, entry: Entry) -> int:
    name = entry.name.encode("utf-8", "surrogateescape") + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device (2), of what device (2), length of the name, checksum
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    head = MAGIC + b"".join(b"%08X" % value for value in fields) + name
    head += bytes(-len(head) % 4)
    out.write(head)
    out.write(entry.data)
    padding = bytes(-len(entry.data) % 4)
    out.write(padding)
    return len(head) + len(entry.data) + len(padding)
