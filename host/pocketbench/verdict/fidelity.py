"""Outputs against the reference: same file, same runtime, same bytes, on the host's CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.measurement import Output, Rounding
from pocketbench.results import Fidelity

# Of an output's largest magnitude; integer outputs may differ by one step, booleans not at all.
RELATIVE_TOLERANCE: Mapping[str, float] = {"float64": 1e-4, "float32": 1e-3, "float16": 1e-2}
# What computes in float16 rounds after each of a hundred layers: the furthest of many values may then be this far off
# where all of them together agree (ncnn's Vulkan on an NVIDIA H200: 0.014 of the largest, cosine 0.99999).
HALF_TOLERANCE = 3e-2
HALF_COSINE = 0.9999
# A slice varies where its values are further apart than that: of the output's largest, and of what float16 holds.
VARIES_SHARE, VARIES_HALF, VARIES_STEPS = 1e-6, 1e-3, 4.0
SLICE_VALUES = 16
INTEGER_STEPS = 1.0
INTEGER_STEPS_ACROSS = 2.0
# Of what rounding alone does to an output on the host. 40 random images through a quantized MobileNet: between x86 and
# arm64 at most 14 steps and 1 - cosine of 0.0013, between the host's two kinds of kernels at most 10 and 0.0011.
ROUNDING_MARGIN = 2.0
# Accelerators compute quantized models in their own way, off by up to 37 of 255 steps (YOLOv5n) unharmed: above this
# cosine their outputs are for the accuracy to judge, be they integers or what was made of them.
ACCELERATED_COSINE = 0.99
# For floats the length of the difference as well, of the reference's: what a turn by that cosine makes.
ACCELERATED_ERROR = float(np.sqrt(2 * (1 - ACCELERATED_COSINE)))


def compare(
    outputs: Sequence[Output],
    reference: Sequence[Output],
    same_arch: bool = True,
    rounding: Sequence[Rounding] | None = None,
    accelerated: bool = False,
    precision: str = "as stored",
    quantized: bool = False,
) -> list[Fidelity]:
    """One Fidelity an output, in stored values; by position, for names may clash; an output without
    a counterpart of its shape is not comparable. `rounding` is how far each output moves when only rounding changes,
    `precision` what the runtime computes in; `quantized`, whether the model rounds to integers between its nodes.
    """
    half = precision.startswith("float16")
    fits = rounding is not None and len(rounding) == len(outputs)
    moves: Sequence[Rounding | None] = rounding if rounding is not None and fits else [None] * len(outputs)
    return [
        _compare(
            ours.name,
            ours.array,
            theirs.array if theirs is not None else None,
            same_arch,
            moved,
            accelerated and (quantized or ours.array.dtype.kind in "iu"),
            half,
        )
        for (ours, theirs), moved in zip(zip_longest(outputs, reference[: len(outputs)]), moves, strict=True)
    ]


def _compare(
    name: str,
    array: NDArray[Any],
    reference: NDArray[Any] | None,
    same_arch: bool,
    moved: Rounding | None,
    coarse: bool,
    half: bool,
) -> Fidelity:
    if reference is None or reference.shape != array.shape or reference.dtype != array.dtype:
        return Fidelity(name, None, None, 0.0)
    ours, theirs = array.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    largest = float(np.abs(theirs).max(initial=0.0))
    if array.dtype.kind == "f":
        tolerance = RELATIVE_TOLERANCE.get("float16" if half else array.dtype.name, 1e-3) * largest
    else:
        steps = INTEGER_STEPS if same_arch else INTEGER_STEPS_ACROSS
        tolerance = steps if array.dtype.kind in "iu" else 0.0
    tolerance = tolerance if np.isfinite(tolerance) else 0.0
    if np.array_equal(ours, theirs, equal_nan=True):
        return Fidelity(name, 1.0, 0.0, tolerance)
    # Infinities and huge values end as "not comparable", not as numpy's warnings on a user's terminal.
    with np.errstate(invalid="ignore", over="ignore"):
        norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
        cosine = float(np.dot(ours, theirs)) / norms if norms > 0 else None
        furthest = float(np.abs(ours - theirs).max(initial=0.0))
    if half and array.dtype.kind == "f" and cosine is not None and cosine >= HALF_COSINE:
        tolerance = max(tolerance, HALF_TOLERANCE * largest if np.isfinite(largest) else 0.0)
    if coarse and cosine is not None and cosine >= ACCELERATED_COSINE:
        tolerance = max(tolerance, _coarse(ours, theirs, array.dtype))
    # Both must agree: a few values far off are no rounding, and neither are many that are a little off.
    if moved is not None and cosine is not None and 1.0 - cosine <= ROUNDING_MARGIN**2 * moved.turned:
        tolerance = max(tolerance, ROUNDING_MARGIN * moved.max_abs if np.isfinite(moved.max_abs) else 0.0)
    least = VARIES_STEPS if array.dtype.kind != "f" else max(VARIES_SHARE * largest, VARIES_HALF if half else 0.0)
    constant = _constant(array, reference, least) if array.dtype.kind in "fiu" else 0
    return Fidelity(name, _finite(cosine), _finite(furthest), tolerance, constant)


def _coarse(ours: NDArray[np.float64], theirs: NDArray[np.float64], dtype: np.dtype[Any]) -> float:
    """What a quantized model's output may be off on an accelerator: of integers whatever their type holds, of floats as
    much as the reference holds where it is near as a whole, for a cosine sees no scale.
    """
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return float(limits.max) - float(limits.min)
    if dtype.kind != "f" or not np.linalg.norm(ours - theirs) <= ACCELERATED_ERROR * np.linalg.norm(theirs):
        return 0.0
    return float(np.abs(theirs).max(initial=0.0))


def _constant(array: NDArray[Any], reference: NDArray[Any], least: float) -> int:
    """Slices along any axis that hold one value in `array` and vary by more than `least` in the reference.

    A detector's scores may be all zero beside boxes that are a thousand times larger: neither the largest difference
    nor the cosine of the whole then tells.
    """
    return sum(_constant_along(axis, array, reference, least) for axis in range(array.ndim))


def _constant_along(axis: int, array: NDArray[Any], reference: NDArray[Any], least: float) -> int:
    count = array.shape[axis]
    if count < 2 or array.size < SLICE_VALUES * count:
        return 0
    rest = tuple(other for other in range(array.ndim) if other != axis)
    # Of integers the difference would wrap around; of NaN it is no number, and nothing is told.
    with np.errstate(invalid="ignore", over="ignore"):
        spans = [each.max(rest).astype(np.float64) - each.min(rest).astype(np.float64) for each in (array, reference)]
    return int(np.count_nonzero((spans[0] == 0) & (spans[1] > least)))


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
