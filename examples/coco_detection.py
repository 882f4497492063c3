"""COCO detection: mAP50-95 (and mAP50) over 128 images of val2017, for YOLOv5-style models.

Set POCKETBENCH_DATA to the folder that holds coco_val2017_128_yolo.zip: images/*.jpg and
labels/*.txt (class 0..79, then centre x, centre y, width and height as fractions), read in place.
The model takes one RGB image in 0..1, channels first or last, of any size, and answers with
[1, N, 85]: box (centre x, centre y, width, height), objectness, 80 class scores.

What is compressed is YOLOv5n, yolov5n-float.onnx: in the same folder, or in the folder onnx beside
it. The first 64 images of train2017, by name in coco_train2017_128_cocojson.zip, calibrate.

YOLO labels keep no crowd regions, so the values differ a little from the official COCO ones.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from pocketbench.workload import Score, TensorInfo

ARCHIVE = "coco_val2017_128_yolo.zip"
TRAINING = "coco_train2017_128_cocojson.zip"
NETWORK = "yolov5n-float.onnx"
CALIBRATION = 64  # images, by name
CLASSES = 80
CONFIDENCE = 0.001  # low: the precision-recall curve needs the weak detections too
OVERLAP = 0.6  # IoU above which the weaker of two boxes of one class is dropped
CANDIDATES = 3000  # per image before, and
DETECTIONS = 100  # per image after dropping overlaps: COCO's own limit
HINT = "pip install 'pocketbench[examples]'"
PADDING = 114  # the grey YOLOv5 was trained with

Floats = NDArray[np.floating[Any]]


class Predict(Protocol):
    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...
    def __call__(self, array: NDArray[np.float32], /) -> list[NDArray[Any]]: ...


def model() -> Path:
    """The float network: float32 [1, 3, 640, 640] in 0..1 to [1, 25200, 85], boxes in pixels."""
    return _file(NETWORK, f"../onnx/{NETWORK}")


def calibration_batches() -> Iterator[NDArray[np.float32]]:
    """64 images of train2017, each float32 [1, 3, 640, 640] in 0..1."""
    for _, image in islice(_images(TRAINING), CALIBRATION):
        pixels, _, _ = _letterbox(image, 640, 640)
        yield np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis])


def device_pipeline() -> tuple[Path, list[NDArray[np.uint8]]]:
    """What an app does with a picture on the device, and four pictures as a camera gives them."""
    pictures = [np.asarray(image.convert("RGB")) for _, image in islice(_images(ARCHIVE), 4)]
    return Path(__file__).with_name("coco_on_device.py"), pictures


def score(predict: Predict) -> Score:
    """mAP50-95 over all images as a fraction; each item is one image's own mAP50-95.

    predict: float32 [1, H, W, 3] or [1, 3, H, W] in 0..1 -> [1, N, 85], boxes in pixels of the
    input or as fractions of it.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401, needed at the end: fail before the work
    except ImportError as error:
        raise ImportError(f"This workload needs Pillow and pycocotools: {HINT}.") from error
    height, width, channels_first = _input_geometry(predict.inputs[0])
    truths: list[Floats] = []
    found: list[Floats] = []
    unit: Floats | None = None
    with ZipFile(_file(ARCHIVE)) as archive:
        for name, image in _images(ARCHIVE):
            pixels, scale, margin = _letterbox(image, height, width)
            if channels_first:
                pixels = pixels.transpose(2, 0, 1)
            rows = predict(np.ascontiguousarray(pixels[np.newaxis]))[0].astype(np.float32)
            if rows.ndim != 3 or rows.shape[0] != 1 or rows.shape[2] != 5 + CLASSES:
                raise ValueError(f"Expected an output [1, N, {5 + CLASSES}], not {rows.shape}.")
            if unit is None:
                # Exports differ: fractions of the input, or its pixels. In pixels some centre on
                # the first image lies far beyond 2; in fractions none lies much beyond 1.
                unit = np.array([1, 1] if (rows[..., :2] > 2).any() else [width, height], "f4")
            boxes = _detect(rows[0], unit)
            boxes[:, :2] -= margin
            boxes[:, :4] /= scale
            found.append(boxes)
            text = archive.read(f"labels/{PurePosixPath(name).stem}.txt").decode()
            label = np.array(text.split(), dtype=np.float64).reshape(-1, 5)
            corner = label[:, 1:3] - label[:, 3:] / 2
            boxes = np.column_stack([corner, label[:, 3:]]) * (image.size * 2)
            truths.append(np.column_stack([boxes, label[:, 0], np.ones(len(label))]))
    precision = _precision(truths, found)
    return Score(
        metric="mAP50-95",
        per_item=[float(precision([index]).mean()) for index in range(len(truths))],
        others={"mAP50": float(precision(range(len(truths)))[0])},
        resample=lambda indices: float(precision(indices).mean()),
    )


def _file(*places: str) -> Path:
    """The first of these that the data folder has."""
    folder = os.environ.get("POCKETBENCH_DATA")
    found = [path for place in places if folder and (path := Path(folder) / place).is_file()]
    if not found:
        now = f"not in {folder}" if folder else "it is not set"
        raise FileNotFoundError(f"Set POCKETBENCH_DATA to the folder of {places[0]} ({now}).")
    return found[0]


def _images(archive: str) -> Iterator[tuple[str, Any]]:
    """Name and RGB image of each JPEG, by name."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"This workload reads JPEG files with Pillow: {HINT}.") from error
    with ZipFile(_file(archive)) as opened:
        for name in sorted(name for name in opened.namelist() if name.endswith(".jpg")):
            yield name, Image.open(io.BytesIO(opened.read(name))).convert("RGB")


def _input_geometry(info: TensorInfo) -> tuple[int, int, bool]:
    """Height, width, channels first or not: from the shape, as the layout may be unknown."""
    match info.shape:
        case (1, 3, height, width) if height > 0 and width > 0:
            return height, width, True
        case (1, height, width, 3) if height > 0 and width > 0:
            return height, width, False
    raise ValueError(f"Input {info.name!r} of shape {list(info.shape)} is not one RGB image.")


def _letterbox(image: Any, height: int, width: int) -> tuple[NDArray[np.float32], float, Floats]:
    """The image on a grey canvas [height, width, 3] in 0..1; its scale; margins [left, top]."""
    from PIL import Image

    scale = min(width / image.width, height / image.height)
    inner = round(image.width * scale), round(image.height * scale)
    margin = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = Image.new("RGB", (width, height), (PADDING, PADDING, PADDING))
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), margin)
    return np.asarray(canvas, np.float32) / np.float32(255), scale, np.array(margin, np.float64)


def _detect(rows: Floats, unit: Floats) -> Floats:
    """[n, 6], best first: x, y, width, height in pixels of the input, class, score."""
    rows = rows[rows[:, 4] > CONFIDENCE]
    rows = rows[np.isfinite(rows).all(axis=1)]  # NaN would pass the comparisons of the matching
    joint = rows[:, 5:] * rows[:, 4:5]
    candidates, classes = np.nonzero(joint > CONFIDENCE)
    scores = joint[candidates, classes]
    # Quantized scores tie often: only a stable order gives one result everywhere.
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    candidates, classes, scores = candidates[order], classes[order], scores[order]
    extent = rows[candidates, 2:4] * unit
    low = rows[candidates, :2] * unit - extent / 2
    high, area = low + extent, extent.prod(axis=1)
    kept: list[int] = []
    rest = np.arange(len(scores))
    while len(rest) and len(kept) < DETECTIONS:
        best, rest = int(rest[0]), rest[1:]
        kept.append(best)
        sides = np.minimum(high[best], high[rest]) - np.maximum(low[best], low[rest])
        shared = np.clip(sides, 0, None).prod(axis=1)
        overlaps = shared > OVERLAP * (area[best] + area[rest] - shared)
        rest = rest[~(overlaps & (classes[rest] == classes[best]))]
    return np.column_stack([low, extent, classes, scores])[kept]


def _precision(truths: list[Floats], found: list[Floats]) -> Callable[[Sequence[int]], Floats]:
    """Matches once; then gives the mAP at each IoU (.5 to .95) over any images, with repeats."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def indexed(tables: list[Floats]) -> Any:
        rows = [(image, *row) for image, table in enumerate(tables) for row in table.tolist()]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(tables))],
            "categories": [{"id": category} for category in range(CLASSES)],
            "annotations": [
                {"id": n, "image_id": image, "category_id": int(category), "bbox": [x, y, w, h]}
                | {"area": w * h, "iscrowd": 0, "score": value}
                for n, (image, x, y, w, h, category, value) in enumerate(rows, 1)  # id 0: no match
            ],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(indexed(truths), indexed(found), "bbox")
        settings = evaluation.params
        settings.areaRng, settings.maxDets = settings.areaRng[:1], [DETECTIONS]  # all sizes
        evaluation.evaluate()
    # By category: labelled boxes by image, then image and matches of its detections, best first.
    categories, images = [], len(truths)
    for start in range(0, CLASSES * images, images):
        by_image = evaluation.evalImgs[start : start + images]
        labelled = np.array([len(entry["gtIds"]) if entry else 0 for entry in by_image])
        if labelled.any():
            entries = [entry for entry in by_image if entry]
            order = np.argsort(-np.concatenate([e["dtScores"] for e in entries]), kind="stable")
            matches = np.concatenate([e["dtMatches"] for e in entries], axis=1)[:, order] > 0
            owner = np.repeat([e["image_id"] for e in entries], [len(e["dtIds"]) for e in entries])
            categories.append((labelled, owner[order], matches))

    def precision(indices: Sequence[int]) -> Floats:
        # The values of COCOeval.accumulate, whose Python loops take several times as long.
        times = np.bincount(indices, minlength=images)
        values = []
        for labelled, owner, matches in categories:
            if positives := labelled @ times:
                weights = times[owner]
                hits = np.cumsum(matches * weights, axis=1)
                ratio = hits / np.maximum(np.cumsum(weights), 1)
                # The best precision at this recall or beyond; 0 past the last detection.
                best = np.pad(np.maximum.accumulate(ratio[:, ::-1], 1)[:, ::-1], [(0, 0), (0, 1)])
                at = [np.searchsorted(row, settings.recThrs) for row in hits / positives]
                values.append(np.take_along_axis(best, np.array(at), axis=1).mean(axis=1))
        # Images without a labelled box have no precision of their own.
        return np.mean(values, axis=0) if values else np.zeros(len(settings.iouThrs))

    return precision
