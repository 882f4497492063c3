"""`bench compress` where its extra is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketbench.errors import UsageError
from tests.integration.conftest import DIGITS, Bench

needs_no_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
WORK = """
import numpy as np
def model():
    {model}
def calibration_batches():
    yield np.random.default_rng(0).random((12, 1, 28, 28), dtype=np.float32)
"""
HIDDEN = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from pocketbench.cli.main import main
sys.argv = ["bench", *{arguments!r}]
main()
"""


def workload(folder: Path, model: str) -> Path:
    path = folder / "w.py"
    path.write_text(WORK.format(model=model))
    return path


@needs_no_torch
def test_a_torch_network_without_torch(bench: Bench, tmp_path: Path) -> None:
    """One sentence, whoever imports it."""
    work = workload(tmp_path, "import torch")
    done = bench("compress", work, "--recipe", "int8-static", "--output", tmp_path)
    assert done.code == 2
    assert done.stderr.splitlines()[-1] == "Error: compression needs torch: pip install 'pocketbench[compress]'"


def test_an_onnx_network_needs_no_torch(bench: Bench, tmp_path: Path) -> None:
    work = workload(tmp_path, f"return {str(DIGITS / 'digits-float.onnx')!r}")
    recipes = ["--recipe", "int8-static", "--recipe", "fp16"]
    done = bench("compress", work, *recipes, "--to", "onnx", "--output", tmp_path)
    assert done.code == 0, done.stderr
    manifest = json.loads((tmp_path / "digits-float-int8-static.onnx.json").read_text())
    assert manifest["did"]["int8_share"] == 1.0


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_an_onnx_network_without_the_libraries(tmp_path: Path, missing: str) -> None:
    """As after a plain `pip install pocketbench`."""
    work = workload(tmp_path, f"return {str(DIGITS / 'digits-float.onnx')!r}")
    arguments = ["compress", str(work), "--recipe", "fp16", "--to", "onnx", "--output", str(tmp_path)]
    code = HIDDEN.format(names=[missing], arguments=arguments)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"Error: compression needs {missing}: pip install 'pocketbench[compress]'"


def test_convert(bench: Bench, tmp_path: Path) -> None:
    """An .onnx file comes out as every step can take it, with its provenance."""
    file = DIGITS / "digits-float.onnx"
    done = bench("convert", file, "--to", "onnx", "--output", tmp_path)
    assert done.code == 0, done.stderr
    assert "digits-float-fp32.onnx: 0." in done.stdout
    assert json.loads((tmp_path / "digits-float-fp32.onnx.json").read_text())["recipe"] == "fp32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["none.onnx"],
            "an .onnx file is needed, or a .pt2 of torch.export.save; any other torch network has",
        ),
        (["none.pt2"], "none.pt2: an .onnx file is needed"),
        ([DIGITS / "digits-float.tflite"], "an .onnx file is needed"),
        ([DIGITS / "digits-float.onnx", "--shape", "x=1x1"], "--shape x: digits-float.onnx has inputs image"),
        ([DIGITS / "digits-float.onnx", "--shape", "image=1x1"], "does not fit digits-float.onnx, where 0 is open"),
        ([DIGITS / "digits-float.onnx", "--shape", "image"], "write NAME=1x3x640x640"),
        ([DIGITS / "digits-float.onnx", "--output", "nowhere"], "--output nowhere: no such folder"),
    ],
)
def test_convert_says_what_does_not_fit(bench: Bench, arguments: list[str | Path], message: str) -> None:
    done = bench("convert", *arguments, "--to", "onnx")
    assert done.code == 2 and message in done.stderr


def test_an_open_dimension_may_be_minus_one(bench: Bench, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(DIGITS / "digits-float.onnx")
    for one in (model.graph.input[0], model.graph.output[0]):
        one.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, tmp_path / "open.onnx")
    work = workload(tmp_path, f"return {str(tmp_path / 'open.onnx')!r}")
    compressed = bench("compress", work, "--recipe", "int8-static", "--to", "onnx", "--output", tmp_path)
    assert compressed.code == 0, compressed.stderr
    wanted = bench("convert", tmp_path / "open.onnx", "--to", "onnx", "--output", tmp_path)
    assert wanted.code == 2 and "open dimensions: --shape image=1x1x28x28" in wanted.stderr
    told = ("--shape", "image=1x1x28x28")
    assert bench("convert", tmp_path / "open.onnx", "--to", "onnx", "--output", tmp_path, *told).code == 0
    manifest = json.loads((tmp_path / "open-fp32.onnx.json").read_text())
    assert [one["shape"] for one in (*manifest["inputs"], *manifest["outputs"])] == [[1, 1, 28, 28], [1, 10]]


def test_convert_wants_open_shapes_and_takes_floats(bench: Bench, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(DIGITS / "digits-float.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "open.onnx")
    wanted = bench("convert", tmp_path / "open.onnx", "--to", "onnx", "--output", tmp_path)
    assert wanted.code == 2 and "input 'image' has open dimensions: --shape image=1x1x28x28" in wanted.stderr
    told = ("--shape", "image=1x1x28x28")
    assert bench("convert", tmp_path / "open.onnx", "--to", "onnx", "--output", tmp_path, *told).code == 0
    made = onnx.load(tmp_path / "open-fp32.onnx").graph
    shapes = [[dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (*made.input, *made.output)]
    assert shapes == [[1, 1, 28, 28], [1, 10]]
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    onnx.save(model, tmp_path / "open.onnx")
    told = ("--shape", "image=1x2x28x28")
    refused = bench("convert", tmp_path / "open.onnx", "--to", "onnx", "--output", tmp_path, *told)
    assert refused.code == 3 and "open.onnx: does not run with image=1x2x28x28: " in refused.stderr
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, tmp_path / "words.onnx")
    refused = bench("convert", tmp_path / "words.onnx", "--to", "onnx", "--output", tmp_path)
    assert refused.code == 2 and "input 'image' is int64: only networks with float32 inputs" in refused.stderr


def test_pnnx_is_given_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in other files are brought into it."""
    onnx = pytest.importorskip("onnx")
    from pocketbench.convert import to_ncnn

    source = tmp_path / "net.onnx"
    model = onnx.load(DIGITS / "digits-float.onnx")
    onnx.save(model, source, save_as_external_data=True, location="net.data", size_threshold=0)
    program = tmp_path / "pnnx"
    program.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/given.onnx\necho "no more" >&2\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setattr(to_ncnn, "_pnnx", lambda: program)
    with pytest.raises(UsageError, match=r"pnnx made nothing of net\.onnx: no more"):
        to_ncnn.convert(source, {"image": [1, 1, 28, 28]}, [], tmp_path / "net.param")
    (tmp_path / "net.data").unlink()
    given, wanted = (onnx.load(path).graph for path in (tmp_path / "given.onnx", DIGITS / "digits-float.onnx"))
    as_arrays = [[onnx.numpy_helper.to_array(one).tolist() for one in graph.initializer] for graph in (given, wanted)]
    assert as_arrays[0] == as_arrays[1]
