"""4-bit weights for ONNX Runtime, which has them for matrix products alone."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel

from pocketbench.compress import onnx_graph
from pocketbench.compress.recipe import CONVERTED_SHARE, Context, Done, StepFailed, converted

# Weights that have a scale in common, along the axis that is summed over.
BLOCK = 32


class WeightOnly:
    """Int4 weights in blocks of 32, made float again as they are used. For matrix products only."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """StepFailed where convolutions have more than a few of the weights: the library passes them by in silence."""
        model = onnx_graph.load_float(source)
        share = _of_convolutions(model)
        if share > 1 - CONVERTED_SHARE:
            raise StepFailed(
                f"int4-weight: ONNX Runtime has 4-bit weights for matrix products only, and {share:.0%} of the weights "
                "here are those of convolutions: use int8-static, or int4-weight for tflite"
            )
        # Gemm, as a linear layer on two dimensions is exported, would be passed by as well.
        prepared = ONNXModel(model)
        prepared.replace_gemm_with_matmul()
        work = _quantizer()(prepared.model, block_size=BLOCK, is_symmetric=True)
        work.process()
        target.write_bytes(onnx_graph.strip(work.model.model))
        return Done({"block": BLOCK})

    def check(self, source: Path, target: Path) -> Done:
        """Int4 weights nearly everywhere."""
        return Done({"int4_share": converted("int4-weight", onnx_graph.weights(onnx.load(target)), "int4")})


def _quantizer() -> Any:
    """The library's, which as it is imported makes the whole program log to stderr: that is taken back."""
    handlers, level = list(logging.root.handlers), logging.root.level
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    return MatMulNBitsQuantizer


def _of_convolutions(model: Any) -> float:
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    held = {name: node for node in model.graph.node if node.op_type in onnx_graph.WEIGHTED for name in node.input[:2]}
    there = sum(sizes.get(name, 0) for name, node in held.items() if "Conv" in node.op_type)
    return float(there / max(1, sum(sizes.get(name, 0) for name in held)))
