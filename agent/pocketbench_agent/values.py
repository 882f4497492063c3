"""Real values and stored ones: what quantized tensors hold, and what that means."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Quantized(Protocol):
    """A tensor as a file declares it. Real value = (stored - zero_point) * scale, along `axis`."""

    @property
    def name(self) -> str:
        """As the file has it."""

    @property
    def dtype(self) -> str:
        """numpy's name."""

    @property
    def scale(self) -> tuple[float, ...]:
        """Empty where the tensor is not quantized."""

    @property
    def zero_point(self) -> tuple[int, ...]:
        """One a scale, or none."""

    @property
    def axis(self) -> int | None:
        """Of several scales."""


def stored_values(array: NDArray[Any], tensor: Quantized) -> NDArray[Any]:
    """Real values as the file stores them: rounded to its grid and clipped to its dtype where it is quantized.

    ValueError: NaN or infinity for a quantized tensor.
    """
    dtype = np.dtype(tensor.dtype)
    if not tensor.scale or dtype.kind not in "iu":
        return array.astype(dtype)
    if not np.isfinite(array).all():
        raise ValueError(f"NaN or infinity for input {tensor.name!r}, which is quantized")
    # In float32 the largest int32 rounds up, out of its range.
    scale, zero = _broadcast(tensor, array.ndim, np.float64)
    limits = np.iinfo(dtype)
    stored: NDArray[Any] = np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(dtype)
    return stored


def real_values(array: NDArray[Any], tensor: Quantized) -> NDArray[Any]:
    """Stored values as real ones, float32 (float64 stays)."""
    if array.dtype.kind == "f":
        return array if array.dtype == np.float64 else array.astype(np.float32)
    if not tensor.scale:
        return array.astype(np.float32) if array.dtype.itemsize < 4 else array
    scale, zero = _broadcast(tensor, array.ndim, np.float32)
    real: NDArray[Any] = ((array.astype(np.float32) - zero) * scale).astype(np.float32)
    return real


def _broadcast(tensor: Quantized, rank: int, dtype: type[np.floating[Any]]) -> tuple[Any, Any]:
    scale = np.asarray(tensor.scale, dtype)
    zero = np.asarray(tensor.zero_point or [0] * len(tensor.scale), dtype)
    if tensor.axis is None or len(scale) == 1:
        return scale[0], zero[0]
    shape = [1] * rank
    shape[tensor.axis] = len(scale)
    return scale.reshape(shape), zero.reshape(shape)
