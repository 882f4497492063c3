"""A torch network as a .tflite file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress.recipe import missing_extra
from pocketbench.convert.exporting import exporting


def convert(
    network: Any, inputs: Sequence[NDArray[np.float32]], names: Sequence[str], target: Path
) -> Mapping[str, Any]:
    """Write it with static shapes; its inputs are named `args_0`, `args_1`, … whatever `names` says. StepFailed."""
    try:
        import litert_torch
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    with exporting("converted to LiteRT", inputs) as example:
        litert_torch.convert(network.eval(), example).export(str(target))
    return {"converter": "litert-torch"}
