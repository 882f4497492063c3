"""From a workload to artifacts: what is made, what is inside, what is refused, and what is not made twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketbench.compress import artifact
from pocketbench.errors import UsageError
from pocketbench.fleet import progress
from tests.compress import nets
from tests.compress.workloads import made

FILE = """
import numpy as np
def score(predict):
    raise NotImplementedError
def model():
    return {model!r}
def calibration_batches():
    rng = np.random.default_rng(1)
    for _ in range(6):
        yield rng.random((4, 3, 16, 16), dtype=np.float32)
"""
TORCH = """
import torch
from torch import nn
import numpy as np
def score(predict):
    raise NotImplementedError
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
def calibration_batches():
    rng = np.random.default_rng(1)
    for _ in range(24):
        yield torch.from_numpy(rng.random((1, 3, 16, 16), dtype=np.float32))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of stages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pocketbench" / "artifacts"


def onnx_workload(folder: Path, network: Path | None = None) -> Path:
    path = folder / "w.py"
    path.write_text(FILE.format(model=str(network or nets.conv(folder / "net.onnx"))))
    return path


def test_an_onnx_file_becomes_artifacts(tmp_path: Path, cache: Path) -> None:
    """Each says inside what it was made of; a second run makes nothing and gives the same bytes."""
    path = onnx_workload(tmp_path)
    found, failed, said = made(path, ["fp32", "fp16", "int8-static", "int8-dynamic"], ["onnx"])
    assert [one.path.name for one in found] == ["net-fp32.onnx", "net-fp16.onnx", "net-int8-static.onnx"]
    assert [one.recipe for one in failed] == ["int8-dynamic"] and "use int8-static" in failed[0].why
    told = artifact.read(found[2].path)
    assert told is not None
    assert (told["recipe"], told["format"], told["did"]["int8_share"]) == ("int8-static", "onnx", 1.0)
    assert told["versions"]["onnxruntime"] and len(told["source"]) == 64 and len(told["calibration"]) == 64
    manifest = json.loads(found[2].path.with_suffix(".onnx.json").read_text())
    assert manifest["did"] == told["did"] and manifest["findings"] == []
    told_of = {"dtype": "float32", "shape": [1, 3, 16, 16]}, {"dtype": "float32", "shape": [1, 10]}
    assert [*manifest["inputs"], *manifest["outputs"]] == [{"name": "x", **told_of[0]}, {"name": "y", **told_of[1]}]
    assert "inputs" not in told and "outputs" not in told, "the file says it by itself"
    before = [one.sha256 for one in found]
    again, _, said_again = made(path, ["fp32", "fp16", "int8-static"], ["onnx"])
    assert [one.sha256 for one in again] == before
    assert len(said) == 5 and not any("cache" in line for line in said)
    assert [line.endswith(": taken from the cache") for line in said_again] == [False, True, True, True], "but model()"
    for kept in cache.iterdir():
        kept.unlink()
    anew, _, _ = made(path, ["fp32", "fp16", "int8-static"], ["onnx"])
    assert [one.sha256 for one in anew] == before, "the same inputs give the same bytes"


def test_other_samples_are_another_artifact(tmp_path: Path) -> None:
    path = onnx_workload(tmp_path)
    before, _, _ = made(path, ["int8-static"], ["onnx"])
    first = before[0].sha256
    path.write_text(path.read_text().replace("default_rng(1)", "default_rng(2)"))
    after, _, _ = made(path, ["int8-static"], ["onnx"])
    assert after[0].sha256 != first


def test_a_torch_network_in_both_formats(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")
    path = tmp_path / "w.py"
    path.write_text(TORCH)
    recipes = ["fp32", "int8-static", "fp16", "int8-weight"]
    found, failed, _ = made(path, recipes, ["onnx", "tflite"])
    assert [one.path.name for one in found] == [
        *("w-fp32.onnx", "w-int8-static.onnx", "w-fp16.onnx"),
        *("w-fp32.tflite", "w-int8-static.tflite", "w-fp16.tflite", "w-int8-weight.tflite"),
    ]
    assert [(one.recipe, one.format) for one in failed] == [("int8-weight", "onnx")]
    for one in found:
        told = artifact.read(one.path)
        assert told is not None and told["recipe"] == one.recipe
    quantized = json.loads((found[4].path.with_suffix(".tflite.json")).read_text())
    (given,), (answer,) = quantized["inputs"], quantized["outputs"]
    assert (given["dtype"], given["shape"]) == ("int8", [1, 3, 16, 16])
    # Real inputs are between 0 and 1.
    assert given["scale"] == pytest.approx(1 / 255, rel=0.05) and given["zero_point"] == -128
    assert quantized["signature"] == "serving_default" and answer["shape"] == [1, 10]


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        (("def calibration_batches", "def other"), "int8-static", r"has no calibration_batches\(\), which int8-static"),
        (("def model", "def other"), "fp16", r"--recipe fp16: w\.py has no model\(\), which every recipe needs"),
        (
            ("return '", "return 7 #'"),
            "fp16",
            r"model\(\) gave int: a torch module, a torch\.export program or an \.onnx path is needed",
        ),
        (("return '", "return 'no' + '"), "fp16", r"which is no \.onnx file"),
        (("return '", "1 / 0 #'"), "fp16", r"model\(\) raised ZeroDivisionError: division by zero \(w\.py:6\)"),
        (("(4, 3, 16, 16)", "(0, 3, 16, 16)"), "int8-static", r"arrays of \[0\] items in one batch"),
        (("rng.random(", "rng.integers(9, size="), "int8-static", r"finite floats are needed"),
    ],
)
def test_a_workload_that_will_not_do(tmp_path: Path, change: tuple[str, str], recipe: str, message: str) -> None:
    path = onnx_workload(tmp_path)
    text = (
        path.read_text()
        .replace(*change)
        .replace(", dtype=np.float32)", ")" if "integers" in change[1] else ", dtype=np.float32)")
    )
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        made(path, [recipe], ["onnx"])


def test_samples_of_a_wrong_shape(tmp_path: Path) -> None:
    path = onnx_workload(tmp_path)
    path.write_text(path.read_text().replace("(4, 3, 16, 16)", "(4, 3, 15, 16)"))
    _, failed, _ = made(path, ["int8-static"], ["onnx"])
    assert "calibration_batches() gives [1, 3, 15, 16]" in failed[0].why
    assert "wants [1, 3, 16, 16]" in failed[0].why


def test_the_command(tmp_path: Path) -> None:
    """Files in the folder named, a table, and code 3 where a recipe could not be made."""
    path = onnx_workload(tmp_path)
    command = [sys.executable, "-m", "pocketbench", "compress", str(path), "--to", "onnx", "--output", str(tmp_path)]
    environment = {**os.environ, "HOME": str(tmp_path)}

    def bench(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], capture_output=True, text=True, env=environment, timeout=120, check=False
        )

    done = bench("--recipe", "int8-static", "--recipe", "fp16")
    assert done.returncode == 0, done.stderr
    assert "net-int8-static.onnx" in done.stdout and (tmp_path / "net-fp16.onnx").is_file()
    refused = bench("--recipe", "int8-dynamic")
    assert refused.returncode == 3 and "int8-dynamic for onnx: not made: " in refused.stderr
    unknown = bench("--recipe", "int8-statik")
    assert unknown.returncode == 2 and "did you mean 'int8-static'" in unknown.stderr
    assert "Traceback" not in done.stderr + refused.stderr + unknown.stderr


def test_functions_may_be_methods_of_an_object(tmp_path: Path) -> None:
    path = tmp_path / "t.py"
    text = TORCH.replace("import torch\nfrom torch import nn\nimport numpy as np\n", "").replace("\n", "\n    ")
    head = "import torch\nfrom torch import nn\nimport numpy as np\nclass workload:\n"
    path.write_text(
        head
        + text.replace("def model()", "def model(self)")
        .replace("def score(", "def score(self, ")
        .replace("batches()", "batches(self)")
    )
    (found, *_), failed, _ = made(path, ["fp32", "int8-static"], ["onnx"])
    assert not failed and found.provenance["calibration"]


def test_a_torch_export_program_is_a_network(tmp_path: Path) -> None:
    path = tmp_path / "w.py"
    exported = "net = nn.Sequential("
    path.write_text(
        TORCH.replace("return nn.Sequential(", exported).replace(
            "nn.Linear(16, 10))",
            "nn.Linear(16, 10)).eval()\n    return torch.export.export(net, (torch.zeros(1, 3, 16, 16),))",
        )
    )
    artifacts, failed, _ = made(path, ["fp32", "int8-static"], ["onnx", "tflite"])
    assert not failed
    assert [(one.recipe, one.format) for one in artifacts] == [
        *(("fp32", "onnx"), ("int8-static", "onnx"), ("fp32", "tflite"), ("int8-static", "tflite"))
    ]


def test_long_work_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 samples: two calibrators with 18 of them, and the better one with all."""
    monkeypatch.setattr(progress, "WORKING_EVERY_S", 0.0)
    path = tmp_path / "t.py"
    path.write_text(TORCH)
    _, failed, said = made(path, ["fp32", "int8-static"], ["onnx", "tflite"])
    assert not failed
    shown = [text.partition(", about")[0] for text in said if " left" in text]
    calibration = [f"calibration: sample {count} of 60" for count in range(1, 60)]
    assert [text for text in shown if text.startswith("calibration")] == 2 * calibration
    assert [text for text in shown if "artifact" in text] == [f"t: artifact {count} of 4" for count in (1, 2, 3)]
    assert any(text.startswith("t: fp32 for tflite: ") and text.endswith(" so far") for text in said)
