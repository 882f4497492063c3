"""Two files of one network on the same inputs: how far apart their outputs are, channel by channel.

A detector's boxes and scores stand in one tensor. Over the whole of it scores that are all zero do not show (a cosine
of 0.998 was seen), so each channel is looked at by itself, whether channels stand last or right behind the batch.
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
# An axis with so few entries may be one of channels, and so many values make each a thing of its own.
ROWS, CHANNELS = 32, 512
# Of the source's own spread: a channel that moves less has collapsed.
COLLAPSED = 0.01


@dataclass(frozen=True)
class Agreement:
    """Of one output, in real values. `noise` is the root mean square of the difference over the source's spread, of the
    median channel where it has some: in one number for both, boxes in pixels would drown scores.

    `collapsed` are entries of the last axis, or where there are none, of the one behind the batch.
    """

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
    return Agreement(position, cosine, _noise(source, result), _collapsed(source, result))


def _noise(source: NDArray[np.float64], result: NDArray[np.float64]) -> float:
    """Where channels may stand on two axes, the larger: over places boxes and scores are mixed."""
    tables = zip(by_channel(source), by_channel(result), strict=True)
    found = [_median_noise(before, after) for before, after in tables]
    return max(found) if found else _median_noise(source.reshape(-1, 1), result.reshape(-1, 1))


def _median_noise(source: NDArray[np.float64], result: NDArray[np.float64]) -> float:
    spread, apart = source.std(axis=0), np.sqrt(np.square(source - result).mean(axis=0))
    moves = spread > 0
    return float(np.median(apart[moves] / spread[moves])) if moves.any() else float(apart.max())


def channel_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Of an output, where its channels may stand: the last axis, and the one behind the batch."""
    axes = dict.fromkeys((len(shape) - 1, 1)) if len(shape) > 1 else {}
    return tuple(axis for axis in axes if shape[axis] <= CHANNELS)


def by_channel(outputs: NDArray[Any]) -> list[NDArray[Any]]:
    """Stacked ones as rows of channels, for each axis that has enough values a channel."""
    axes = [axis + 1 for axis in channel_axes(outputs.shape[1:])]
    tables = [np.moveaxis(outputs, axis, -1).reshape(-1, outputs.shape[axis]) for axis in axes]
    return [table for table in tables if len(table) >= ROWS]


def _collapsed(source: NDArray[np.float64], result: NDArray[np.float64]) -> tuple[int, ...]:
    for before, after in zip(by_channel(source), by_channel(result), strict=True):
        spread = before.std(axis=0)
        found = np.flatnonzero((spread > 0) & (after.std(axis=0) < COLLAPSED * spread))
        if found.size:
            return tuple(int(one) for one in found)
    return ()
