"""How far a model's outputs move when nothing but the rounding changes: its fast kernels beside its plain ones.

Quantized nets carry a step of difference in an early layer through all that follow, and other processors round
otherwise. What the two kinds of kernels of one machine make of it says what another machine may make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pocketbench_agent import inputs
from pocketbench_agent.runtimes import Array, LoadOptions, ModelFacts, Runtime

# One input more or less by chance; eight show the size of it.
INPUTS = 8


def spread(
    runtime: Runtime,
    plain: Runtime,
    facts: ModelFacts,
    files: Sequence[Path],
    options: LoadOptions,
    arrays: list[Array],
    seed: int,
) -> Array:
    """Two numbers an output, each the largest over the given input and seeded others, shape (outputs, 2).

    The largest difference in stored values, and 1 - cosine. `runtime` is loaded already. Infinite where the outputs
    cannot be compared.
    """
    plain.load(files, replace(options, plain=True))
    furthest = np.zeros((len(facts.outputs), 2))
    for number in range(INPUTS):
        given = arrays if number == 0 else inputs.seeded(facts.inputs, seed + number)
        for one in (runtime, plain):
            one.bind(given)
            one.run()
        for position, (fast, slow) in enumerate(zip(runtime.read(), plain.read(), strict=True)):
            furthest[position] = np.maximum(furthest[position], _apart(fast, slow))
    plain.close()
    return furthest


def _apart(one: Array, other: Array) -> tuple[float, float]:
    if one.shape != other.shape:
        return float("inf"), float("inf")
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        apart = float(np.abs(a - b).max(initial=0.0))
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        turned = 1.0 - float(np.dot(a, b)) / norms if norms > 0 else 0.0
    return tuple(value if np.isfinite(value) else float("inf") for value in (apart, turned))  # type: ignore[return-value]
