"""Whatever a stage raises, as one error that a person can use."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pocketbench.compress.recipe import StepFailed, missing_extra
from pocketbench.errors import PocketbenchError

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

# With less than this free, a disk is full.
ROOM_BYTES = 1_000_000


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


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"its library raised {type(error).__name__}: {lines[0] if lines else 'without a word'}"
