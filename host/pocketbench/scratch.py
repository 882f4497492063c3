"""Folders for temporary files."""

from __future__ import annotations

import tempfile

from pocketbench.errors import UsageError


def scratch() -> tempfile.TemporaryDirectory[str]:
    """One that goes with its block. UsageError where there is room for none, which says nothing of any device."""
    try:
        return tempfile.TemporaryDirectory(prefix="pocketbench-")
    except OSError as error:
        raise UsageError(f"no folder for temporary files: {error}: set TMPDIR to one with room") from error
