"""ONNX Runtime's quantizer, with what it takes to trust it: tail in float, calibrator chosen, result looked into."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime import quantization as q
from onnxruntime.quantization.shape_inference import quant_pre_process

from pocketbench.compress import compare, onnx_graph
from pocketbench.compress.recipe import Context, Done, Sample, StepFailed

CALIBRATORS: Mapping[str, Mapping[str, Any]] = {"min-max": {}, "moving average": {"CalibMovingAverage": True}}
# What at least has to be int8 of all weights of convolutions and matrix products.
INT8_SHARE = 0.95
# For judging a calibrator: samples that it does not see.
HELD_OUT = 0.25


class Static:
    """Int8 weights per channel and 8-bit activations, as QuantizeLinear/DequantizeLinear pairs."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """The better of the calibrators, by the noise on samples that they have not seen."""
        model = onnx_graph.load(source)
        tail = onnx_graph.tail(model)
        fit, judge = split(context.samples)
        activations = q.QuantType.QInt8 if context.target == "aarch64" else q.QuantType.QUInt8
        noise: dict[str, float] = {}
        made: dict[str, bytes] = {}
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            for name, options in CALIBRATORS.items():
                written = Path(scratch) / "quantized.onnx"
                q.quantize_static(
                    str(prepared),
                    str(written),
                    _Reader(iter(fit)),
                    quant_format=q.QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=activations,
                    weight_type=q.QuantType.QInt8,
                    nodes_to_exclude=tail,
                    extra_options=dict(options),
                )
                noise[name] = compare.worst_noise(compare.agreement(runner(source), runner(written), judge))
                made[name] = onnx_graph.strip(onnx.load(written))
        best = min(noise, key=lambda name: noise[name])
        target.write_bytes(made[best])
        facts = {
            "calibrator": best,
            "calibration_samples": len(fit),
            "noise_by_calibrator": noise,
            "activations": "s8" if activations == q.QuantType.QInt8 else "u8",
            "float_tail": tail,
        }
        return Done(facts)

    def check(self, source: Path, target: Path) -> Done:
        """Int8 weights in most of the bytes, and every convolution between quantized tensors."""
        model = onnx_graph.load(target)
        share = int8_share(model)
        if share < INT8_SHARE:
            raise StepFailed(f"int8-static: only {share:.0%} of the weights became int8")
        return Done({"int8_share": share, "operators": onnx_graph.operators(model)})


class Dynamic:
    """Int8 weights, activations quantized while it runs. For matrix products only."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """StepFailed on convolutions: per-tensor weights there cost MobileNetV2 76 points without a word."""
        model = onnx_graph.load(source)
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
        share = int8_share(onnx.load(target))
        if share < INT8_SHARE:
            raise StepFailed(f"int8-dynamic: only {share:.0%} of the weights became int8")
        return Done({"int8_share": share})


class _Reader(q.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Iterator[Sample]) -> None:
        self._samples = samples

    def get_next(self) -> dict[str, Any] | None:
        """As the quantizer wants them: one after the other, then None."""
        sample = next(self._samples, None)
        return None if sample is None else dict(sample)


def split(samples: Any) -> tuple[list[Sample], list[Sample]]:
    """Those to calibrate with, and every fourth to judge with; StepFailed where there are too few."""
    if len(samples) < 8:
        raise StepFailed(f"calibration_batches() gave {len(samples)} samples; at least 8 are needed, 100 are better")
    every = round(1 / HELD_OUT)
    judge = list(samples[::every])
    return [sample for number, sample in enumerate(samples) if number % every], judge


def runner(path: Path) -> compare.Run:
    """The file in ONNX Runtime on one thread, by input names."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(sample: Sample) -> compare.Arrays:
        return [np.asarray(array) for array in session.run(None, dict(sample))]

    return run


def int8_share(model: Any) -> float:
    """Of the weights of convolutions and matrix products."""
    found = onnx_graph.weights(model)
    return (found.get("int8", 0) + found.get("uint8", 0)) / sum(found.values()) if found else 0.0
