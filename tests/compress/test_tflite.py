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

STEPS = (
    tflite_quantize.Static,
    tflite_quantize.Dynamic,
    tflite_quantize.WeightOnly,
    tflite_quantize.Int4WeightOnly,
    tflite_quantize.Float16,
)


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
    # In four bits the library leaves the first convolution's 144 weights as they are.
    assert max(value for name, value in checked.facts.items() if name.endswith("_share")) > 0.999
    smaller = {tflite_quantize.Float16: 0.55, tflite_quantize.Int4WeightOnly: 0.16}.get(kind, 0.3)
    assert target.stat().st_size < smaller * source.stat().st_size
    (found,) = compare.agreement(tflite_quantize.runner(source), tflite_quantize.runner(target), digits())
    assert found.cosine > (0.998 if kind is tflite_quantize.Int4WeightOnly else 0.999)


def test_four_bits_in_blocks_leave_convolutions_alone(tmp_path: Path) -> None:
    """The library says nothing, and the file is a good one: only the types of the weights tell."""
    source, target = nets.DIGITS / "digits-float.tflite", tmp_path / "blocks.tflite"
    manager = recipe.recipe_manager.RecipeManager()
    manager.add_weight_only_config(".*", recipe.TFLOperationName.ALL_SUPPORTED, 4, recipe.QuantGranularity.BLOCKWISE_32)
    quantizer.Quantizer(str(source), manager.get_quantization_recipe()).quantize().export_model(str(target))
    with pytest.raises(StepFailed, match="int4-weight: only 0% of the weights became int4"):
        tflite_quantize.Int4WeightOnly().check(source, target)


def test_packed_weights_are_read_as_the_runtime_reads_them(tmp_path: Path) -> None:
    """Four bits, two to a byte: with their scales they are the float weights within half a step."""
    source, target = nets.DIGITS / "digits-float.tflite", tmp_path / "int4.tflite"
    tflite_quantize.Int4WeightOnly().apply(source, target, Context([]))
    before, after = tflite_graph.load(source), tflite_graph.load(target)
    floats = {tuple(t.shape): tflite_graph._data(before, t) for t in before.subgraphs[0].tensors}
    (packed,) = [t for t in after.subgraphs[0].tensors if t.type == 17 and list(t.shape) == [10, 80]]
    values = tflite_graph._data(after, packed)
    original = floats[10, 80]
    assert values is not None and original is not None and values.size == 800
    scales = np.asarray(packed.quantization.scale)[:, np.newaxis]
    assert (np.abs(values.reshape(10, 80) * scales - original.reshape(10, 80)) <= scales * 0.501).all()


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


def changed(path: Path, at: int, value: float) -> Path:
    """The digits network with another value in its largest tensor."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = tflite_graph.load(nets.DIGITS / "digits-float.tflite")
    buffer = max(model.buffers, key=lambda one: 0 if one.data is None else len(one.data))
    values = np.frombuffer(bytes(buffer.data), np.float32).copy()
    values[at] = value
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return path


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="hold NaN or infinity"):
        tflite_graph.load(changed(tmp_path / "inf.tflite", 7, np.inf))


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    """The library makes it infinite."""
    source, target = changed(tmp_path / "large.tflite", 7, 7e5), tmp_path / "fp16.tflite"
    with pytest.raises(StepFailed, match=r"fp16: weights .* reach 7e\+05, and half precision ends at 65504"):
        tflite_quantize.Float16().apply(source, target, Context([]))


@pytest.mark.parametrize("kind", STEPS)
def test_what_is_quantized_already_is_no_source(tmp_path: Path, kind: type[Any]) -> None:
    source = nets.DIGITS / "digits-int8.tflite"
    with pytest.raises(StepFailed, match=r"digits-int8\.tflite: has weights in int8 already: start from the float32"):
        kind().apply(source, tmp_path / "x.tflite", Context(digits()))


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


def test_outputs_are_in_the_order_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT gives them as text would be sorted, the network as they are numbered."""
    answers = {name: np.array(position) for position, name in enumerate(f"output_{one}" for one in range(12))}

    class Interpreter:
        def __init__(self, **_: Any) -> None: ...

        def allocate_tensors(self) -> None: ...

        def get_signature_runner(self) -> Interpreter:
            return self

        def get_input_details(self) -> dict[str, Any]:
            return {}

        def get_output_details(self) -> dict[str, Any]:
            return {name: {"quantization": (0.0, 0)} for name in sorted(answers)}

        def __call__(self) -> dict[str, Any]:
            return answers

    monkeypatch.setattr(tflite_quantize, "Interpreter", Interpreter)
    assert [int(one) for one in tflite_quantize.runner(Path("net.tflite"))({})] == list(range(12))
