"""Modules that take the place of onnx2torch's where those read a shape from a tensor, which no exporter can trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Reshape(nn.Module):  # type: ignore[misc, unused-ignore]
    """0 keeps a dimension, as in ONNX."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = list(shape)

    def forward(self, given: Any) -> Any:
        """To that shape."""
        return given.reshape([given.shape[axis] if size == 0 else size for axis, size in enumerate(self.shape)])


class Resize(nn.Module):  # type: ignore[misc, unused-ignore]
    """Of the axes after batch and channels: by factors or, where there are none, to a size."""

    def __init__(
        self, factors: Sequence[float] | None, size: Sequence[int] | None, mode: str, align_corners: bool | None
    ) -> None:
        super().__init__()
        self.factors, self.size = factors and tuple(factors), size and tuple(size)
        self.mode, self.align_corners = mode, align_corners

    def forward(self, given: Any) -> Any:
        """Interpolated."""
        return functional.interpolate(given, self.size, self.factors, mode=self.mode, align_corners=self.align_corners)


class Split(nn.Module):  # type: ignore[misc, unused-ignore]
    """Into parts of those sizes along an axis."""

    def __init__(self, sizes: Sequence[int], axis: int) -> None:
        super().__init__()
        self.sizes, self.axis = list(sizes), axis

    def forward(self, given: Any) -> Any:
        """A tuple."""
        return torch.split(given, self.sizes, dim=self.axis)


class Power(nn.Module):  # type: ignore[misc, unused-ignore]
    """To a constant exponent. LiteRT has no power with an exponent that is a tensor."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, given: Any) -> Any:
        """Element by element."""
        return given * given if self.exponent == 2 else torch.pow(given, self.exponent)
