"""A torch network as one .onnx file."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress.recipe import StepFailed, missing_extra

OLDEST_OPSET = 18


def convert(
    network: Any, inputs: Sequence[NDArray[np.float32]], names: Sequence[str], target: Path
) -> Mapping[str, Any]:
    """Write it with static shapes. StepFailed names the operator that cannot be exported, and where it stands."""
    try:
        import onnx
        import torch

        from pocketbench.compress import onnx_graph
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    example = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs)
    with quiet(), torch.no_grad():
        try:
            torch.onnx.export(
                network.eval(),
                example,
                str(target),
                dynamo=True,
                # A sidecar file is the default, even for small networks, and is left behind when the file moves.
                external_data=False,
                verbose=False,
                input_names=list(names),
            )
        except Exception as error:
            raise StepFailed(f"the network cannot be exported to ONNX: {last_cause(error)}") from error
    model = onnx.load(target)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < OLDEST_OPSET:
        raise StepFailed(f"the exporter wrote operator set {opset}, which it does not do well: use a newer torch")
    target.write_bytes(onnx_graph.strip(model))
    return {"opset": opset, "exporter": "torch.onnx dynamo"}


@contextlib.contextmanager
def quiet() -> Any:
    """Exporters print whole graphs when they fail; the exception says what a person needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def last_cause(error: BaseException) -> str:
    """The first line of the innermost cause, with the line of the user's code where the message has it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = next((line for line in lines if line.startswith("File ") and "site-packages" not in line), "")
    return f"{type(error).__name__}: {lines[0] if lines else ''}{f' ({where})' if where else ''}"
