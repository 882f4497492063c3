"""A torch network as a .tflite file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress.recipe import StepFailed, missing_extra
from pocketbench.convert.to_onnx import last_cause, quiet


def convert(
    network: Any, inputs: Sequence[NDArray[np.float32]], names: Sequence[str], target: Path
) -> Mapping[str, Any]:
    """Write it with static shapes; its inputs are named `args_0`, `args_1`, … whatever `names` says. StepFailed."""
    try:
        import litert_torch
        import torch
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    example = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs)
    with quiet(), torch.no_grad():
        try:
            litert_torch.convert(network.eval(), example).export(str(target))
        except Exception as error:
            raise StepFailed(f"the network cannot be converted to LiteRT: {last_cause(error)}") from error
    return {"converter": "litert-torch"}
