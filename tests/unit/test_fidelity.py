"""Outputs against their reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketbench.measurement import Output, Rounding
from pocketbench.results import Fidelity
from pocketbench.verdict import fidelity, verdict


def one(array: Any, reference: Any, dtype: str) -> Fidelity:
    ours, theirs = np.array(array, dtype), np.array(reference, dtype)
    (found,) = fidelity.compare([Output("y", ours)], [Output("y", theirs)])
    return found


def passes(array: Any, reference: Any, dtype: str) -> bool:
    return verdict.within_tolerance(one(array, reference, dtype))


def test_the_same_is_the_same() -> None:
    found = one([1, -2, 3], [1, -2, 3], "float32")
    assert (found.output, found.cosine, found.max_abs) == ("y", 1.0, 0.0)


def test_cosine_and_the_largest_difference() -> None:
    found = one([1, 0], [0, 1], "float32")
    assert (found.cosine, found.max_abs) == (0.0, 1.0)
    assert one([1, 1], [-2, -2], "float64").cosine == pytest.approx(-1.0)


@pytest.mark.parametrize(("dtype", "share"), [("float64", 1e-4), ("float32", 1e-3), ("float16", 1e-2)])
def test_floats_may_differ_by_a_share_of_the_largest(dtype: str, share: float) -> None:
    reference = [100.0, 1.0]
    assert passes([100.0, 1.0 + 100 * share * 0.9], reference, dtype)
    assert not passes([100.0, 1.0 + 100 * share * 1.1], reference, dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_integers_may_differ_by_one_step(dtype: str) -> None:
    assert passes([7, 0], [8, 0], dtype)
    assert not passes([7, 0], [9, 0], dtype)


def test_unsigned_integers_do_not_wrap_around() -> None:
    assert one([0], [255], "uint8").max_abs == 255


def test_truth_may_not_differ_at_all() -> None:
    assert passes([True, False], [True, False], "bool")
    assert not passes([True, False], [True, True], "bool")


def test_zeros_have_no_direction() -> None:
    found = one([0, 0], [0, 1e-9], "float32")
    assert found.cosine is None
    assert not passes([1e-3, 0], [0, 0], "float32")
    assert passes([0, 0], [0, 0], "float32")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_never_within_tolerance_of_a_number(bad: float) -> None:
    assert not passes([1, bad], [1, 2], "float32")
    assert not passes([1, 2], [1, bad], "float32")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_the_same_is_no_mismatch_however_bad(bad: float) -> None:
    assert passes([1, bad], [1, bad], "float32")


def test_huge_values_give_no_infinite_numbers() -> None:
    found = one([1e308, -1e308], [-1e308, 1e308], "float64")
    assert found.max_abs is None
    assert not verdict.within_tolerance(found)


@pytest.mark.parametrize(
    "reference",
    [
        [],
        [Output("y", np.zeros(3, np.float32))],
        [Output("y", np.zeros((2, 1), np.float32))],
        [Output("y", np.zeros(2, np.float64))],
    ],
)
def test_without_a_counterpart_nothing_is_comparable(reference: list[Output]) -> None:
    ours: NDArray[Any] = np.zeros(2, np.float32)
    (found,) = fidelity.compare([Output("y", ours)], reference)
    assert (found.cosine, found.max_abs) == (None, None)
    assert not verdict.within_tolerance(found)


def test_outputs_are_matched_by_position_for_names_may_clash() -> None:
    a, b = Output("same", np.ones(2, np.float32)), Output("same", np.zeros(0, np.float32))
    assert [f.max_abs for f in fidelity.compare([a, b], [a, b])] == [0.0, 0.0]
    assert [f.max_abs for f in fidelity.compare([a, b], [b, a])] == [None, None]


def moved(array: Any, reference: Any, rounding: Rounding) -> Fidelity:
    """Compared across architectures, with what rounding does to the model on the host."""
    ours, theirs = np.array(array, "uint8"), np.array(reference, "uint8")
    (found,) = fidelity.compare([Output("y", ours)], [Output("y", theirs)], False, [rounding])
    return found


def test_what_rounding_does_to_a_model_is_allowed_across_architectures() -> None:
    reference = [200, 30, 20, 10]
    drifted = [205, 27, 20, 11]
    assert not verdict.within_tolerance(moved(drifted, reference, Rounding(0.0, 0.0)))
    allowed = moved(drifted, reference, Rounding(4.0, 0.001))
    assert (allowed.max_abs, allowed.tolerance) == (5.0, 8.0)
    assert verdict.within_tolerance(allowed)
    assert not verdict.within_tolerance(moved([210, 30, 20, 10], reference, Rounding(4.0, 0.001)))


def test_many_small_differences_are_no_rounding() -> None:
    """Scores that are all zero beside large boxes: each within the steps, together not."""
    reference = [200] * 4 + [6] * 200
    dead = [200] * 4 + [0] * 200
    assert not verdict.within_tolerance(moved(dead, reference, Rounding(4.0, 0.001)))
    assert not verdict.within_tolerance(moved(dead, reference, Rounding(float("inf"), float("inf"))))


def test_a_rounding_of_other_outputs_counts_for_nothing() -> None:
    one_output = [Output("y", np.array([1, 9], "uint8"))]
    other = [Output("y", np.array([9, 9], "uint8"))]
    both = [Rounding(9.0, 1.0)] * 2
    (found,) = fidelity.compare(one_output, other, False, both)
    assert found.tolerance == fidelity.INTEGER_STEPS_ACROSS


def test_integers_of_an_accelerator_are_for_the_accuracy_to_judge() -> None:
    """Many steps off in the same direction pass; outputs that point elsewhere do not, and on the CPU neither does."""
    reference = [Output("y", np.arange(100, dtype=np.uint8))]
    near = [Output("y", (np.arange(100) + np.tile([0, 9], 50)).astype(np.uint8))]
    garbage = [Output("y", np.arange(100, dtype=np.uint8)[::-1].copy())]
    assert verdict.within_tolerance(fidelity.compare(near, reference, accelerated=True)[0])
    assert not verdict.within_tolerance(fidelity.compare(garbage, reference, accelerated=True)[0])
    assert not verdict.within_tolerance(fidelity.compare(near, reference)[0])


def test_what_a_quantized_model_makes_of_its_integers_is_judged_as_they_are() -> None:
    """Logits of a QDQ model on an NPU: a step of 0.16 is no error of a float, and garbage is one."""
    rng = np.random.default_rng(2)
    logits = np.round(rng.normal(0, 6, (1, 10)) / 0.0825) * 0.0825
    reference = [Output("y", logits.astype(np.float32))]
    near = [Output("y", (logits + rng.choice([-0.165, 0.0, 0.0825], logits.shape)).astype(np.float32))]
    garbage = [Output("y", rng.normal(0, 6, (1, 10)).astype(np.float32))]

    def agrees(outputs: list[Output], accelerated: bool, quantized: bool) -> bool:
        found = fidelity.compare(outputs, reference, accelerated=accelerated, quantized=quantized)
        return verdict.within_tolerance(found[0])

    assert agrees(near, True, True)
    assert not agrees(near, True, False) and not agrees(near, False, True)
    assert not agrees(garbage, True, True)
    for scale in (3.0, 2.0, 0.5, 0.01):
        scaled = [Output("y", (scale * logits).astype(np.float32))]
        assert not agrees(scaled, True, True), "of another scale is no rounding"
    flags = [Output("b", np.array([[True, False]]))], [Output("b", np.array([[True, True]]))]
    assert not verdict.within_tolerance(fidelity.compare(*flags, accelerated=True, quantized=True)[0])


def test_a_runtime_that_computes_in_half_is_held_to_half() -> None:
    reference = [Output("y", np.linspace(0, 100, 50, dtype=np.float32))]
    ours = [Output("y", reference[0].array + np.float32(0.5))]
    assert verdict.within_tolerance(fidelity.compare(ours, reference, precision="float16 where the GPU chooses it")[0])
    assert not verdict.within_tolerance(fidelity.compare(ours, reference)[0])


def test_half_may_be_further_off_where_all_values_agree() -> None:
    """As ncnn's Vulkan on a real GPU is after 129 layers."""
    values = np.random.default_rng(3).normal(0, 1, 4000).astype(np.float32)
    values[7] = 5.0
    reference, ours = [Output("y", values)], [Output("y", values.copy())]
    ours[0].array[11] += np.float32(0.1)
    assert verdict.within_tolerance(fidelity.compare(ours, reference, precision="float16")[0])
    assert not verdict.within_tolerance(fidelity.compare(ours, reference)[0])
    scattered = [Output("y", values + np.float32(0.06) * np.sign(values))]
    assert not verdict.within_tolerance(fidelity.compare(scattered, reference, precision="float16")[0])


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_scores_that_are_dead_beside_large_boxes(axis: int, dtype: str) -> None:
    """Whatever rounding or half precision allow of the whole; with anchors last, or first."""
    random = np.random.default_rng(5)
    boxes, scores = random.uniform(0, 640, (1, 2000, 4)), random.uniform(0, 0.9, (1, 2000, 6))
    if dtype == "int8":
        boxes, scores = boxes / 6 - 20, scores * 10
    whole = np.concatenate([boxes, scores], axis=2).astype(dtype)
    dead = whole.copy()
    dead[:, :, 4:] = 0
    if axis == 1:
        whole, dead = whole.transpose(0, 2, 1), dead.transpose(0, 2, 1)
    found = fidelity.compare([Output("y", dead)], [Output("y", whole)], accelerated=True, precision="float16")[0]
    assert (found.constant, found.max_abs is not None and found.max_abs <= found.tolerance) == (6, True)
    assert not verdict.within_tolerance(found)
    assert verdict.within_tolerance(fidelity.compare([Output("y", whole)], [Output("y", whole)])[0])
