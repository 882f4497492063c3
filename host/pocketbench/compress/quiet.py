"""What libraries print while they work, and what reaches the person."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pocketbench.compress.recipe import Say


@contextlib.contextmanager
def terminal() -> Iterator[Say]:
    """A `say` for stderr as it is now, whatever happens to it later."""
    with os.fdopen(os.dup(2), "w", errors="backslashreplace") as stream:

        def say(text: str) -> None:
            stream.write(f"{text}\n")
            stream.flush()

        yield say


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither Python nor C++ writes to stdout or stderr; converters print graphs, progress bars and build details."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
        finally:
            for number, original in enumerate(kept, 1):
                os.dup2(original, number)
                os.close(original)
