"""ai-edge-quantizer, with what it takes to trust it: dead channels, a float tail, a calibrator that was chosen."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, qtyping, quantizer
from ai_edge_quantizer import recipe as recipes
from ai_edge_quantizer.utils import qsv_utils

from pocketbench.compress import calibrators, compare, tflite_graph
from pocketbench.compress.recipe import Context, Done, Sample, StepFailed, converted, in_order

CALIBRATORS: Mapping[str, Callable[..., Any]] = {
    "min-max": qsv_utils.min_max_update,
    "moving average": qsv_utils.moving_average_update,
}


class Static:
    """Int8 weights per channel and int8 activations; inputs and outputs of the file are int8, but for a float tail."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """The better of the calibrators, by the noise on samples that they have not seen."""
        model = tflite_graph.load_float(source)
        tail = tflite_graph.tail(model)
        shrunk = tflite_graph.shrink_repeats(model)
        mended, revived = tflite_graph.revive_dead_channels(model)
        key = next(iter(Interpreter(model_content=bytes(mended)).get_signature_list()))
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            written = Path(scratch) / "quantized.tflite"

            def quantize(name: str, samples: Iterator[Sample]) -> None:
                work = quantizer.Quantizer(bytearray(mended), recipes.static_wi8_ai8())
                for scope in tail:
                    work.update_quantization_recipe(
                        regex=f"^{re.escape(scope)}$",
                        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
                        algorithm_key=recipes.AlgorithmName.NO_QUANTIZE,
                    )
                statistics = calibrator.Calibrator(bytes(mended), num_threads=1, qsv_update_func=CALIBRATORS[name])
                for sample in samples:
                    statistics.calibrate({key: [dict(sample)]}, work._recipe_manager)
                result = work.quantize(statistics.get_model_qsvs(), enable_progress_report=False)
                written.write_bytes(bytes(result.quantized_model))

            chosen = calibrators.choose(CALIBRATORS, quantize, written, runner, source, context)
        target.write_bytes(chosen.content)
        facts = {
            "calibrator": chosen.name,
            "calibration_samples": len(context.samples),
            "noise_by_calibrator": chosen.noise,
            "dead_channels": revived,
            "float_tail": tail,
            "repeats_left_out_bytes": shrunk,
        }
        found = (
            (f"{revived} channels had no weights but a bias, which the quantizer would have lost",) if revived else ()
        )
        return Done(facts, found)

    def check(self, source: Path, target: Path) -> Done:
        """Int8 weights nearly everywhere, and no bias at the end of its range."""
        model = tflite_graph.load(target)
        lost = tflite_graph.saturated_biases(model)
        if lost:
            raise StepFailed(f"int8-static: biases do not fit their scale and were cut off: {', '.join(lost[:3])}")
        return _int8("int8-static", model)


class Dynamic:
    """Int8 weights, activations quantized while it runs."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """Needs no samples."""
        return _by_recipe(source, target, recipes.dynamic_wi8_afp32())

    def check(self, source: Path, target: Path) -> Done:
        """Int8 weights nearly everywhere."""
        return _int8("int8-dynamic", tflite_graph.load(target))


class WeightOnly:
    """Int8 weights, made float again as they are used."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """Needs no samples."""
        return _by_recipe(source, target, recipes.weight_only_wi8_afp32())

    def check(self, source: Path, target: Path) -> Done:
        """Int8 weights nearly everywhere."""
        return _int8("int8-weight", tflite_graph.load(target))


class Int4WeightOnly:
    """Int4 weights with a scale a channel, made float again as they are used."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """Needs no samples."""
        return _by_recipe(source, target, recipes.weight_only_wi4_afp32())

    def check(self, source: Path, target: Path) -> Done:
        """Int4 weights nearly everywhere: in blocks instead of channels the library leaves convolutions as they are."""
        model = tflite_graph.load(target)
        share = converted("int4-weight", tflite_graph.weights(model), "int4")
        return Done({"int4_share": share, "operators": tflite_graph.operators(model)})


class Float16:
    """Half-precision weights, made float again as they are used."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """StepFailed for weights beyond what half precision holds: the library makes them infinite."""
        tflite_graph.within_half(tflite_graph.load_float(source))
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
        result = work.quantize(enable_progress_report=False)
        target.write_bytes(bytes(result.quantized_model))
        return Done({})

    def check(self, source: Path, target: Path) -> Done:
        """Half-precision weights nearly everywhere."""
        found = tflite_graph.weights(tflite_graph.load(target))
        return Done({"float16_share": converted("fp16", found, "float16")})


def runner(path: Path) -> compare.Run:
    """The file in LiteRT on one thread, by the names of its signature; real values in and out."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    inputs, outputs = signature.get_input_details(), signature.get_output_details()

    def run(sample: Any) -> compare.Arrays:
        stored = {name: _stored(array, inputs[name]) for name, array in sample.items()}
        found = signature(**stored)
        return [_real(found[name], outputs[name]) for name in in_order(outputs)]

    return run


def _stored(array: Any, detail: Any) -> Any:
    scale, zero = detail["quantization"]
    if not scale:
        return array
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def _real(array: Any, detail: Any) -> Any:
    scale, zero = detail["quantization"]
    return (array.astype(np.float32) - zero) * scale if scale else array


def _by_recipe(source: Path, target: Path, recipe: Any) -> Done:
    tflite_graph.load_float(source)
    result = quantizer.Quantizer(bytearray(source.read_bytes()), recipe).quantize(enable_progress_report=False)
    target.write_bytes(bytes(result.quantized_model))
    return Done({})


def _int8(step: str, model: Any) -> Done:
    share = converted(step, tflite_graph.weights(model), "int8")
    return Done({"int8_share": share, "operators": tflite_graph.operators(model)})
