"""What converters have in common: tensors to trace with, silence, and errors that say what a person needs."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress.failures import NOT_WRITTEN
from pocketbench.compress.recipe import StepFailed


@contextlib.contextmanager
def exporting(what: str, inputs: Sequence[NDArray[np.float32]]) -> Iterator[tuple[Any, ...]]:
    """The inputs as tensors. Whatever the converter raises is a StepFailed: the network cannot be `what`. That a file
    cannot be written is no fault of the network's, and is raised as it is.

    Converters print whole graphs when they fail, which is swallowed.
    """
    import torch

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            yield tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs)
    except Exception as error:
        cause = _causes(error)[-1]
        if isinstance(cause, OSError) and cause.errno in NOT_WRITTEN:
            raise cause from None
        raise StepFailed(f"the network cannot be {what}: {last_cause(error)}") from error
    finally:
        logging.disable(before)


def last_cause(error: BaseException) -> str:
    """The first line of the innermost cause, with the line of the user's code where the message has it."""
    chain = _causes(error)
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    # The innermost may not know where in the network it is: what is around it does.
    told = [text for one in reversed(chain) for text in (str(one), *getattr(one, "__notes__", ()))]
    places = [line.strip() for text in told for line in text.splitlines()]
    where = next((line for line in places if line.startswith("File ") and "site-packages" not in line), "")
    return f"{type(chain[-1]).__name__}: {lines[0] if lines else ''}{f' ({where})' if where else ''}"


def _causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain
