"""A torch.export program as a module like any other."""

from __future__ import annotations

from typing import Any

import torch
from torchao.quantization.pt2e import allow_exported_model_train_eval


class Exported(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """The program itself refuses eval(), which converters call, and gives nothing back where it is allowed."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = allow_exported_model_train_eval(program.module())

    def forward(self, *inputs: Any) -> Any:
        """As the program."""
        return self.program(*inputs)
