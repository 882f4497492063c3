"""Inputs: seeded ones fit the model, a user's .npz is judged with its keys named."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench_agent.errors import StageError
from pocketbench_agent.inputs import from_file, seeded
from pocketbench_agent.runtimes import Array, TensorInfo


def one(dtype: str, seed: int = 0, shape: tuple[int, ...] = (50, 40), **changes: Any) -> Array:
    (array,) = seeded([TensorInfo("x", dtype, shape, **changes)], seed)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    return array


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_in_zero_to_one(dtype: str) -> None:
    array = one(dtype)
    assert 0 <= array.min() < 0.02 and 0.98 < array.max() <= 1
    assert array.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("dtype", "quantized"), [("int8", False), ("uint8", False), ("int16", True), ("int32", True)])
def test_bytes_and_quantized_tensors_take_their_whole_range(dtype: str, quantized: bool) -> None:
    array = one(dtype, shape=(200, 200), scale=(0.1,) if quantized else ())
    limits = np.iinfo(dtype)
    width = limits.max - limits.min
    assert array.min() <= limits.min + width / 1000 and array.max() >= limits.max - width / 1000
    if dtype in ("int8", "uint8"):
        assert set(np.unique(array)) == set(range(limits.min, limits.max + 1))


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint32", "bool"])
def test_indices_are_zero_or_one(dtype: str) -> None:
    assert set(np.unique(one(dtype)).tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", ["float32", "int8", "int64", "bool"])
def test_the_seed_decides(dtype: str) -> None:
    assert np.array_equal(one(dtype, seed=3), one(dtype, seed=3))
    assert not np.array_equal(one(dtype, seed=3), one(dtype, seed=4))


def test_inputs_differ_from_each_other_and_scalars_are_made() -> None:
    infos = [TensorInfo(name, "float32", shape) for name, shape in (("a", (3,)), ("b", (3,)), ("c", ()))]
    a, b, c = seeded(infos, 1)
    assert not np.array_equal(a, b)
    assert c.shape == ()


A = TensorInfo("serving_a:0", "float32", (2,), alias="a")
B = TensorInfo("b", "int32", (1, 2))
ARRAY_A, ARRAY_B = np.array([1, 2], np.float32), np.array([[3, 4]], np.int32)


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "inputs.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("keys", [("a", "b"), ("serving_a:0", "b"), ("0", "1"), ("a", "1")])
def test_arrays_are_found_by_alias_name_or_position(tmp_path: Path, keys: tuple[str, str]) -> None:
    path = save(tmp_path, **{keys[1]: ARRAY_B, keys[0]: ARRAY_A})
    a, b = from_file(path, [A, B])
    assert (a.tolist(), b.tolist()) == ([1, 2], [[3, 4]])


def test_arrays_come_contiguous(tmp_path: Path) -> None:
    info = TensorInfo("x", "float32", (3, 2))
    (array,) = from_file(save(tmp_path, x=np.arange(6, dtype=np.float32).reshape(2, 3).T), [info])
    assert array.flags.c_contiguous and array.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": ARRAY_B}, r"no array for input 'a'; it has 'b', the inputs are 'a', 'b'"),
        ({}, r"no array for input 'a'; it has nothing"),
        ({"a": ARRAY_A, "b": ARRAY_B, "zz": ARRAY_A}, r"'zz' fits no input"),
        ({"a": ARRAY_A, "0": ARRAY_A, "b": ARRAY_B}, r"'0' fits no input"),
        ({"a": ARRAY_A.astype(np.float64), "b": ARRAY_B}, r"'a' is float64, the model wants float32"),
        ({"a": ARRAY_A.astype(">f4"), "b": ARRAY_B}, r"'a' is >f4, the model wants float32"),
        ({"a": ARRAY_A, "b": ARRAY_B.T}, r"'b' has shape 2x1, the model wants 1x2"),
        ({"a": np.float32(1), "b": ARRAY_B}, r"'a' has shape scalar, the model wants 2"),
    ],
)
def test_each_error_names_the_key(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=f"--inputs.*{message}"):
        from_file(save(tmp_path, **arrays), [A, B])


def refused(path: Path) -> None:
    with pytest.raises(StageError, match=r"--inputs is not a readable \.npz"):
        from_file(path, [A])


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    refused(save(tmp_path, a=np.array([Trap()], object)))
    np.save(tmp_path / "object.npy", np.array([Trap()], object))
    refused(tmp_path / "object.npy")
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", ARRAY_A)
    (tmp_path / "text").write_text("a,b\n1,2\n")
    (tmp_path / "empty").touch()
    with zipfile.ZipFile(tmp_path / "notes.npz", "w") as archive:
        archive.writestr("a.npy", "hello")
    for name in ("one.npy", "text", "empty", "missing", ".", "notes.npz"):
        refused(tmp_path / name)


@given(st.data())
def test_a_damaged_npz_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    np.savez_compressed(path, a=ARRAY_A)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        (array,) = from_file(path, [A])
    except StageError:
        return
    assert array.shape == (2,)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, a=ARRAY_A)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path)
