"""A torch network as one .onnx file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress.recipe import StepFailed, missing_extra
from pocketbench.convert.exporting import exporting

OLDEST_OPSET = 18


def convert(
    network: Any, inputs: Sequence[NDArray[np.float32]], names: Sequence[str], target: Path
) -> Mapping[str, Any]:
    """Write it with static shapes. StepFailed names the operator that cannot be exported, and where it stands."""
    try:
        import onnx
        import torch

        from pocketbench.compress import onnx_graph
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    with exporting("exported to ONNX", inputs) as example:
        network.eval()
        try:
            torch.onnx.export(
                network,
                example,
                str(target),
                dynamo=True,
                # A sidecar file is the default, even for small networks, and is left behind when the file moves.
                external_data=False,
                verbose=False,
                input_names=list(names),
            )
        except Exception as error:
            error.add_note(_place(network, example, error))
            raise
    model = onnx.load(target)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < OLDEST_OPSET:
        raise StepFailed(f"the exporter wrote operator set {opset}, which it does not do well: use a newer torch")
    target.write_bytes(onnx_graph.strip(model))
    return {"opset": opset, "exporter": "torch.onnx dynamo"}


def _place(network: Any, example: tuple[Any, ...], error: BaseException) -> str:
    """Where in the user's code the node stands that the exporter names without its place; empty if unknown."""
    import torch

    named = re.search(r"translating node %(\w+)", str(error))
    if named is None:
        return ""
    nodes = torch.export.export(network, example).run_decompositions().graph.nodes
    return next((node.stack_trace or "" for node in nodes if node.name == named[1]), "")
