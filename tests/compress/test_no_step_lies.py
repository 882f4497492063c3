"""Networks on which a library does nothing, or does harm, without a word: each step refuses them with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from pocketbench.compress import artifact, compare, onnx_float16, onnx_graph, onnx_int4, onnx_quantize
from pocketbench.compress.recipe import Context, StepFailed
from pocketbench.convert import onnx_file
from tests.compress import nets

CONTEXT = Context(nets.samples())
ONNX_STEPS = (onnx_quantize.Static, onnx_quantize.Dynamic, onnx_float16.Float16, onnx_int4.WeightOnly)


def agreement(source: Path, target: Path) -> compare.Agreement:
    (found,) = compare.agreement(onnx_quantize.runner(source), onnx_quantize.runner(target), nets.samples())
    return found


@pytest.mark.parametrize("step", ONNX_STEPS)
def test_what_is_quantized_already_is_no_source(tmp_path: Path, step: type[onnx_quantize.Static]) -> None:
    """All its weights are int8, so a look at the result alone would call it done."""
    done = nets.DIGITS / "digits-int8.onnx"
    assert onnx_graph.weights(onnx_graph.load(done))["int8"] > 200_000
    with pytest.raises(StepFailed, match=r"digits-int8\.onnx: has weights in int8 already: start from the float32 net"):
        step().apply(done, tmp_path / "x.onnx", CONTEXT)


def test_one_scale_for_all_channels_is_refused(tmp_path: Path) -> None:
    """MobileNetV2 loses 76 points by it."""
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    reader = onnx_quantize._Reader(iter(nets.samples()))
    quantize_static(str(source), str(target), reader, per_channel=False, weight_type=QuantType.QInt8)
    with pytest.raises(StepFailed, match="int8-static: 2 convolutions have one scale for all channels: conv1"):
        onnx_quantize.Static().check(source, target)


def test_quantized_weights_alone_are_not_static(tmp_path: Path) -> None:
    """Convolutions that compute in float on weights that were made float again are no faster."""
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    model = onnx.load(source)
    for tensor in list(model.graph.initializer):
        if tensor.name.startswith("w"):
            values = numpy_helper.to_array(tensor)
            scales = np.abs(values).reshape(len(values), -1).max(axis=1) / np.float32(127)
            stored = np.rint(values / scales.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(stored, f"{tensor.name}_int8"))
            model.graph.initializer.append(numpy_helper.from_array(scales, f"{tensor.name}_scale"))
            name = tensor.name.removesuffix("_int8")
            node = helper.make_node("DequantizeLinear", [tensor.name, f"{tensor.name}_scale"], [name], name, axis=0)
            model.graph.node.insert(0, node)
    onnx.save(model, target)
    assert agreement(source, target).cosine > 0.99
    with pytest.raises(StepFailed, match="int8-static: 2 convolutions compute on float activations: conv1"):
        onnx_quantize.Static().check(source, target)


def test_dynamic_on_convolutions_by_hand(tmp_path: Path) -> None:
    """What the refusal spares: one scale for channels that differ a thousandfold."""

    def uneven(weights: dict[str, np.ndarray]) -> None:
        weights["w2"][1:] *= 1e-3
        weights["w3"][:, 1:] *= 1e3
        weights["b2"][:] = 0

    source, target = nets.conv(tmp_path / "net.onnx", change=uneven), tmp_path / "int8.onnx"
    quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8, per_channel=True)
    assert agreement(source, target).cosine < 0.9
    with pytest.raises(StepFailed, match="per tensor, which destroys such nets"):
        onnx_quantize.Dynamic().apply(source, target, CONTEXT)


def test_weights_of_recurrent_layers_count(tmp_path: Path) -> None:
    """Static leaves them as they are: with a small layer behind them it would look as if all were done."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.2, (1, 128, 16)),
        "r": rng.normal(0, 0.2, (1, 128, 32)),
        "fc": rng.normal(0, 0.2, (32, 10)),
        "last": np.zeros(0),
    }
    nodes = [
        helper.make_node("LSTM", ["s", "w", "r"], ["all", "h", "c"], "lstm", hidden_size=32),
        helper.make_node("Squeeze", ["h", "axis"], ["h2"], "squeeze"),
        helper.make_node("MatMul", ["h2", "fc"], ["y"], "fc"),
    ]
    del weights["last"]
    path, target = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, [8, 1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.array([0]), "axis")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    samples = [{"s": rng.random((8, 1, 16), dtype=np.float32)} for _ in range(12)]
    step = onnx_quantize.Static()
    step.apply(path, target, Context(samples))
    with pytest.raises(StepFailed, match="int8-static: only 5% of the weights became int8"):
        step.check(path, target)
    dynamic = onnx_quantize.Dynamic()
    dynamic.apply(path, target, Context(samples))
    assert dynamic.check(path, target).facts["int8_share"] == 1.0


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    """The library cuts such weights off at 65504."""

    def large(weights: dict[str, np.ndarray]) -> None:
        weights["w2"][0, 0, 0, 0] = 7e5

    source, target = nets.conv(tmp_path / "net.onnx", change=large), tmp_path / "fp16.onnx"
    with pytest.raises(StepFailed, match="fp16: weights 'w2' reach 7e\\+05, and half precision ends at 65504"):
        onnx_float16.Float16().apply(source, target, CONTEXT)
    cut = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    (found,) = [numpy_helper.to_array(one) for one in cut.graph.initializer if one.name == "w2"]
    assert found.max() == 65504


def test_half_precision_that_overflows_as_it_runs_shows(tmp_path: Path) -> None:
    """Every weight fits, what they make does not. This processor computes in float32 and would not show it."""

    def growing(weights: dict[str, np.ndarray]) -> None:
        weights["w1"] *= 2000
        weights["w2"] *= 2000

    source, target = nets.conv(tmp_path / "net.onnx", change=growing), tmp_path / "fp16.onnx"
    with pytest.raises(StepFailed, match=r"fp16: what conv2 gives reaches [\d.e+]+, and half precision ends at 65504"):
        onnx_float16.Float16().apply(source, target, CONTEXT)
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
    assert agreement(source, target).cosine > 0.99


def old(path: Path, change: Any = None) -> Path:
    """As files of 2019 are: operator set 11, weights among the inputs, and some in nodes."""
    model = onnx.load(nets.conv(path, change=change))
    graph = model.graph
    model.ir_version, model.opset_import[0].version = 3, 11
    (moved,) = [one for one in graph.initializer if one.name == "w2"]
    graph.node.insert(0, helper.make_node("Constant", [], ["w2"], "held", value=moved))
    graph.initializer.remove(moved)
    graph.input.extend(
        helper.make_tensor_value_info(one.name, TensorProto.FLOAT, list(one.dims)) for one in graph.initializer
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("step", [onnx_quantize.Static, onnx_float16.Float16])
def test_old_files_are_made_ready(tmp_path: Path, step: type[onnx_quantize.Static]) -> None:
    """As they are, the quantizers write what no runtime loads, or pass half of the weights by."""
    source, ready, target = old(tmp_path / "old.onnx"), tmp_path / "ready.onnx", tmp_path / "made.onnx"
    with pytest.raises(Exception, match=r"INVALID_GRAPH|of the weights became|Per-Channel"):
        step().apply(source, target, CONTEXT)
        step().check(source, target)
    facts = onnx_file.convert(source, ready)
    assert facts == {"converter": "none", "constants": 6, "opset": "11 brought to 13"}
    assert agreement(source, ready).noise == 0
    step().apply(ready, target, CONTEXT)
    assert max(value for name, value in step().check(ready, target).facts.items() if name.endswith("share")) == 1
    assert agreement(source, target).cosine > 0.99


def test_a_file_that_will_do_stays_as_it_is(tmp_path: Path) -> None:
    source, ready = nets.conv(tmp_path / "net.onnx"), tmp_path / "ready.onnx"
    assert onnx_file.convert(source, ready) == {"converter": "none"}
    assert ready.read_bytes() == source.read_bytes()


def test_what_is_not_finite_in_a_node_is_found(tmp_path: Path) -> None:
    def spoil(weights: dict[str, np.ndarray]) -> None:
        weights["w2"][0, 0, 0, 0] = np.inf

    with pytest.raises(StepFailed, match="weights 'w2' hold NaN or infinity"):
        onnx_file.convert(old(tmp_path / "old.onnx", spoil), tmp_path / "ready.onnx")


def test_weights_in_a_file_beside_come_along(tmp_path: Path) -> None:
    """Left behind, the artifact would not load on the device."""
    plain, source = nets.conv(tmp_path / "plain.onnx"), tmp_path / "in" / "net.onnx"
    source.parent.mkdir()
    onnx.save(onnx.load(plain), source, save_as_external_data=True, location="net.data", size_threshold=0)
    assert [one.name for one in onnx_graph.files(source)] == ["net.onnx", "net.data"]
    ready = tmp_path / "ready.onnx"
    assert onnx_file.convert(source, ready)["weights"] == "brought in from other files"
    (source.parent / "net.data").unlink()
    assert onnx_graph.files(ready) == [ready] and agreement(plain, ready).noise == 0
    with pytest.raises(StepFailed, match=r"net\.onnx: has weights in net\.data, which is not beside it"):
        onnx_file.convert(source, ready)


def test_two_gigabytes_in_a_file_beside_are_too_much_as_well(tmp_path: Path) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(onnx.load(nets.conv(source)), source, save_as_external_data=True, location="net.data", size_threshold=0)
    with (tmp_path / "net.data").open("r+b") as file:
        file.truncate(2_100_000_000)
    with pytest.raises(StepFailed, match=r"net\.onnx: 2\.1 GB are more than one ONNX file can hold"):
        onnx_file.convert(source, tmp_path / "ready.onnx")


def test_an_operator_set_that_cannot_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no adapter for Odd\nmore")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)
    with pytest.raises(StepFailed, match=r"of operator set 11; steps need 13, .* cannot bring it: no adapter for Odd$"):
        onnx_file.convert(old(tmp_path / "old.onnx"), tmp_path / "ready.onnx")


def test_a_bias_in_two_dimensions(tmp_path: Path) -> None:
    """What MatMul and Add of old exporters become as they are fused, on which ONNX Runtime's quantizer fails."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(0, 0.1, (768, 10)), "b": rng.normal(0, 0.1, (1, 10))}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w"], ["m"], "matmul"),
        helper.make_node("Add", ["m", "b"], ["y"], "add"),
    ]
    source, target = nets.save(tmp_path / "net.onnx", nodes, weights, {"y": [1, 10]}), tmp_path / "int8.onnx"
    onnx_quantize.Static().apply(source, target, CONTEXT)
    assert onnx_quantize.Static().check(source, target).facts["int8_share"] == 1.0
    assert agreement(source, target).cosine > 0.99


def test_provenance_survives_a_contrib_operator(tmp_path: Path) -> None:
    source, target = nets.linear(tmp_path / "net.onnx"), tmp_path / "int4.onnx"
    onnx_int4.WeightOnly().apply(source, target, CONTEXT)
    artifact.embed(target, "onnx", {"recipe": "int4-weight"})
    assert artifact.read(target) == {"recipe": "int4-weight"}
    assert agreement(source, target).cosine > 0.99
