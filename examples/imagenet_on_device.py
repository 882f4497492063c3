"""What an app does around a MobileNet, with numpy alone: timed on the device, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CENTRAL_FRACTION = 0.875  # of each side, kept before scaling

Floats = NDArray[np.float32]


class Tensor(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def pre(item: NDArray[np.uint8], inputs: Sequence[Tensor]) -> Floats:
    """The middle of an RGB picture [height, width, 3], in -1..1, channels where the model wants them."""
    shape = inputs[0].shape
    channels_first = shape[1] == 3
    height, width = shape[2:] if channels_first else shape[1:3]
    top, left = (round(side * (1 - CENTRAL_FRACTION) / 2) for side in item.shape[:2])
    middle = item[top : item.shape[0] - top, left : item.shape[1] - left]
    # The nearest pixel: at the network's own size there is nothing to scale.
    rows = np.arange(height) * middle.shape[0] // height
    columns = np.arange(width) * middle.shape[1] // width
    scaled = (middle[rows][:, columns].astype(np.float32) - np.float32(128)) / np.float32(128)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None] if channels_first else scaled[None])


def post(outputs: list[Floats]) -> NDArray[Any]:
    """The five best classes."""
    scores = outputs[0].ravel()
    best = np.argpartition(-scores, 5)[:5]
    found: NDArray[Any] = best[np.argsort(-scores[best])]
    return found
