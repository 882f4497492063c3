"""Half precision for ONNX Runtime: weights and arithmetic, with float32 inputs and outputs."""

from __future__ import annotations

from pathlib import Path

from onnxruntime.transformers.float16 import convert_float_to_float16

from pocketbench.compress import onnx_graph
from pocketbench.compress.recipe import Context, Done, converted


class Float16:
    """Smaller by half; on processors without half-precision arithmetic slower."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """Needs no samples."""
        model = convert_float_to_float16(onnx_graph.load(source), keep_io_types=True)
        target.write_bytes(onnx_graph.strip(model))
        return Done({})

    def check(self, source: Path, target: Path) -> Done:
        """Half-precision weights nearly everywhere."""
        found = onnx_graph.weights(onnx_graph.load(target))
        return Done({"float16_share": converted("fp16", found, "float16")})
