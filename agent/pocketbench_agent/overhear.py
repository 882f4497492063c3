"""What native libraries write to stderr: often the only place where they say what they did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Overheard:
    """`text` is there once the block has ended; empty where this system has no `tee`."""

    text: str = ""


@contextmanager
def overhear() -> Iterator[Overheard]:
    """Keep a copy of what reaches file descriptor 2 in this block.

    By a process of its own: a thread could not read while a library holds Python's lock and the pipe is full, and a
    file would keep from the log what was written just before a crash.
    """
    found = Overheard()
    tee = shutil.which("tee")
    if tee is None:
        yield found
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stderr"
        sys.stderr.flush()
        before = os.dup(2)
        listener = subprocess.Popen([tee, str(copy)], stdin=subprocess.PIPE, stdout=before)
        assert listener.stdin is not None
        os.dup2(listener.stdin.fileno(), 2)
        listener.stdin.close()
        try:
            yield found
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            # What the block started may hold the other end still, and would never let it end.
            try:
                listener.wait(2.0)
            except subprocess.TimeoutExpired:
                listener.kill()
                listener.wait()
            found.text = copy.read_text(errors="replace") if copy.exists() else ""
