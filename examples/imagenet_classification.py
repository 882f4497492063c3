"""ImageNet classification: top-1 (and top-5) over 872 labelled images, one of each class from 128 on.

Set POCKETBENCH_DATA to the folder that holds imagenet1k_sample_256.zip: RGB JPEGs of 256 x 256
pixels and labels.tsv (file name, class 0..999, ...), read in place. The model takes one RGB image
in -1..1, channels first or last, of any size, and answers with 1000 or 1001 class scores.

What is compressed is MobileNetV2, mobilenet_v2_1.0_224-float.onnx: in the same folder, or in the
folder onnx beside it. Images 0..127 calibrate and are not scored; they show one class each.

The images most likely come from the training set, so the numbers are for comparing models and
devices with one another, not for quoting as ImageNet accuracy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from pocketbench.workload import Score, TensorInfo

ARCHIVE = "imagenet1k_sample_256.zip"
NETWORK = "mobilenet_v2_1.0_224-float.onnx"
CALIBRATION = 128  # images, from the first
CLASSES = 1000
CENTRAL_FRACTION = 0.875  # of each side, kept before scaling: as in the MobileNets' evaluation


class Predict(Protocol):
    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...
    def __call__(self, array: NDArray[np.float32], /) -> list[NDArray[Any]]: ...


def model() -> Path:
    """The float network: float32 [1, 3, 224, 224] in -1..1 to logits [1, 1001]."""
    return _file(NETWORK, f"../onnx/{NETWORK}")


def calibration_batches() -> Iterator[NDArray[np.float32]]:
    """Images 0..127, each float32 [1, 3, 224, 224] in -1..1."""
    image_module = _pillow()
    for image, _ in islice(_samples(image_module), CALIBRATION):
        yield _input(image, 224, 224, True, image_module)


def device_pipeline() -> tuple[Path, list[NDArray[np.uint8]]]:
    """What an app does with a picture on the device, and four pictures."""
    pictures = [np.asarray(image) for image, _ in islice(_samples(_pillow()), 4)]
    return Path(__file__).with_name("imagenet_on_device.py"), pictures


def score(predict: Predict) -> Score:
    """Top-1 over images 128..999 as a fraction; each item is 1.0 (right) or 0.0 (wrong).

    predict: float32 [1, H, W, 3] or [1, 3, H, W] in -1..1 -> class scores [1, 1000] or [1, 1001].
    """
    image_module = _pillow()
    height, width, channels_first = _input_geometry(predict.inputs[0])
    ranks = []
    for image, label in islice(_samples(image_module), CALIBRATION, None):
        scores = predict(_input(image, height, width, channels_first, image_module))[0]
        ranks.append(_rank(scores, label))
    ranked = np.array(ranks)
    return Score(
        metric="top-1",
        per_item=(ranked == 0).astype(np.float64),
        others={"top-5": float((ranked < 5).mean())},
    )


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        message = "This workload reads JPEG files with Pillow: pip install 'pocketbench[examples]'."
        raise ImportError(message) from error
    return Image


def _file(*places: str) -> Path:
    """The first of these that the data folder has."""
    folder = os.environ.get("POCKETBENCH_DATA")
    found = [path for place in places if folder and (path := Path(folder) / place).is_file()]
    if not found:
        now = f"not in {folder}" if folder else "it is not set"
        raise FileNotFoundError(f"Set POCKETBENCH_DATA to the folder of {places[0]} ({now}).")
    return found[0]


def _samples(image_module: ModuleType) -> Iterator[tuple[Any, int]]:
    """The images, in RGB, each with its class 0..999."""
    with ZipFile(_file(ARCHIVE)) as archive:
        for row in archive.read("labels.tsv").decode().splitlines():
            name, label = row.split("\t")[:2]
            with archive.open(name) as file:
                yield image_module.open(file).convert("RGB"), int(label)


def _input_geometry(info: TensorInfo) -> tuple[int, int, bool]:
    """Height, width, channels first or not: from the shape, as the layout may be unknown."""
    match info.shape:
        case (1, 3, height, width) if height > 0 and width > 0:
            return height, width, True
        case (1, height, width, 3) if height > 0 and width > 0:
            return height, width, False
    raise ValueError(f"Input {info.name!r} of shape {list(info.shape)} is not one RGB image.")


def _input(image: Any, height: int, width: int, channels_first: bool, image_module: ModuleType) -> NDArray[np.float32]:
    """The middle of the image, [1, height, width, 3] or [1, 3, height, width], in -1..1."""
    margin_x = round(image.width * (1 - CENTRAL_FRACTION) / 2)
    margin_y = round(image.height * (1 - CENTRAL_FRACTION) / 2)
    middle = image.crop((margin_x, margin_y, image.width - margin_x, image.height - margin_y))
    scaled = middle.resize((width, height), image_module.Resampling.BILINEAR)
    # Not 127.5: a uint8 input of scale 1/128 and zero point 128 then gets the very pixels back.
    pixels = (np.asarray(scaled, np.float32) - np.float32(128)) / np.float32(128)
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) if channels_first else pixels)[np.newaxis])


def _rank(scores: NDArray[Any], label: int) -> int:
    """How many classes stand before the right one (0: the answer is right)."""
    flat = scores.reshape(-1)
    match flat.size - CLASSES:
        case 0:
            target = label
        case 1:
            # 1001 scores: class 0 is the background.
            target = label + 1
        case _:
            raise ValueError(f"Expected {CLASSES} or {CLASSES + 1} class scores, got {list(scores.shape)}.")
    # Quantized scores tie often: a stable order lets the lower class win, as argmax does.
    return int(np.argsort(-flat, kind="stable").tolist().index(target))
