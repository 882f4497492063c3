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
    network: Any, inputs: Sequence[NDArray[np.float32]], names: Sequence[str], target: Path, rounded: bool = False
) -> Mapping[str, Any]:
    """Write it with static shapes; its inputs are named `args_0`, `args_1`, … whatever `names` says. StepFailed.

    `rounded` says that integers stand in it. The converter makes floats of them, without a word, where it is not told.
    """
    try:
        import litert_torch
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    with exporting("converted to LiteRT", inputs) as example:
        settings = _rounding() if rounded else None
        network.eval()
        made = litert_torch.convert(network, example, quant_config=settings)
        # Its own export() ends the whole process, without a word, where the disk is full.
        target.write_bytes(made.model_content())
    return {"converter": "litert-torch"}


def _rounding() -> Any:
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    return QuantConfig(
        pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    )
