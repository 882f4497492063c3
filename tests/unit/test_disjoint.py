"""Items that calibration or training saw, and that are scored all the same, are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pocketbench.compress.disjoint import Guard, digests
from pocketbench.measurement import Tensor
from pocketbench.workload import DevicePredict, WorkloadFailed
from tests.unit import facts

IMAGES = np.random.default_rng(0).random((6, 3, 8, 8)).astype(np.float32)


def guard(seen: dict[str, frozenset[str]], *inputs: Tensor) -> Guard:
    """Over a file with these inputs, which answers with what it got."""
    made = replace(
        facts.FILE_FACTS,
        inputs=inputs or (Tensor("x", "float32", (1, 3, 8, 8)),),
        outputs=(Tensor("y", "float32", (1, 2)),),
    )
    return Guard(DevicePredict(lambda arrays: [arrays[0]], made), seen)


def scored(made: Guard, *arrays: Any) -> Guard:
    for array in arrays:
        made(array)
    return made


def test_other_items_are_no_overlap() -> None:
    made = scored(guard({"calibration_batches": digests([[IMAGES[:3]]])}), IMAGES[3:4], IMAGES[4:5])
    made.verify("w.py")
    assert (made.inputs[0].name, made.outputs[0].name) == ("x", "y")


def test_the_message_names_the_function_and_counts_items_once() -> None:
    seen = {"train_batches": digests([[IMAGES[:1]]]), "calibration_batches": digests([[IMAGES[2:]]])}
    made = scored(guard(seen), IMAGES[1:2], IMAGES[2:3], IMAGES[2:3], IMAGES[3:4])
    with pytest.raises(WorkloadFailed, match=r"w\.py: 2 of the 3 items .* of calibration_batches\(\) as well"):
        made.verify("w.py")


@pytest.mark.parametrize(
    "again",
    [
        IMAGES[:1].transpose(0, 2, 3, 1),
        IMAGES[:1].astype(np.float64),
        np.asfortranarray(IMAGES[:1]),
        [IMAGES[:1]],
        {"x": IMAGES[:1]},
    ],
    ids=["channels last", "float64", "memory order", "sequence", "names"],
)
def test_the_same_values_are_the_same_item(again: Any) -> None:
    shape = (1, 8, 8, 3) if getattr(again, "shape", (1, 3))[1] == 8 else (1, 3, 8, 8)
    made = scored(guard({"calibration_batches": digests([[IMAGES]])}, Tensor("x", "float32", shape)), again)
    with pytest.raises(WorkloadFailed, match="1 of the 1 items"):
        made.verify("w.py")


def test_a_quantized_file_is_judged_by_what_the_workload_gave() -> None:
    coarse = Tensor("x", "int8", (1, 3, 8, 8), (0.5,), (0,))
    near = IMAGES[:1] + np.float32(1e-3)
    scored(guard({"calibration_batches": digests([[IMAGES]])}, coarse), near).verify("w.py")
    with pytest.raises(WorkloadFailed):
        scored(guard({"calibration_batches": digests([[IMAGES]])}, coarse), IMAGES[:1]).verify("w.py")


def test_items_of_a_batch_are_looked_at_one_by_one() -> None:
    made = scored(
        guard({"calibration_batches": digests([[IMAGES[:1]], [IMAGES[1:2]]])}, Tensor("x", "float32", IMAGES.shape)),
        IMAGES,
    )
    with pytest.raises(WorkloadFailed, match="2 of the 6 items"):
        made.verify("w.py")


def test_several_inputs_are_one_item_whatever_their_order() -> None:
    a, b = Tensor("a", "float32", (1, 2)), Tensor("b", "float32", (1, 3))
    one, two, other = np.ones((1, 2), "f4"), np.full((1, 3), 2, "f4"), np.full((1, 3), 3, "f4")
    seen = {"calibration_batches": digests([[two, one]])}
    scored(guard(seen, a, b), [one, other]).verify("w.py")
    with pytest.raises(WorkloadFailed):
        scored(guard(seen, a, b), [one, two]).verify("w.py")


def test_shape_counts_and_minus_zero_does_not() -> None:
    flat, square = np.zeros((1, 4), "f4"), np.zeros((1, 2, 2), "f4")
    assert digests([[flat]]) != digests([[square]])
    assert digests([[flat]]) == digests([[-flat]])
    assert len(digests([[np.array(3, "f4")], [np.zeros((0, 3))]])) == 2
