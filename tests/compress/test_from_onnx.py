"""Networks that come as .onnx files: as torch networks, and from there to TFLite."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if importlib.util.find_spec("onnx2torch") is None:
    pytest.skip("pip install 'pocketbench[compress]'", allow_module_level=True)

import torch
from torch import nn
from torch.nn import functional

from pocketbench.compress import compare, onnx_graph, onnx_quantize, tflite_quantize
from pocketbench.compress.recipe import StepFailed
from pocketbench.convert import from_onnx, to_litert
from tests.compress import nets
from tests.compress.test_pipeline import onnx_workload
from tests.compress.workloads import made

MODELS = nets.ROOT.parent / "shared" / "models" / "onnx"
SIZES = [("mobilenet_v2_1.0_224-float", 224), ("mobilenet_v1_0.25_128-float", 128), ("yolov5n-float", 640)]
SAMPLES = [tuple(sample.values()) for sample in nets.samples(4)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], kind.lower(), **attributes)


def shapes(path: Path) -> Path:
    """What onnx2torch leaves as tensors: a reshape to one item, a resize, a power, a split; its weights are nodes."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32))
    numbers = {"scales": np.array([1, 1, 2, 2], np.float32), "two": np.array(2, np.float32)}
    whole = {"shape": np.array([1, 4, -1]), "parts": np.array([1, 3])}
    nodes = [
        node("Constant", [], "w", value=weight),
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[0, 0, 1, 1], strides=[2, 2]),
        node("Resize", ["c", "", "scales"], "r", mode="nearest"),
        node("Pow", ["r", "two"], "p"),
        node("Reshape", ["p", "shape"], "s"),
        helper.make_node("Split", ["s", "parts"], ["a", "b"], "split", axis=1),
        node("Relu", ["b"], "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, nets.SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(one, name) for name, one in {**numbers, **whole}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_shapes_are_constants_so_that_it_can_be_traced_and_trained(tmp_path: Path) -> None:
    network = from_onnx.convert(nets.conv(tmp_path / "net.onnx"), SAMPLES)
    batch = torch.from_numpy(np.concatenate([one for (one,) in SAMPLES]))
    assert network(batch).shape == (4, 10)
    kept = torch.load(_save(network, tmp_path / "net.pt"), weights_only=False)
    assert torch.equal(kept(batch), network(batch))
    assert "torchvision" not in sys.modules or hasattr(sys.modules["torchvision"], "__version__")


def _save(network: Any, path: Path) -> Path:
    torch.save(network, path)
    return path


def test_what_no_exporter_can_trace_is_made_constant(tmp_path: Path) -> None:
    path = shapes(tmp_path / "net.onnx")
    with pytest.raises(StepFailed, match="its output 0 is not"):
        from_onnx._check(path, lambda x: x, SAMPLES)
    network = from_onnx.convert(path, SAMPLES)
    kinds = {type(one).__name__ for one in network.modules()}
    assert {"Reshape", "Resize", "Power"} <= kinds and not {"OnnxReshape", "OnnxResize"} & kinds
    called = [network.get_submodule(one.target) for one in network.graph.nodes if one.op == "call_module"]
    assert any(isinstance(one, torch.nn.Conv2d) for one in called), "not inside of a sequence with its padding"
    with pytest.raises(StepFailed, match=r"has 1 inputs, calibration_batches\(\) gives 2"):
        from_onnx._check(path, network, [SAMPLES[0] * 2])


@pytest.mark.parametrize("axis", [1, 3])
def test_scores_may_not_be_lost_beside_boxes_in_pixels(tmp_path: Path, axis: int) -> None:
    order = [0, 3, 1, 2] if axis == 1 else [0, 1, 2, 3]
    path = nets.detector(tmp_path / "net.onnx", order, pixels=4096.0)
    run = onnx_quantize.runner(path)
    alive = torch.tensor([1.0, 1, 1, 0, 0, 0]).reshape([6 if one == axis else 1 for one in range(4)])
    from_onnx._check(path, lambda x: torch.from_numpy(run({"x": x.numpy()})[0]), SAMPLES)
    with pytest.raises(StepFailed, match="its output 0 is not that of ONNX Runtime"):
        from_onnx._check(path, lambda x: torch.from_numpy(run({"x": x.numpy()})[0]) * alive, SAMPLES)


def test_a_library_that_only_boxes_need_may_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision for another torch raises as it is imported: what stands in for it is gone again afterwards."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("onnx2torch", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    real = importlib.import_module

    def broken(name: str) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert from_onnx.onnx2torch().convert
    assert "torchvision" not in sys.modules


class Newer(nn.Module):  # type: ignore[misc, unused-ignore]
    """Of operators that sets after 17 changed, or brought."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 8, 3)
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images: Any) -> Any:
        one, other = torch.chunk(functional.gelu(self.first(images)), 2, 1)
        found = self.second(functional.pad(one * torch.sigmoid(other), (1, 2, 1, 0)))
        found = functional.interpolate(found, size=(8, 8), mode="bilinear", align_corners=False)
        found = functional.avg_pool2d(found, 2).amax((2,)).mean(2)
        return self.last(self.norm(functional.hardswish(found)))


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_files_of_newer_operator_sets(tmp_path: Path, opset: int) -> None:
    """What torch writes by default; onnx2torch knows few operators of sets after 17."""
    torch.manual_seed(0)
    path, example = tmp_path / "net.onnx", torch.rand(1, 3, 16, 16)
    torch.onnx.export(
        Newer().eval(), (example,), str(path), dynamo=True, opset_version=opset, external_data=False, verbose=False
    )
    assert onnx_graph.opset(onnx.load(path)) == opset
    network = from_onnx.convert(path, [(example.numpy(),)])
    assert any(isinstance(layer, nn.Conv2d) for layer in network.modules())


def test_an_operator_without_a_way_is_named(tmp_path: Path) -> None:
    path = nets.conv(tmp_path / "net.onnx", helper.make_node("Det", ["y"], ["z"], "det"))
    with pytest.raises(StepFailed, match=r"net\.onnx: has no way to torch: .*Det"):
        from_onnx.convert(path, SAMPLES)


def test_an_onnx_file_becomes_tflite(tmp_path: Path) -> None:
    found, failed, _ = made(onnx_workload(tmp_path), ["fp32", "int8-static", "sparse:0.5"], ["tflite"])
    assert not failed and [one.path.name for one in found] == [
        "net-fp32.tflite",
        "net-int8-static.tflite",
        "net-sparse_0.5.tflite",
    ]
    before, after = onnx_quantize.runner(tmp_path / "net.onnx"), tflite_quantize.runner(found[0].path)
    samples = nets.samples()
    renamed = [{"args_0": one["x"]} for one in samples]
    (apart,) = compare.apart(compare.outputs(before, samples), compare.outputs(after, renamed))
    assert apart.cosine > 0.9999


@pytest.mark.skipif(not MODELS.is_dir(), reason="no ../shared/models here")
@pytest.mark.parametrize(("name", "size"), SIZES)
def test_real_networks_become_tflite(tmp_path: Path, name: str, size: int) -> None:
    source, target = MODELS / f"{name}.onnx", tmp_path / "made.tflite"
    image = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    network = from_onnx.convert(source, [(image,)])
    to_litert.convert(network, [image], ["input"], target)
    (given,) = onnx.load(source).graph.input
    before = compare.outputs(onnx_quantize.runner(source), [{given.name: image}])
    for one in compare.apart(before, compare.outputs(tflite_quantize.runner(target), [{"args_0": image}])):
        assert one.cosine > 0.9999 and one.noise < 0.01 and not one.collapsed
