"""The runtimes on small real files: values, names, shapes, and what each refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.runtimes import LoadOptions, Runtime, create, onnxruntime
from tests.integration.conftest import DIGITS

DATA = Path(__file__).resolve().parents[1] / "data"
TWO = DATA / "two_signatures.tflite"


def loaded(name: str, path: Path, **options: object) -> tuple[Runtime, list[str], list[str]]:
    """A loaded runtime with the names of its inputs and outputs."""
    runtime = create(name)
    facts = runtime.load([path], LoadOptions(threads=1, **options))  # type: ignore[arg-type]
    return runtime, [i.alias or i.name for i in facts.inputs], [o.alias or o.name for o in facts.outputs]


def outputs(runtime: Runtime, *arrays: np.ndarray) -> list[np.ndarray]:
    """One inference."""
    runtime.bind(arrays)
    runtime.run()
    return [array.copy() for array in runtime.read()]


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], results: list[onnx.ValueInfoProto]
) -> Path:
    """An ONNX model of those nodes."""
    graph = helper.make_graph(nodes, "g", inputs, results)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_the_first_signature_is_the_default() -> None:
    runtime, inputs, names = loaded("litert", TWO)
    assert (inputs, names) == (["args_0", "args_1"], ["output_0"])
    a, b = np.full((1, 4), 1, np.float32), np.full((1, 4), 10, np.float32)
    assert np.array_equal(outputs(runtime, a, b)[0], a + 2 * b)
    placed = runtime.placement()
    assert (placed.known, placed.nodes) == (True, 2)


def test_another_signature_runs_its_own_subgraph() -> None:
    runtime, inputs, names = loaded("litert", TWO, signature="triple")
    assert (inputs, names) == (["args_0"], ["tripled"])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for step in range(3):
        assert np.array_equal(outputs(runtime, x + step)[0], 3 * (x + step))
    assert not runtime.placement().known, "the walk sees the first subgraph only"
    runtime.close()


def test_an_unknown_signature_names_the_known_ones() -> None:
    with pytest.raises(StageError, match="'add', 'triple'"):
        loaded("litert", TWO, signature="nosuch")


def test_a_shape_that_contradicts_the_file() -> None:
    with pytest.raises(StageError, match="args_0=1x5 does not fit the file's 1x4"):
        loaded("litert", TWO, shapes={"args_0": (1, 5)})


def test_outputs_whose_size_depends_on_the_input(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1, "n"])
    path = save(tmp_path / "m.onnx", [helper.make_node("NonZero", ["x"], ["y"])], [x], [y])
    runtime, _, _ = loaded("onnxruntime", path)
    assert outputs(runtime, np.array([0, 1, 0, 1, 1, 0], np.float32))[0].tolist() == [[1, 3, 4]]
    assert outputs(runtime, np.array([0, 0, 0, 0, 0, 7], np.float32))[0].tolist() == [[5]]


def test_strings_are_refused_by_name(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in "xy")
    path = save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    with pytest.raises(StageError, match=r"'x' is of type tensor\(string\)"):
        loaded("onnxruntime", path)


def test_scalars_and_half_floats(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, []) for name in "xy")
    path = save(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"])], [x], [y])
    runtime, _, _ = loaded("onnxruntime", path)
    assert outputs(runtime, np.array(1.5, np.float16))[0] == np.float16(-1.5)


def test_a_delegate_that_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "m.null").write_text("{}")
    for name, path in (("litert", TWO), ("null", tmp_path / "m.null")):
        with pytest.raises(NotAvailable, match="'gpu'"):
            loaded(name, path, delegate="gpu")


def test_a_runtime_that_is_not_known() -> None:
    with pytest.raises(NotAvailable, match="this agent knows no runtime 'mnn'"):
        create("mnn")
    with pytest.raises(NotAvailable, match="cannot be imported"):
        create("vendor", "nosuch.module:Class")


@pytest.mark.parametrize(
    ("nodes", "quantized"),
    [
        ([("QuantizeLinear", "xs", "q"), ("DequantizeLinear", "qs", "y")], True),
        ([("DynamicQuantizeLinear", "x", "qrz"), ("DequantizeLinear", "qrz", "y")], True),
        # Weights alone: they become floats, and nothing is rounded.
        ([("DequantizeLinear", "ws", "v"), ("Add", "xv", "y")], False),
    ],
)
def test_a_file_says_whether_it_rounds_to_integers(
    tmp_path: Path, nodes: list[tuple[str, str, str]], quantized: bool
) -> None:
    made = [helper.make_node(op, list(given), list(out), name=f"n{n}") for n, (op, given, out) in enumerate(nodes)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    path = save(tmp_path / "m.onnx", made, [x], [y])
    assert onnxruntime.rounds(path) is quantized


@pytest.mark.parametrize(
    ("name", "quantized"),
    [("digits-float.tflite", False), ("digits-int8.tflite", True)],
)
def test_a_tflite_file_says_it_too(name: str, quantized: bool) -> None:
    runtime, _, _ = loaded("litert", DIGITS / name)
    assert runtime.placement().quantized is quantized
