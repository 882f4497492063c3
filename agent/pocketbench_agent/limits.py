"""What a worker may take of its device: models and vendors' libraries are not trusted with all of it."""

from __future__ import annotations

import contextlib
import resource

# A program that a driver compiles, or a profile, may be large; a disk that fills up stops the agent too.
MAX_FILE_BYTES = 4 * 1024**3
MAX_OPEN_FILES = 4096


def apply() -> None:
    """Of this process and all that it starts, for good: no core dumps, no endless files, no endless open files.

    Address space and processes have no limit: drivers of accelerators reserve terabytes, and a user's processes are
    counted over the whole system.
    """
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
    ):
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # A system that knows no such limit has none to set.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (least, least))
