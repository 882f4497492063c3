"""Half precision for ONNX Runtime: weights and arithmetic, with float32 inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from pocketbench.compress import onnx_graph
from pocketbench.compress.recipe import Context, Done, converted, within_half

# What sums up many products, or multiplies: where values grow.
MAKES_LARGE = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Pow", "Exp", "ReduceSum")
LOOKED_AT = 4


class Float16:
    """Smaller by half; on processors without half-precision arithmetic slower."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """StepFailed for weights, or what they make of samples, beyond what half precision holds."""
        model = onnx_graph.load_float(source)
        names = {name for node in model.graph.node if node.op_type in onnx_graph.WEIGHTED for name in node.input[1:]}
        for tensor in model.graph.initializer:
            if tensor.name in names:
                within_half(f"weights {tensor.name!r} reach", numpy_helper.to_array(tensor))
        _run(model, context)
        target.write_bytes(onnx_graph.strip(convert_float_to_float16(model, keep_io_types=True)))
        return Done({})

    def check(self, source: Path, target: Path) -> Done:
        """Half-precision weights nearly everywhere."""
        found = onnx_graph.weights(onnx_graph.load(target))
        return Done({"float16_share": converted("fp16", found, "float16")})


def _run(model: Any, context: Context) -> None:
    """A few samples in float32, with a look at whatever nodes give: x86 computes half-precision files in float32."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    del shown.graph.output[:]
    makers = {
        name: node.name or name for node in model.graph.node if node.op_type in MAKES_LARGE for name in node.output[:1]
    }
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in makers)
    if not makers or not context.samples:
        return
    session = onnx_graph.session(shown.SerializeToString())
    for sample in context.samples[:LOOKED_AT]:
        for maker, values in zip(makers.values(), session.run(list(makers), dict(sample)), strict=True):
            within_half(f"what {maker} gives reaches", np.abs(values))
