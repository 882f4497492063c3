"""Inputs of the timed runs: from an .npz, or seeded so that they fit dtype, quantization and integer ranges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pocketbench_agent.errors import StageError
from pocketbench_agent.runtimes import Array, TensorInfo


def seeded(inputs: Sequence[TensorInfo], seed: int) -> list[Array]:
    """One array an input.

    Floats are uniform in 0..1 (negative values break square roots and logarithms in real models); one-byte
    integers and quantized tensors take their whole range; other integers are 0 or 1, because they are often
    indices and anything larger may point outside a table.
    """
    rng = np.random.default_rng(seed)
    # Of a tensor without dimensions numpy makes a bare number.
    return [np.asarray(_seeded_one(info, rng)) for info in inputs]


def _seeded_one(info: TensorInfo, rng: np.random.Generator) -> Array:
    dtype = np.dtype(info.dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, info.shape).astype(dtype)
    if dtype.kind in "iu":
        if dtype.itemsize == 1 or info.scale:
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max, info.shape, dtype=dtype, endpoint=True)
        return rng.integers(0, 2, info.shape, dtype=dtype)
    return rng.random(info.shape, dtype=np.float32).astype(dtype)


def from_file(path: Path, inputs: Sequence[TensorInfo]) -> list[Array]:
    """The arrays of an .npz, by signature name, else tensor name, else position ("0", "1", ...).

    Raises StageError naming the key where one is missing, superfluous, or of another dtype or shape.
    """
    arrays = _arrays(path)
    chosen: list[Array] = []
    used: set[str] = set()
    for position, info in enumerate(inputs):
        key = next((k for k in (info.alias, info.name, str(position)) if k is not None and k in arrays), None)
        if key is None:
            names = ", ".join(repr(i.alias or i.name) for i in inputs)
            raise StageError(
                f"--inputs has no array for input {info.alias or info.name!r}; "
                f"it has {', '.join(map(repr, arrays)) or 'nothing'}, the inputs are {names}"
            )
        array = arrays[key]
        if array.dtype != np.dtype(info.dtype):
            raise StageError(f"--inputs: {key!r} is {array.dtype}, the model wants {info.dtype}")
        if array.shape != info.shape:
            raise StageError(f"--inputs: {key!r} has shape {_shown(array.shape)}, the model wants {_shown(info.shape)}")
        used.add(key)
        chosen.append(np.asarray(array, order="C"))
    extra = sorted(set(arrays) - used)
    if extra:
        raise StageError(f"--inputs: {', '.join(map(repr, extra))} fits no input of the model")
    return chosen


def _arrays(path: Path) -> dict[str, Array]:
    try:
        # Opened here, because numpy leaves its own file open when the archive is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array; numpy.savez gives an .npz")
            with archive:
                arrays = {key: archive[key] for key in archive.files}
        strange = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
        if strange:
            raise ValueError(f"{strange[0]!r} is no array")
    except Exception as error:  # zipfile, zlib and numpy's header each raise their own
        raise StageError(f"--inputs is not a readable .npz: {error}") from error
    return arrays


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
