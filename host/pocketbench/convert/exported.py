"""A torch.export program: from its file, and as a module like any other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchao.quantization.pt2e import allow_exported_model_train_eval

from pocketbench.compress.quiet import quiet
from pocketbench.convert.exporting import last_cause
from pocketbench.errors import UsageError


class Exported(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """The program itself refuses eval(), which converters call, and gives nothing back where it is allowed."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = allow_exported_model_train_eval(program.module())

    def forward(self, *inputs: Any) -> Any:
        """As the program."""
        return self.program(*inputs)


def load(path: Path) -> Any:
    """What torch.export.save wrote, which is code: loading it may run what its author liked. UsageError."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:
        raise UsageError(f"{path.name}: no torch.export program that this torch reads: {last_cause(error)}") from error
    finally:
        logging.disable(before)


def inputs(program: Any) -> Mapping[str, tuple[str, list[int]]]:
    """Type and shape of each input by its name, in order; 0 where a dimension is open. UsageError."""
    if program.call_spec.in_spec.child(1).num_leaves:
        raise UsageError("a program with keyword inputs cannot be converted: export it with positional ones")
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    found = {}
    for name in program.graph_signature.user_inputs:
        value = values.get(name)
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"input {name!r} is no tensor: only networks with float32 inputs are converted")
        found[name] = (
            str(value.dtype).removeprefix("torch."),
            [size if isinstance(size, int) else 0 for size in value.shape],
        )
    return found
