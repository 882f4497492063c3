"""The second way from an .onnx file to TFLite, for operators that onnx2torch does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import platformdirs
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")

from pocketbench.compress import onnx_quantize, tflite_quantize
from pocketbench.compress.recipe import StepFailed
from pocketbench.convert import programs, with_onnx2tf
from tests.compress import nets
from tests.compress.test_pipeline import onnx_workload
from tests.compress.workloads import made

NO_LSTM = "net.onnx: has no way to torch: onnx2torch does not know LSTM"
TOOLS = Path(platformdirs.user_cache_dir("pocketbench")) / "tools"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of stages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pocketbench"


@pytest.fixture
def onnx2tf(cache: Path) -> None:
    """Installed where the user has it: it is large."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True)
    (cache / "tools").symlink_to(TOOLS)
    try:
        programs.onnx2tf(print)
    except StepFailed as error:
        pytest.skip(str(error))


def recurrent(path: Path, *, twice: bool = False) -> Path:
    """An LSTM over the rows of an image, and beside it the image's map, channels first, as other outputs.

    `twice` gives the map away before its activation as well.
    """
    rng = np.random.default_rng(0)
    sizes = {"k": (8, 3, 3, 3), "w": (1, 80, 16), "r": (1, 80, 20), "b": (1, 160), "fc": (20, 10)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, size).astype(np.float32), n) for n, size in sizes.items()]
    weights += [numpy_helper.from_array(np.array([axis]), f"axis{axis}") for axis in (0, 1)]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["map"]),
        helper.make_node("ReduceMax", ["map"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Transpose", ["m"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r", "b"], ["all", "last"], hidden_size=20),
        helper.make_node("Squeeze", ["last", "axis0"], ["s"]),
        helper.make_node("MatMul", ["s", "fc"], ["scores"]),
    ]
    shapes: dict[str, Any] = {
        "scores": ["n", 10],
        "map": ["n", 8, 16, 16],
        **({"c": ["n", 8, 16, 16]} if twice else {}),
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.usefixtures("onnx2tf")
@pytest.mark.parametrize("twice", [False, True])
def test_what_onnx2torch_does_not_know(tmp_path: Path, twice: bool) -> None:
    source = recurrent(tmp_path / "net.onnx", twice=twice)
    before = source.read_bytes()
    found, failed, _ = made(onnx_workload(tmp_path, source), ["fp32", "int8-dynamic"], ["tflite"])
    assert not failed and source.read_bytes() == before
    assert found[0].provenance["did"] == {"converter": "onnx2tf 2.6.9"}
    assert found[0].findings == (f"converted by onnx2tf 2.6.9: {NO_LSTM}",)
    assert found[0].provenance["inputs"] == [{"name": "args_0", "dtype": "float32", "shape": [1, 3, 16, 16]}]
    # One after the other: LiteRT would begin each with the state that the last one left.
    wanted, result = onnx_quantize.runner(source), tflite_quantize.runner(found[0].path)
    for sample in nets.samples(4):
        for one, other in zip(wanted(sample), result({"args_0": sample["x"]}), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-3)


@pytest.mark.usefixtures("onnx2tf")
def test_an_operator_that_neither_knows(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Mish", ["c2"], ["m"], "mish"),
        helper.make_node("Einsum", ["m"], ["e"], "einsum", equation="bchw->bc"),
        helper.make_node("Gemm", ["e", "w3", "b3"], ["z"], "last", transB=1),
    )
    path = nets.conv(tmp_path / "net.onnx", *nodes)
    _, failed, _ = made(onnx_workload(tmp_path, path), ["fp32"], ["tflite"])
    why = failed[0].why
    assert why.startswith("net.onnx: has no way to torch: onnx2torch does not know Mish; and what onnx2tf ")
    assert "2.6.9 made does not run: Encountered unresolved custom op: ONNX_EINSUM." in why


def test_both_reasons_are_told_and_nothing_is_tried_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def offline(say: Any) -> Path:
        tried.append(say)
        raise StepFailed("onnx2tf 2.6.9 could not be installed: no network")

    monkeypatch.setattr(programs, "onnx2tf", offline)
    work = onnx_workload(tmp_path, recurrent(tmp_path / "net.onnx"))
    found, failed, said = made(work, ["fp32", "int8-static", "sparse:0.5"], ["tflite"])
    assert not found and len(tried) == 1
    for one in failed[:2]:
        assert one.why == f"{NO_LSTM}; and onnx2tf 2.6.9 could not be installed: no network"
    assert "onnx2tf" not in failed[2].why, "a step on the network has no second way"
    assert any(line.endswith("; onnx2tf is tried") for line in said)


def test_what_it_made_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = nets.conv(tmp_path / "net.onnx"), tmp_path / "made.tflite"
    samples = [tuple(sample.values()) for sample in nets.samples(4)]
    monkeypatch.setattr(programs, "onnx2tf", lambda say: Path("/nowhere/python"))
    with pytest.raises(StepFailed, match=r"^onnx2tf 2\.6\.9 did not end well: .*No such file"):
        with_onnx2tf.convert(source, samples, target, print)
    monkeypatch.setattr(with_onnx2tf, "_run", lambda *_: nets.DIGITS / "digits-float.tflite")
    with pytest.raises(StepFailed, match=r"^what onnx2tf 2\.6\.9 made does not run: "):
        with_onnx2tf.convert(source, samples, target, print)
    answers = {"args_0": [np.zeros((1, 10), np.float32)]}
    monkeypatch.setattr(tflite_quantize, "runner", lambda _: lambda sample: answers["args_0"])
    with pytest.raises(StepFailed, match=r"^output 0 of what onnx2tf 2\.6\.9 made is not that of ONNX Runtime"):
        with_onnx2tf.convert(source, samples, target, print)
    assert not target.exists()
    with pytest.raises(StepFailed, match=r"has 1 inputs, calibration_batches\(\) gives 2"):
        with_onnx2tf.convert(source, [samples[0] * 2], target, print)
