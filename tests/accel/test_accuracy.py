"""Accuracy is the accelerator's own: what it answers, image by image, beside what the CPU answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.accel.conftest import environment, measure, needs
from tests.integration.conftest import DIGITS, ROOT, Bench

# A simulation takes its time: of the digits' 3,000 images the first ones.
IMAGES = 150
WORKLOAD = f"""
import sys
sys.path.insert(0, {str(ROOT / "examples")!r})
import digits
from pocketbench.workload import Score

def score(predict):
    pixels, labels = digits.images()
    chosen = slice(digits.TRAIN, digits.TRAIN + {IMAGES})
    shape = predict.inputs[0].shape
    found = [int(predict(image.reshape(shape))[0].argmax()) for image in pixels[chosen]]
    return Score(metric="top-1", per_item=(found == labels[chosen]).astype("float64"))
"""


@pytest.mark.parametrize(
    ("names", "model", "delegate"),
    [
        pytest.param(("swiftshader",), "digits-float.tflite", "gpu", marks=needs("swiftshader")),
        pytest.param(("webgpu", "swiftshader"), "digits-float.onnx", "webgpu", marks=needs("webgpu", "swiftshader")),
        pytest.param(("qnn",), "digits-int8.onnx", "npu", marks=needs("qnn")),
    ],
    ids=["LiteRT GPU", "ONNX Runtime WebGPU", "QNN HTP"],
)
def test_the_accelerator_is_what_is_scored(bench: Bench, names: tuple[str, ...], model: str, delegate: str) -> None:
    """As good as the CPU on the same images, and OK."""
    workload = Path(bench.home / "few_digits.py")
    workload.write_text(WORKLOAD)
    arguments = ("--workload", workload)
    found = measure(bench, environment(*names), DIGITS / model, delegate, "cpu", arguments=arguments)
    accelerated, cpu = found[delegate], found["cpu"]
    assert (accelerated["status"], cpu["status"]) == ("OK", "OK"), (accelerated["reasons"], cpu["reasons"])
    assert accelerated["delegate"]["nodes_delegated"] > 0
    assert accelerated["accuracy"]["n"] == cpu["accuracy"]["n"] == IMAGES
    # One image is 0.7 points.
    assert cpu["accuracy"]["value"] > 0.95
    assert accelerated["accuracy"]["value"] == pytest.approx(cpu["accuracy"]["value"], abs=1.5 / IMAGES)
