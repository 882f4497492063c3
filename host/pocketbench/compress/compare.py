"""Two files of one network on the same inputs: how far apart their outputs are, channel by channel.

A detector's boxes and scores stand in one tensor. Over the whole of it scores that are all zero do not show (a cosine
of 0.998 was seen), so each channel of the last axis is looked at by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress.recipe import Sample

Arrays = list[NDArray[Any]]
Run = Callable[[Sample], Arrays]
# So many rows make a channel of the last axis a thing of its own, and so few channels.
ROWS, CHANNELS = 32, 512
# Of the source's own spread: a channel that moves less has collapsed.
COLLAPSED = 0.01


@dataclass(frozen=True)
class Agreement:
    """Of one output, in real values. `noise` is the root mean square of the difference over that of the source."""

    output: int
    cosine: float
    noise: float
    collapsed: tuple[int, ...]


def agreement(source: Run, result: Run, samples: Sequence[Sample]) -> list[Agreement]:
    """One an output, over all samples."""
    return apart(outputs(source, samples), outputs(result, samples))


def outputs(run: Run, samples: Sequence[Sample]) -> list[Arrays]:
    """Of each sample."""
    return [run(sample) for sample in samples]


def apart(before: Sequence[Arrays], after: Sequence[Arrays]) -> list[Agreement]:
    """The same, of outputs that are there already."""
    return [
        _agreement(position, [b[position] for b in before], [a[position] for a in after])
        for position in range(len(before[0]))
    ]


def worst_noise(found: Sequence[Agreement]) -> float:
    """The largest, infinite where a channel has collapsed: what calibrators are chosen by."""
    return max(float("inf") if one.collapsed else one.noise for one in found)


def _agreement(position: int, before: Arrays, after: Arrays) -> Agreement:
    source = np.stack([array.astype(np.float64) for array in before])
    result = np.stack([array.astype(np.float64) for array in after])
    if source.shape != result.shape or not np.isfinite(result).all():
        return Agreement(position, 0.0, float("inf"), ())
    norms = float(np.linalg.norm(source) * np.linalg.norm(result))
    cosine = float((source * result).sum()) / norms if norms else float(not source.any() and not result.any())
    centred = source - source.mean()
    spread = float(np.sqrt((centred**2).mean()))
    noise = float(np.sqrt(((source - result) ** 2).mean())) / spread if spread else float(np.abs(source - result).max())
    return Agreement(position, cosine, noise, _collapsed(source, result))


def _collapsed(source: NDArray[np.float64], result: NDArray[np.float64]) -> tuple[int, ...]:
    if source.ndim < 3 or source.shape[-1] > CHANNELS or source[..., 0].size < ROWS:
        return ()
    flat = tuple(range(source.ndim - 1))
    before, after = source.std(axis=flat), result.std(axis=flat)
    return tuple(int(c) for c in np.flatnonzero((before > 0) & (after < COLLAPSED * before)))
