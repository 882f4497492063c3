"""Steps on ONNX files: what each did is looked at, and what a library does not do in silence is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import quantize_static

from pocketbench.compress import compare, onnx_float16, onnx_graph, onnx_int4, onnx_quantize
from pocketbench.compress.recipe import Context, StepFailed
from tests.compress import nets

CONTEXT = Context(nets.samples())


def test_static_quantizes_every_weight_and_keeps_the_outputs(tmp_path: Path) -> None:
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    step = onnx_quantize.Static()
    done = step.apply(source, target, CONTEXT)
    assert step.check(source, target).facts["int8_share"] == 1.0
    assert done.facts["calibrator"] in onnx_quantize.CALIBRATORS
    assert done.facts["calibration_samples"] == 24
    noise = done.facts["noise_by_calibrator"]
    assert noise[done.facts["calibrator"]] == min(noise.values())
    (found,) = compare.agreement(onnx_quantize.runner(source), onnx_quantize.runner(target), nets.samples())
    assert found.cosine > 0.99 and not found.collapsed


@pytest.mark.parametrize(("processor", "activations"), [("x86_64", "u8"), ("aarch64", "s8")])
def test_activations_are_those_of_the_processor(tmp_path: Path, processor: str, activations: str) -> None:
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    done = onnx_quantize.Static().apply(source, target, Context(nets.samples(), processor))
    assert done.facts["activations"] == activations
    kinds = {node.op_type: node for node in onnx.load(target).graph.node}
    zeros = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(target).graph.initializer}
    assert zeros[kinds["QuantizeLinear"].input[2]].dtype.name == ("uint8" if activations == "u8" else "int8")


def test_a_detector_keeps_its_scores(tmp_path: Path) -> None:
    """Its tail stays float. All of it in int8, the way the library does it, the scores are gone."""
    source, target = nets.detector(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    done = onnx_quantize.Static().apply(source, target, CONTEXT)
    assert set(done.facts["float_tail"]) == {"sigmoid", "transpose", "split", "pixels", "concat"}
    (found,) = compare.agreement(onnx_quantize.runner(source), onnx_quantize.runner(target), nets.samples())
    assert not found.collapsed
    plain = tmp_path / "plain.onnx"
    quantize_static(str(source), str(plain), onnx_quantize._Reader(iter(nets.samples())), per_channel=True)
    (lost,) = compare.agreement(onnx_quantize.runner(source), onnx_quantize.runner(plain), nets.samples())
    assert lost.cosine > 0.998 and set(lost.collapsed) == {3, 4, 5}, "the cosine does not show it, the channels do"
    for places in (256, 1024):
        before, after = (
            [[_channels_first(one, places)] for (one,) in compare.outputs(onnx_quantize.runner(path), nets.samples())]
            for path in (source, plain)
        )
        (lost,) = compare.apart(before, after)
        assert lost.cosine > 0.998 and set(lost.collapsed) == {3, 4, 5}, "nor do channels that stand first"


def _channels_first(output: Any, places: int) -> Any:
    """As a detector that gives [1, channels, places] has it."""
    return np.resize(output.reshape(-1, output.shape[-1]), (places, output.shape[-1])).T[None]


def test_nodes_without_names_are_quantized_all_the_same(tmp_path: Path) -> None:
    """Nodes of the tail are left out by name; an empty one would leave out every node that has none."""
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    model = onnx.load(source)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, source)
    onnx_quantize.Static().apply(source, target, CONTEXT)
    onnx_quantize.Static().check(source, target)


def test_dynamic_refuses_convolutions(tmp_path: Path) -> None:
    source = nets.conv(tmp_path / "net.onnx")
    with pytest.raises(StepFailed, match=r"2 convolutions per tensor, which destroys such nets.*use int8-static"):
        onnx_quantize.Dynamic().apply(source, tmp_path / "x.onnx", CONTEXT)


def test_dynamic_quantizes_matrix_products(tmp_path: Path) -> None:
    source, target = nets.linear(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    step = onnx_quantize.Dynamic()
    step.apply(source, target, CONTEXT)
    assert step.check(source, target).facts["int8_share"] == 1.0
    assert target.stat().st_size < 0.3 * source.stat().st_size
    (found,) = compare.agreement(onnx_quantize.runner(source), onnx_quantize.runner(target), nets.samples())
    assert found.cosine > 0.999


def test_half_precision(tmp_path: Path) -> None:
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "fp16.onnx"
    step = onnx_float16.Float16()
    step.apply(source, target, CONTEXT)
    assert step.check(source, target).facts["float16_share"] == 1.0
    (found,) = compare.agreement(onnx_quantize.runner(source), onnx_quantize.runner(target), nets.samples())
    assert found.cosine > 0.9999


def test_four_bits_for_matrix_products(tmp_path: Path) -> None:
    """Gemm as well, which the library by itself leaves as it is without a word."""
    source, target = nets.linear(tmp_path / "net.onnx"), tmp_path / "int4.onnx"
    step = onnx_int4.WeightOnly()
    step.apply(source, target, CONTEXT)
    assert step.check(source, target).facts["int4_share"] == 1.0
    assert target.stat().st_size < 0.2 * source.stat().st_size
    (found,) = compare.agreement(onnx_quantize.runner(source), onnx_quantize.runner(target), nets.samples())
    assert found.cosine > 0.99
    work = onnx_int4._quantizer()(onnx.load(source), block_size=onnx_int4.BLOCK, is_symmetric=True)
    work.process()
    onnx.save(work.model.model, target)
    assert onnx_graph.weights(onnx.load(target)) == {"float": 96 * 768, "int4": 96 * 10}
    with pytest.raises(StepFailed, match="int4-weight: only 1% of the weights became int4"):
        step.check(source, target)


def test_four_bits_are_refused_for_convolutions(tmp_path: Path) -> None:
    """The library writes the file as it was."""
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "int4.onnx"
    step = onnx_int4.WeightOnly()
    with pytest.raises(StepFailed, match=r"for matrix products only, and 90% of the weights here are those of conv"):
        step.apply(source, target, CONTEXT)
    work = onnx_int4._quantizer()(onnx.load(source), block_size=onnx_int4.BLOCK, is_symmetric=True)
    work.process()
    assert onnx_graph.weights(work.model.model) == onnx_graph.weights(onnx.load(source))


def test_importing_the_library_does_not_make_the_program_log(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "from pocketbench.compress import onnx_int4; onnx_int4._quantizer(); import logging; print(logging.root)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "WARNING" in done.stdout and "INFO" not in done.stderr


def test_what_cannot_be_compressed_is_said(tmp_path: Path) -> None:
    def spoil(weights: dict[str, np.ndarray]) -> None:
        weights["w2"][0, 0, 0, 0] = np.nan

    with pytest.raises(StepFailed, match="weights 'w2' hold NaN or infinity"):
        onnx_graph.load(nets.conv(tmp_path / "nan.onnx", change=spoil))
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x01garbage")
    with pytest.raises(StepFailed, match=r"broken\.onnx: is no ONNX file"):
        onnx_graph.load(tmp_path / "broken.onnx")
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2_100_000_000)
    with pytest.raises(StepFailed, match=r"2\.1 GB are more than one ONNX file can hold"):
        onnx_graph.load(tmp_path / "large.onnx")
    odd = helper.make_node("Odd", ["y"], ["z"], "odd", domain="my.own")
    with pytest.raises(StepFailed, match=r"operators outside the standard, which no quantizer knows: my\.own\.Odd"):
        onnx_graph.load(nets.conv(tmp_path / "odd.onnx", odd))


def test_too_few_samples(tmp_path: Path) -> None:
    source = nets.conv(tmp_path / "net.onnx")
    with pytest.raises(StepFailed, match="gave 3 samples; at least 8 are needed"):
        onnx_quantize.Static().apply(source, tmp_path / "x.onnx", Context(nets.samples(3)))


def test_noise_of_scores_is_not_drowned_by_boxes() -> None:
    """Boxes right and scores wrong is worse than boxes off by a pixel and scores right."""
    rng = np.random.default_rng(0)
    scale = np.array([640.0] * 4 + [1.0] * 12)
    source = [[rng.random((1, 50, 16)) * scale] for _ in range(8)]

    def off_by(of_boxes: float, of_scores: float) -> float:
        by = np.array([of_boxes] * 4 + [of_scores] * 12)
        changed = [[one + rng.normal(size=one.shape) * by for one in sample] for sample in source]
        return compare.worst_noise(compare.apart(source, changed))

    assert off_by(0.0, 0.2) > 2 * off_by(5.0, 0.02)
