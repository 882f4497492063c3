"""Makes two_signatures.tflite (torch, litert-torch): `add` is a + 2 b over [1, 4], `triple` is 3 x over [2, 3]."""

from __future__ import annotations

from pathlib import Path

import litert_torch
import torch


class Add(torch.nn.Module):
    """Two inputs, so that their order is seen."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a + 2 b."""
        return a + 2 * b


class Triple(torch.nn.Module):
    """An output with a name."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """3 x."""
        return {"tripled": x * 3}


if __name__ == "__main__":
    four = torch.ones(1, 4)
    both = litert_torch.signature("add", Add().eval(), (four, four))
    both.signature("triple", Triple().eval(), (torch.ones(2, 3),)).convert().export(
        str(Path(__file__).with_name("two_signatures.tflite"))
    )
