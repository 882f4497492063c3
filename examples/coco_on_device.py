"""What a camera app does around YOLOv5, with numpy alone: timed on the device, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

PADDING = 114  # the grey YOLOv5 was trained with
CONFIDENCE = 0.25  # an app shows what it is sure of
OVERLAP = 0.45
CANDIDATES = 300

Floats = NDArray[np.float32]


class Tensor(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def pre(item: NDArray[np.uint8], inputs: Sequence[Tensor]) -> Floats:
    """An RGB picture [height, width, 3] on a grey canvas, in 0..1, channels where the model wants them."""
    shape = inputs[0].shape
    channels_first = shape[1] == 3
    height, width = shape[2:] if channels_first else shape[1:3]
    scale = min(width / item.shape[1], height / item.shape[0])
    inner = _resized(item, round(item.shape[0] * scale), round(item.shape[1] * scale))
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    canvas = np.full((height, width, 3), PADDING / 255, np.float32)
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None] if channels_first else canvas[None])


def post(outputs: list[Floats]) -> NDArray[Any]:
    """[n, 6]: x, y, width, height, score and class of what is there, best first."""
    rows = outputs[0][0]
    rows = rows[rows[:, 4] > CONFIDENCE]
    joint = rows[:, 5:] * rows[:, 4:5]
    classes = joint.argmax(axis=1)
    scores = joint[np.arange(len(rows)), classes]
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    order = order[scores[order] > CONFIDENCE]
    boxes, classes, scores = rows[order, :4], classes[order], scores[order]
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    area = boxes[:, 2] * boxes[:, 3]
    kept: list[int] = []
    rest = np.arange(len(order))
    while len(rest):
        best, rest = int(rest[0]), rest[1:]
        kept.append(best)
        sides = np.minimum(high[best], high[rest]) - np.maximum(low[best], low[rest])
        shared = np.clip(sides, 0, None).prod(axis=1)
        overlaps = shared > OVERLAP * (area[best] + area[rest] - shared)
        rest = rest[~(overlaps & (classes[rest] == classes[best]))]
    return np.column_stack([boxes, scores, classes])[kept]


def _resized(picture: NDArray[np.uint8], height: int, width: int) -> Floats:
    """Bilinear, [height, width, 3] in 0..1."""
    if picture.shape[:2] == (height, width):
        return picture.astype(np.float32) / np.float32(255)
    y = np.clip((np.arange(height) + 0.5) * picture.shape[0] / height - 0.5, 0, picture.shape[0] - 1)
    x = np.clip((np.arange(width) + 0.5) * picture.shape[1] / width - 0.5, 0, picture.shape[1] - 1)
    above, left = y.astype(np.intp), x.astype(np.intp)
    below, right = np.minimum(above + 1, picture.shape[0] - 1), np.minimum(left + 1, picture.shape[1] - 1)
    down, across = (y - above).astype(np.float32)[:, None, None], (x - left).astype(np.float32)[:, None]
    rows = picture[above] * (1 - down) + picture[below] * down
    found: Floats = (rows[:, left] * (1 - across) + rows[:, right] * across) * np.float32(1 / 255)
    return found
