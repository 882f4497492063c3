"""An .onnx file as every step can take it: one file, weights where quantizers look, an operator set that will do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import version_converter

from pocketbench.compress import onnx_graph
from pocketbench.compress.recipe import StepFailed

# The first in which weights can have a scale a channel.
OLDEST_OPSET = 13
# The first of the file format that goes with it.
OLDEST_IR = 7


def convert(source: Path, target: Path) -> Mapping[str, Any]:
    """Write it; byte for byte the same where nothing stands in the way. StepFailed."""
    model = onnx_graph.load(source)
    facts: dict[str, Any] = {}
    if len(onnx_graph.files(source)) > 1:
        facts["weights"] = "brought in from other files"
    moved = _constants(model) + _inputs(model)
    if moved:
        facts["constants"] = moved
    opset = onnx_graph.opset(model)
    if opset < OLDEST_OPSET:
        model.ir_version = max(model.ir_version, OLDEST_IR)
        try:
            model = version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as error:
            raise StepFailed(
                f"{source.name}: is of operator set {opset}; steps need {OLDEST_OPSET}, to which onnx cannot bring it: "
                f"{str(error).splitlines()[0]}"
            ) from error
        facts["opset"] = f"{opset} brought to {OLDEST_OPSET}"
    if facts:
        target.write_bytes(model.SerializeToString(deterministic=True))
    else:
        shutil.copyfile(source, target)
    return {"converter": "none", **facts}


def _constants(model: Any) -> int:
    """Nodes that hold a tensor become initializers."""
    held = onnx_graph.held(model)
    if held:
        model.graph.initializer.extend(held.values())
        kept = [node for node in model.graph.node if node.output[0] not in held]
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return len(held)


def _inputs(model: Any) -> int:
    """Weights of old files are inputs as well, for a caller to replace: no more."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = [one for one in graph.input if one.name not in weights]
    moved = len(graph.input) - len(kept)
    if moved:
        model.ir_version = max(model.ir_version, OLDEST_IR)
        del graph.input[:]
        graph.input.extend(kept)
    return moved
