"""The libraries of compression as a careful script calls them: one function a step, without the product."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, qtyping, quantizer
from ai_edge_quantizer import recipe as recipes
from ai_edge_quantizer.utils import qsv_utils
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

# Source, target, samples by input name, and what is to stay float.
Hand = Callable[[Path, Path, Sequence[Mapping[str, Any]], Sequence[str]], object]


def onnx_fp16(source: Path, target: Path, samples: Sequence[Mapping[str, Any]], tail: Sequence[str]) -> None:
    """Half precision."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def onnx_dynamic(source: Path, target: Path, samples: Sequence[Mapping[str, Any]], tail: Sequence[str]) -> None:
    """Int8 weights of matrix products."""
    kind = quantization.QuantType.QInt8
    quantization.quantize_dynamic(str(source), str(target), weight_type=kind, per_channel=True)


def onnx_int4(source: Path, target: Path, samples: Sequence[Mapping[str, Any]], tail: Sequence[str]) -> None:
    """Int4 weights of matrix products."""
    model = ONNXModel(onnx.load(source))
    model.replace_gemm_with_matmul()
    work = MatMulNBitsQuantizer(model.model, block_size=32, is_symmetric=True)
    work.process()
    onnx.save(work.model.model, target)


def onnx_static(source: Path, target: Path, samples: Sequence[Mapping[str, Any]], tail: Sequence[str]) -> None:
    """Int8 with the better of two calibrators, which then has all samples."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, chosen: Sequence[Mapping[str, Any]]) -> None:
            self.left = iter(chosen)

        def get_next(self) -> Any:
            return next(self.left, None)

    fit, judge = _halves(samples)
    before = _onnxruntime(source, judge)
    noise = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)

        def quantize(moving: bool, chosen: Sequence[Mapping[str, Any]], made: Path) -> None:
            quantization.quantize_static(
                str(prepared),
                str(made),
                Reader(chosen),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=list(tail),
                extra_options={"CalibMovingAverage": True} if moving else {},
            )

        for moving in (False, True):
            made = Path(folder) / f"{moving}.onnx"
            quantize(moving, fit, made)
            noise[float(np.square(_onnxruntime(made, judge) - before).mean())] = moving
        quantize(noise[min(noise)], samples, target)


def tflite_fp16(source: Path, target: Path, samples: Sequence[Mapping[str, Any]], tail: Sequence[str]) -> None:
    """Half-precision weights."""
    work = quantizer.Quantizer(bytearray(source.read_bytes()))
    work.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        algorithm_key=recipes.AlgorithmName.FLOAT_CASTING,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
    )
    target.write_bytes(bytes(work.quantize(enable_progress_report=False).quantized_model))


def tflite_by(made: Any) -> Hand:
    """A recipe of the library's own that needs no samples."""

    def hand(source: Path, target: Path, samples: Sequence[Mapping[str, Any]], tail: Sequence[str]) -> None:
        work = quantizer.Quantizer(bytearray(source.read_bytes()), made())
        target.write_bytes(bytes(work.quantize(enable_progress_report=False).quantized_model))

    return hand


def tflite_static(source: Path, target: Path, samples: Sequence[Mapping[str, Any]], tail: Sequence[str]) -> None:
    """Int8 with the better of two calibrators, which then has all samples."""
    fit, judge = _halves(samples)
    content = source.read_bytes()
    key = next(iter(Interpreter(model_content=content).get_signature_list()))
    before = _litert(content, judge)

    def quantize(update: Any, chosen: Sequence[Mapping[str, Any]]) -> bytes:
        work = quantizer.Quantizer(bytearray(content), recipes.static_wi8_ai8())
        for scope in tail:
            work.update_quantization_recipe(
                regex=f"^{re.escape(scope)}$",
                operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
                algorithm_key=recipes.AlgorithmName.NO_QUANTIZE,
            )
        statistics = calibrator.Calibrator(content, num_threads=1, qsv_update_func=update)
        statistics.calibrate({key: [dict(sample) for sample in chosen]}, work._recipe_manager)
        return bytes(work.quantize(statistics.get_model_qsvs(), enable_progress_report=False).quantized_model)

    noise = {}
    for update in (qsv_utils.min_max_update, qsv_utils.moving_average_update):
        noise[float(np.square(_litert(quantize(update, fit), judge) - before).mean())] = update
    target.write_bytes(quantize(noise[min(noise)], samples))


HANDS: Mapping[str, Mapping[str, Hand]] = {
    "onnx": {
        "fp16": onnx_fp16,
        "int8-static": onnx_static,
        "int8-dynamic": onnx_dynamic,
        "int4-weight": onnx_int4,
    },
    "tflite": {
        "fp16": tflite_fp16,
        "int8-static": tflite_static,
        "int8-dynamic": tflite_by(recipes.dynamic_wi8_afp32),
        "int8-weight": tflite_by(recipes.weight_only_wi8_afp32),
        "int4-weight": tflite_by(recipes.weight_only_wi4_afp32),
    },
}


def _halves(samples: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    return [sample for number, sample in enumerate(samples) if number % 4], list(samples[::4])


def _onnxruntime(path: Path, samples: Sequence[Mapping[str, Any]]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, dict(sample))[0] for sample in samples])


def _litert(content: bytes, samples: Sequence[Mapping[str, Any]]) -> Any:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for sample in samples:
        (array,) = sample.values()
        scale, zero = source["quantization"]
        interpreter.set_tensor(
            source["index"], np.clip(np.rint(array / scale) + zero, -128, 127).astype(np.int8) if scale else array
        )
        interpreter.invoke()
        scale, zero = sink["quantization"]
        stored = interpreter.get_tensor(sink["index"])
        found.append((stored.astype(np.float32) - zero) * scale if scale else stored)
    return np.stack(found)
