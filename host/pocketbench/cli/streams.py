"""The streams that a program is started with, or without."""

from __future__ import annotations

import io
import os
import sys


class _Forgiving(io.FileIO):
    """A stderr that nobody reads, or that lies on a full disk, ends no run: what it does not take is not said."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """All of it, as far as anybody can tell."""
        try:
            return super().write(data)
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
    raw = io.BufferedWriter(_Forgiving(2, "wb", closefd=False))
    sys.stderr = io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)
