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
INTEGER_STEPS = 1.0
INTEGER_STEPS_ACROSS = 2.0
# Of what rounding alone does to an output on the host. 40 random images through a quantized MobileNet: between x86 and
# arm64 at most 14 steps and 1 - cosine of 0.0013, between the host's two kinds of kernels at most 10 and 0.0011.
ROUNDING_MARGIN = 2.0
# Accelerators compute quantized models in their own way, off by up to 37 of 255 steps (YOLOv5n) unharmed: above this
# cosine integer outputs are for the accuracy to judge.
ACCELERATED_COSINE = 0.99


def compare(
    outputs: Sequence[Output],
    reference: Sequence[Output],
    same_arch: bool = True,
    rounding: Sequence[Rounding] | None = None,
    accelerated: bool = False,
    precision: str = "as stored",
) -> list[Fidelity]:
    """One Fidelity an output, in stored values; by position, for names may clash; an output without
    a counterpart of its shape is not comparable. `rounding` is how far each output moves when only rounding changes,
    `precision` what the runtime computes in.
    """
    half = precision.startswith("float16")
    fits = rounding is not None and len(rounding) == len(outputs)
    moves: Sequence[Rounding | None] = rounding if rounding is not None and fits else [None] * len(outputs)
    return [
        _compare(
            ours.name, ours.array, theirs.array if theirs is not None else None, same_arch, moved, accelerated, half
        )
        for (ours, theirs), moved in zip(zip_longest(outputs, reference[: len(outputs)]), moves, strict=True)
    ]


def _compare(
    name: str,
    array: NDArray[Any],
    reference: NDArray[Any] | None,
    same_arch: bool,
    moved: Rounding | None,
    accelerated: bool,
    half: bool,
) -> Fidelity:
    if reference is None or reference.shape != array.shape or reference.dtype != array.dtype:
        return Fidelity(name, None, None, 0.0)
    ours, theirs = array.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    if array.dtype.kind == "f":
        largest = float(np.abs(theirs).max(initial=0.0))
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
    if accelerated and array.dtype.kind in "iu" and cosine is not None and cosine >= ACCELERATED_COSINE:
        limits = np.iinfo(array.dtype)
        tolerance = max(tolerance, float(limits.max) - float(limits.min))
    # Both must agree: a few values far off are no rounding, and neither are many that are a little off.
    if moved is not None and cosine is not None and 1.0 - cosine <= ROUNDING_MARGIN**2 * moved.turned:
        tolerance = max(tolerance, ROUNDING_MARGIN * moved.max_abs if np.isfinite(moved.max_abs) else 0.0)
    return Fidelity(name, _finite(cosine), _finite(furthest), tolerance)


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
