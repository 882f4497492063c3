"""What calibration or training saw must not be scored: items are told apart by a hash of their real values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.workload import Predict, TensorInfo, WorkloadFailed, layout

Arrays = Sequence[NDArray[Any]]


def digests(batches: Iterable[Arrays]) -> frozenset[str]:
    """Of each item: a batch has one array an input, with the items along the first axis of each."""
    return frozenset(digest for batch in batches for digest in _items(batch))


class Guard:
    """A Predict that remembers which items were scored that a function of the workload had given before.

    `seen` has digests by the function's name. Items are found again where the same real values come in: channels
    first or last make no difference, another size or an augmentation does.
    """

    def __init__(self, predict: Predict, seen: Mapping[str, frozenset[str]]) -> None:
        self._predict, self._seen = predict, seen
        self._scored: set[str] = set()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The file's inputs, in its order."""
        return self._predict.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The file's outputs, in its order."""
        return self._predict.outputs

    def __call__(self, arrays: NDArray[Any] | Arrays | Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """As the Predict inside."""
        outputs = self._predict(arrays)
        if isinstance(arrays, np.ndarray):
            self._scored.update(_items([arrays]))
        else:
            self._scored.update(_items(list(arrays.values() if isinstance(arrays, Mapping) else arrays)))
        return outputs

    def verify(self, workload: str) -> None:
        """After score(). WorkloadFailed: how many items of which function were scored."""
        for function, digests in self._seen.items():
            both = len(self._scored & digests)
            if both:
                raise WorkloadFailed(
                    f"{workload}: {both} of the {len(self._scored)} items that score() gives to predict() are items of "
                    f"{function}() as well: accuracy on them says nothing, leave them out of one"
                )


def _items(arrays: Arrays) -> list[str]:
    arrays = [np.asarray(array) for array in arrays]
    counts = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(counts) != 1 or 0 in counts:
        # No axis of items: the whole is one.
        return [_digest(arrays)]
    return [_digest([array[at : at + 1] for array in arrays]) for at in range(counts.pop())]


def _digest(arrays: Arrays) -> str:
    # Converters order inputs differently: sorted, the order says nothing.
    return hashlib.sha256("".join(sorted(map(_array, arrays))).encode()).hexdigest()


def _array(array: NDArray[Any]) -> str:
    if layout(array.shape) == "NCHW":
        array = array.transpose(0, 2, 3, 1)
    # Minus zero is zero.
    real = np.ascontiguousarray(array, np.float32) + np.float32(0)
    return hashlib.sha256(repr(real.shape).encode() + real.tobytes()).hexdigest()
