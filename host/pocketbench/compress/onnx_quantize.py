"""ONNX Runtime's quantizer, with what it takes to trust it: tail in float, calibrator chosen, result looked into."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization as q
from onnxruntime.quantization.shape_inference import quant_pre_process

from pocketbench.compress import calibrators, compare, onnx_graph
from pocketbench.compress.recipe import Context, Done, Sample, StepFailed, converted

CALIBRATORS: Mapping[str, Mapping[str, Any]] = {"min-max": {}, "moving average": {"CalibMovingAverage": True}}


class Static:
    """Int8 weights per channel and 8-bit activations, as QuantizeLinear/DequantizeLinear pairs."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """The better of the calibrators, by the noise on samples that they have not seen."""
        model = onnx_graph.load_float(source)
        onnx_graph.name_nodes(model)
        tail = onnx_graph.tail(model)
        activations = q.QuantType.QInt8 if context.target == "aarch64" else q.QuantType.QUInt8
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            prepared, written = Path(scratch) / "prepared.onnx", Path(scratch) / "quantized.onnx"
            named = Path(scratch) / "named.onnx"
            onnx.save(model, named)
            quant_pre_process(str(named), str(prepared), skip_symbolic_shape=True)
            prepared.write_bytes(_flat_biases(onnx.load(prepared)))

            def quantize(calibrator: str, samples: Iterator[Sample]) -> None:
                q.quantize_static(
                    str(prepared),
                    str(written),
                    _Reader(samples),
                    quant_format=q.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=activations,
                    weight_type=q.QuantType.QInt8,
                    nodes_to_exclude=tail,
                    extra_options=dict(CALIBRATORS[calibrator]),
                )
                written.write_bytes(onnx_graph.strip(onnx.load(written)))

            chosen = calibrators.choose(CALIBRATORS, quantize, written, runner, source, context)
        target.write_bytes(chosen.content)
        facts = {
            "calibrator": chosen.name,
            "calibration_samples": len(context.samples),
            "noise_by_calibrator": chosen.noise,
            "activations": "s8" if activations == q.QuantType.QInt8 else "u8",
            "float_tail": tail,
        }
        return Done(facts)

    def check(self, source: Path, target: Path) -> Done:
        """Int8 weights in most of the bytes, with a scale a channel, and quantized activations at every convolution."""
        model = onnx_graph.load(target)
        share = converted("int8-static", onnx_graph.weights(model), "int8", "uint8")
        coarse, floating = onnx_graph.convolutions_left(model)
        if coarse:
            raise StepFailed(f"int8-static: {len(coarse)} convolutions have one scale for all channels: {coarse[0]}")
        if floating:
            raise StepFailed(f"int8-static: {len(floating)} convolutions compute on float activations: {floating[0]}")
        return Done({"int8_share": share, "operators": onnx_graph.operators(model)})


def _flat_biases(model: Any) -> bytes:
    """ONNX Runtime 1.32 fails on the bias of a matrix product that is [1, N] instead of [N]."""
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]
    data: bytes = model.SerializeToString()
    return data


class Dynamic:
    """Int8 weights, activations quantized while it runs. For matrix products only."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """StepFailed on convolutions: per-tensor weights there cost MobileNetV2 76 points without a word."""
        model = onnx_graph.load_float(source)
        convolutions = onnx_graph.operators(model).get("Conv", 0)
        if convolutions:
            raise StepFailed(
                f"int8-dynamic: ONNX Runtime quantizes the weights of its {convolutions} convolutions per tensor, "
                "which destroys such nets, and runs them many times slower: use int8-static"
            )
        q.quantize_dynamic(str(source), str(target), weight_type=q.QuantType.QInt8, per_channel=True)
        target.write_bytes(onnx_graph.strip(onnx.load(target)))
        return Done({})

    def check(self, source: Path, target: Path) -> Done:
        """Int8 weights in most of the bytes."""
        return Done({"int8_share": converted("int8-dynamic", onnx_graph.weights(onnx.load(target)), "int8", "uint8")})


class _Reader(q.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Iterator[Sample]) -> None:
        self._samples = samples

    def get_next(self) -> dict[str, Any] | None:
        """As the quantizer wants them: one after the other, then None."""
        sample = next(self._samples, None)
        return None if sample is None else dict(sample)


def runner(path: Path) -> compare.Run:
    """The file in ONNX Runtime on one thread, by input names."""
    session = onnx_graph.session(str(path))

    def run(sample: Sample) -> compare.Arrays:
        return [np.asarray(array) for array in session.run(None, dict(sample))]

    return run
