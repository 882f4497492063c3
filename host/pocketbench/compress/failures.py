"""Whatever a stage raises, as one error that a person can use; and Ctrl-C, which libraries lose."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from pocketbench.compress.recipe import StepFailed, missing_extra
from pocketbench.errors import PocketbenchError

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

# With less than this free, a disk is full.
ROOM_BYTES = 1_000_000
# By then what lost a Ctrl-C has returned.
AGAIN_S = 0.05


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Around a stage that writes below `folder`. PocketbenchError where it cannot, StepFailed with what a library said.

    A disk that is full, or may not be written, ends all: no other recipe would fare better.
    """
    try:
        yield
    except PocketbenchError:
        raise
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise StepFailed(_said(error)) from error
        raise PocketbenchError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    except Exception as error:
        # ONNX Runtime writes on a full disk without a word, and fails as it reads that again.
        if shutil.disk_usage(folder).free < ROOM_BYTES:
            raise PocketbenchError(f"{folder}: cannot be written: {os.strerror(errno.ENOSPC)}") from error
        raise StepFailed(_said(error)) from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C that comes while the garbage collector calls somebody is printed and not raised; JAX, which LiteRT's
    converter brings, is called at every collection. It is sent again.
    """
    before = sys.unraisablehook

    def lost(found: sys.UnraisableHookArgs) -> None:
        if issubclass(found.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN_S, _thread.interrupt_main).start()
        else:
            before(found)

    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = before


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"its library raised {type(error).__name__}: {lines[0] if lines else 'without a word'}"
