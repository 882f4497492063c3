"""The streams that a program is started with, or without."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

STDERR = 2


class _Forgiving(io.RawIOBase):
    """A stderr that nobody reads, or that lies on a full disk, ends no run: what it does not take is not said."""

    def fileno(self) -> int:
        """Of stderr."""
        return STDERR

    def isatty(self) -> bool:
        """Is it a terminal?"""
        return os.isatty(STDERR)

    def writable(self) -> bool:
        """Always, as far as anybody can tell."""
        return True

    def write(self, data: Any) -> int:
        """All of it, as far as anybody can tell."""
        try:
            return os.write(STDERR, data)
        except OSError:
            return len(data)


def ensure() -> None:
    """Give closed streams a place, and make stderr forgiving.

    The next file that is opened would take the number of a closed one: a library that prints would write into the
    results store. `sys.stdout` stays None where it was closed, for a report that goes nowhere is an error.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Forgiving()), encoding, errors="backslashreplace", line_buffering=True
    )
