"""An ONNX graph as one of operator set 17 had it, the newest that onnx2torch knows well.

Later sets mostly take more types. What else they changed is turned back here as far as it can be said in the older one;
what cannot is left to the comparison with ONNX Runtime that follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from pocketbench.compress import onnx_graph

NEWEST = 17
# Attributes that came later, and the value at which they say nothing.
LATER = {
    ("AveragePool", "dilations"): None,
    ("Cast", "saturate"): None,
    ("Resize", "antialias"): 0,
    ("Resize", "keep_aspect_ratio_policy"): b"stretch",
    ("Split", "num_outputs"): None,
}


def older(model: Any) -> None:
    """In place; nothing where the set is old enough."""
    if onnx_graph.opset(model) <= NEWEST:
        return
    constants = {tensor.name: tensor for tensor in model.graph.initializer} | dict(onnx_graph.held(model))
    nodes = [made for node in model.graph.node for made in _older(node, constants)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = NEWEST


def _older(node: Any, constants: dict[str, Any]) -> Iterator[Any]:
    kept = [one for one in node.attribute if not _says_nothing(node.op_type, one)]
    del node.attribute[:]
    node.attribute.extend(kept)
    if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1:
        axes = numpy_helper.to_array(constants[node.input[1]]) if node.input[1] in constants else np.empty(0)
        if axes.size:
            del node.input[1:]
            others = [one for one in node.attribute if one.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend([*others, helper.make_attribute("axes", axes.tolist())])
    if node.op_type == "Gelu" and not any(one.name == "approximate" and one.s != b"none" for one in node.attribute):
        yield from _gelu(node)
    else:
        yield node


def _says_nothing(kind: str, attribute: Any) -> bool:
    if (kind, attribute.name) not in LATER:
        return False
    plain = LATER[kind, attribute.name]
    return plain is None or helper.get_attribute_value(attribute) == plain


def _gelu(node: Any) -> Iterator[Any]:
    """x / 2 (1 + erf(x / sqrt 2)), which the later operator is defined by."""
    given, made = node.input[0], node.output[0]
    named = {name: f"{made}/{name}" for name in ("scale", "one", "half", "scaled", "erf", "sum", "product")}
    for name, value in (("scale", 1 / math.sqrt(2)), ("one", 1.0), ("half", 0.5)):
        tensor = numpy_helper.from_array(np.array(value, np.float32), named[name])
        yield helper.make_node("Constant", [], [named[name]], value=tensor)
    yield helper.make_node("Mul", [given, named["scale"]], [named["scaled"]])
    yield helper.make_node("Erf", [named["scaled"]], [named["erf"]])
    yield helper.make_node("Add", [named["erf"], named["one"]], [named["sum"]])
    yield helper.make_node("Mul", [given, named["sum"]], [named["product"]])
    yield helper.make_node("Mul", [named["product"], named["half"]], [made])
