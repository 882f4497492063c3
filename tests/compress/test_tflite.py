"""Steps on .tflite files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_quantizer", reason="pip install 'pocketbench[compress]'")

from ai_edge_quantizer import quantizer, recipe

from pocketbench.compress import compare, tflite_graph, tflite_quantize
from pocketbench.compress.recipe import Context, Step, StepFailed
from tests.compress import nets

STEPS = (tflite_quantize.Static, tflite_quantize.Dynamic, tflite_quantize.WeightOnly, tflite_quantize.Float16)


def digits() -> list[dict[str, Any]]:
    """Real images."""
    spec = importlib.util.spec_from_file_location("digits", nets.ROOT / "examples" / "digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["digits"] = module
    spec.loader.exec_module(module)
    return [{"args_0": image} for image in list(module.calibration_batches())[:32]]


@pytest.mark.parametrize("kind", STEPS)
def test_every_step_does_what_its_name_says(tmp_path: Path, kind: type[Any]) -> None:
    source, target = nets.DIGITS / "digits-float.tflite", tmp_path / "made.tflite"
    step: Step = kind()
    step.apply(source, target, Context(digits()))
    checked = step.check(source, target)
    assert max(value for name, value in checked.facts.items() if name.endswith("_share")) == 1.0
    smaller = 0.55 if kind is tflite_quantize.Float16 else 0.3
    assert target.stat().st_size < smaller * source.stat().st_size
    (found,) = compare.agreement(tflite_quantize.runner(source), tflite_quantize.runner(target), digits())
    assert found.cosine > 0.999


def test_a_dead_channel_keeps_its_bias(tmp_path: Path) -> None:
    """The library cuts it off; with one small weight it holds, and the lint that finds the loss is silent."""
    source, target = nets.tflite_with_a_dead_channel(tmp_path / "dead.tflite"), tmp_path / "int8.tflite"
    step = tflite_quantize.Static()
    done = step.apply(source, target, Context(digits()))
    assert done.facts["dead_channels"] == 1 and "1 channels had no weights but a bias" in done.findings[0]
    step.check(source, target)
    work = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    plain = tmp_path / "plain.tflite"
    work.quantize(work.calibrate({"serving_default": digits()}, num_threads=1)).export_model(str(plain))
    with pytest.raises(StepFailed, match="biases do not fit their scale and were cut off"):
        step.check(source, plain)


def test_what_a_step_left_alone_is_refused(tmp_path: Path) -> None:
    """A file in which nothing changed, for whatever reason."""
    source = nets.DIGITS / "digits-float.tflite"
    for kind in STEPS:
        with pytest.raises(StepFailed, match="only 0% of the weights became"):
            kind().check(source, source)
    (tmp_path / "broken.tflite").write_bytes(b"garbage")
    with pytest.raises(StepFailed, match=r"broken\.tflite: is no \.tflite file"):
        tflite_graph.load(tmp_path / "broken.tflite")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    model = tflite_graph.load(nets.DIGITS / "digits-float.tflite")
    buffer = max(model.buffers, key=lambda one: 0 if one.data is None else len(one.data))
    values = np.frombuffer(bytes(buffer.data), np.float32).copy()
    values[7] = np.inf
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    (tmp_path / "inf.tflite").write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    with pytest.raises(StepFailed, match="hold NaN or infinity"):
        tflite_graph.load(tmp_path / "inf.tflite")


def test_constants_that_only_repeat_are_kept_once(tmp_path: Path) -> None:
    """As the grids of a detector, which stay float in its tail; the arithmetic repeats them by itself."""
    torch = pytest.importorskip("torch", reason="pip install 'pocketbench[compress]'")
    from pocketbench.convert import to_litert

    class Grid(torch.nn.Module):  # type: ignore[name-defined, misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(1, 16, 3, 1, 1)
            self.register_buffer("anchors", torch.rand(1, 16, 1, 1).repeat(1, 1, 28, 28))
            self.register_buffer("rows", torch.arange(28.0).view(1, 1, 28, 1).repeat(1, 16, 1, 28))

        def forward(self, x: Any) -> Any:
            return self.conv(x).sigmoid() * self.anchors + self.rows

    source, target = tmp_path / "grid.tflite", tmp_path / "int8.tflite"
    to_litert.convert(Grid(), [digits()[0]["args_0"]], ["x"], source)
    step = tflite_quantize.Static()
    done = step.apply(source, target, Context(digits()))
    step.check(source, target)
    assert done.facts["repeats_left_out_bytes"] == 2 * 16 * 28 * 28 * 4 - 16 * 4 - 28 * 4
    assert target.stat().st_size < 0.1 * source.stat().st_size
    (found,) = compare.agreement(tflite_quantize.runner(source), tflite_quantize.runner(target), digits())
    assert found.cosine > 0.9999 and not found.collapsed
