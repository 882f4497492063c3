"""Workloads: real values in and out, and user code that misbehaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketbench import workload
from pocketbench.errors import UsageError
from pocketbench.measurement import Tensor
from pocketbench.workload import DevicePredict, WorkloadFailed
from pocketbench_agent.values import real_values, stored_values
from tests.unit import facts

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")


def grid(dtype: str, channels: int, scales: Sequence[float], zeros: Sequence[int], axis: int | None) -> Tensor:
    return Tensor("x", dtype, (2, channels, 3), tuple(scales), tuple(zeros), axis)


@given(st.sampled_from(INTEGERS), st.floats(1e-4, 10), st.data())
def test_a_value_comes_back_within_half_a_step(dtype: str, scale: float, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    low, high = max(limits.min, -30_000), min(limits.max, 30_000)
    zero = data.draw(st.integers(max(low, -300), min(high, 300)))
    tensor = grid(dtype, 4, [scale], [zero], None)
    steps = st.floats(float(low - zero), float(high - zero))
    real = np.array(data.draw(st.lists(steps, min_size=24, max_size=24))).reshape(2, 4, 3) * scale
    stored = stored_values(real, tensor)
    assert stored.dtype == np.dtype(dtype)
    again = real_values(stored, tensor)
    assert again.dtype == np.float32
    assert np.abs(again - real).max() <= scale * (0.5 + 1e-2)


@given(st.sampled_from(("int8", "uint8", "int16")), st.data())
def test_each_channel_has_its_own_step(dtype: str, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    scales = data.draw(st.lists(st.floats(1e-3, 10), min_size=4, max_size=4))
    zeros = data.draw(st.lists(st.integers(max(limits.min, -100), 100), min_size=4, max_size=4))
    tensor = grid(dtype, 4, scales, zeros, 1)
    steps = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(-20, 20, (2, 4, 3))
    offset = np.array(zeros).reshape(1, 4, 1)
    steps = np.clip(steps, limits.min - offset, limits.max - offset)
    real = steps * np.array(scales).reshape(1, 4, 1)
    error = np.abs(real_values(stored_values(real, tensor), tensor) - real)
    assert (error.max(axis=(0, 2)) <= np.array(scales) * (0.5 + 1e-3)).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_what_lies_outside_is_clipped(dtype: str) -> None:
    limits = np.iinfo(dtype)
    far = np.array([-1e12, 1e12], np.float32)
    stored = stored_values(far, Tensor("x", dtype, (2,), (0.5,), (3,)))
    assert stored.tolist() == [limits.min, limits.max]


def test_an_unquantized_tensor_takes_its_dtype() -> None:
    assert stored_values(np.array([1.5]), Tensor("x", "float32", (1,))).dtype == np.float32
    ids = stored_values(np.array([7.0]), Tensor("x", "int64", (1,)))
    assert (ids.dtype, ids.tolist()) == (np.dtype(np.int64), [7])


@pytest.mark.parametrize(
    ("given_dtype", "real_dtype"),
    [("float16", "float32"), ("float64", "float64"), ("uint8", "float32"), ("int64", "int64"), ("int32", "int32")],
)
def test_real_values_of_unquantized_outputs(given_dtype: str, real_dtype: str) -> None:
    array = np.array([1, 2], given_dtype)
    real = real_values(array, Tensor("y", given_dtype, (2,)))
    assert (real.dtype.name, real.tolist()) == (real_dtype, [1, 2])


def predict(*inputs: Tensor) -> tuple[DevicePredict, list[list[NDArray[Any]]]]:
    """A predict over a call that answers each input with itself, and what it was called with."""
    seen: list[list[NDArray[Any]]] = []

    def call(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        seen.append(list(arrays))
        return list(arrays)

    return DevicePredict(call, replace(facts.FILE_FACTS, inputs=inputs, outputs=inputs)), seen


A = Tensor("a", "int8", (1, 2), (0.5,), (0,))
B = Tensor("b", "float32", (3,))


def test_predict_quantizes_what_goes_in_and_dequantizes_what_comes_out() -> None:
    made, seen = predict(A)
    (out,) = made(np.array([[1.0, -2.0]]))
    assert (seen[0][0].dtype.name, seen[0][0].tolist()) == ("int8", [[2, -4]])
    assert out.tolist() == [[1.0, -2.0]]


def test_predict_keeps_the_stored_values_of_its_first_call() -> None:
    made, _ = predict(A)
    assert made.first is None
    for value in (1.0, 5.0):
        made(np.full((1, 2), value))
    assert made.first is not None
    assert [array.tolist() for array in made.first] == [[[2, 2]]]


def test_predict_takes_a_sequence_or_names() -> None:
    made, seen = predict(A, B)
    a, b = np.ones((1, 2)), np.arange(3)
    made([a, b])
    made({"b": b, "a": a})
    assert [[x.tolist() for x in call] for call in seen] == [[[[2, 2]], [0.0, 1.0, 2.0]]] * 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (np.ones((1, 2)), r"got 1 arrays, the inputs are \['a', 'b'\]"),
        ({"a": np.ones((1, 2)), "c": np.ones(3)}, r"got \['a', 'c'\], the inputs are \['a', 'b'\]"),
        ([np.ones((2, 1)), np.ones(3)], r"shape \[2, 1\] for input 'a', which wants \[1, 2\]"),
    ],
)
def test_predict_says_what_does_not_fit(arrays: Any, message: str) -> None:
    made, seen = predict(A, B)
    with pytest.raises(WorkloadFailed, match=message):
        made(arrays)
    assert seen == []


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 3, 224, 224), "NCHW"),
        ((1, 224, 224, 3), "NHWC"),
        ((1, 1, 28, 28), "NCHW"),
        ((1, 3, 224, 3), None),
        ((1, 8, 224, 224), None),
        ((1, 224, 3), None),
    ],
)
def test_layout_is_told_from_the_channels(shape: tuple[int, ...], layout: str | None) -> None:
    made, _ = predict(Tensor("x", "float32", shape))
    assert made.inputs[0].layout == layout
    assert (made.inputs[0].name, made.inputs[0].shape) == ("x", shape)


HEAD = "import numpy as np\nfrom pocketbench.workload import Score\n"


def write(folder: Path, body: str, name: str = "work.py") -> Path:
    path = folder / name
    path.write_text(HEAD + body)
    return path


def test_a_workload_is_loaded_and_scores(tmp_path: Path) -> None:
    path = write(
        tmp_path, "def score(predict):\n    return Score('top-1', [float(predict(np.ones((1, 2)))[0].mean())])\n"
    )
    made, _ = predict(A)
    loaded = workload.load(path)
    assert loaded.score(made).per_item == [1.0]
    assert len(loaded.sha256) == 64


@pytest.mark.parametrize("held", ["class workload:", "class Kept:"])
def test_a_workload_may_be_an_object_in_the_file(tmp_path: Path, held: str) -> None:
    """A class is made one; a module of that name, ours for one, is none."""
    scored = "return Score('top-1', [float(predict(np.ones((1, 2)))[0].mean())])"
    body = f"{held}\n    def score(self, predict):\n        {scored}\n"
    path = write(tmp_path, body + ("" if held == "class workload:" else "workload = Kept()\n"))
    made, _ = predict(A)
    assert workload.load(path).score(made).per_item == [1.0]
    path = write(tmp_path, "from pocketbench import workload\ndef score(predict):\n    return Score('top-1', [0.5])\n")
    assert workload.load(path).score(made).per_item == [0.5]
    path = write(tmp_path, "class workload:\n    def __init__(self):\n        1 / 0\n")
    with pytest.raises(UsageError, match=r"workload\(\) raised ZeroDivisionError: .*\(work\.py:\d+\)"):
        workload.load(path)


def test_a_workload_may_hold_dataclasses(tmp_path: Path) -> None:
    body = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\n"
    path = tmp_path / "work.py"
    path.write_text(body + "def score(predict):\n    pass\n")
    assert workload.load(path).module.D(3).x == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import nothing_of_that_name\n", r"does not import: ModuleNotFoundError: .*\(work\.py:3\)"),
        ("x = 1\ny = x / 0\n", r"does not import: ZeroDivisionError: .*\(work\.py:4\)"),
        ("def score(predict:\n", r"does not import: SyntaxError: .*work\.py, line 3"),
        ("", r"has no function score\(predict\)"),
        ("score = 3\n", r"has no function score\(predict\)"),
    ],
)
def test_a_workload_that_cannot_be_used_is_a_usage_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        workload.load(write(tmp_path, body))


def test_only_what_scores_needs_a_score(tmp_path: Path) -> None:
    assert not hasattr(workload.load(write(tmp_path, "x = 1\n"), scores=False).module, "score")


def test_the_line_is_named_for_a_relative_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "raise RuntimeError('no')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"work\.py:3"):
        workload.load(Path("work.py"))


def test_a_missing_workload_a_folder_and_a_text_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        workload.load(tmp_path / "none.py")
    with pytest.raises(UsageError, match="is a folder"):
        workload.load(tmp_path)
    with pytest.raises(UsageError, match="not a Python file"):
        workload.load(write(tmp_path, "", "notes.txt"))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned NoneType, not a Score"),
        ("0.9", "returned float, not a Score"),
        ("Score('m', [])", "returned no items"),
        ("Score('m', 0.5)", "returned no items"),
        ("Score('m', [[1.0]])", "returned no items"),
        ("Score('m', [1.0, float('nan'), float('inf')])", "2 items that are NaN or infinite"),
        ("Score('m', [1.0], others={'k': float('nan')})", "a further metric that is NaN"),
        ("Score('m', ['a'])", "items that are no numbers"),
        ("Score('m', [1.0], others={'k': None})", "a further metric that is no number"),
    ],
)
def test_what_is_no_score_fails_the_workload(tmp_path: Path, returned: str, message: str) -> None:
    loaded = workload.load(write(tmp_path, f"def score(predict):\n    return {returned}\n"))
    with pytest.raises(WorkloadFailed, match=rf"work\.py: score\(\) returned .*{message}|work\.py: .*{message}"):
        loaded.score(predict(A)[0])


def test_a_score_that_raises_names_the_line(tmp_path: Path) -> None:
    body = "def inner():\n    return {}['k']\ndef score(predict):\n    return inner()\n"
    with pytest.raises(WorkloadFailed, match=r"work\.py: score\(\) raised KeyError: 'k' \(work\.py:4\)"):
        workload.load(write(tmp_path, body)).score(predict(A)[0])


def test_a_score_that_gives_a_wrong_shape_is_told_which(tmp_path: Path) -> None:
    body = "def score(predict):\n    predict(np.ones(5))\n"
    with pytest.raises(WorkloadFailed, match=r"shape \[5\] for input 'a'"):
        workload.load(write(tmp_path, body)).score(predict(A)[0])
