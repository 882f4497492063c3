"""`bench convert` to TFLite, which takes the extra."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compress import nets

pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")

import onnx
import torch


class Net(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """Of two inputs, and of another where it is asked for by its keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, image: Any, offset: Any, scale: Any = None) -> Any:
        """Means."""
        found = self.conv(image).mean((2, 3)) + offset
        return found if scale is None else found * scale


def convert(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = source.parent
    command = [sys.executable, "-m", "pocketbench", "convert", str(source), "--output", str(folder), *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)


def test_an_onnx_file_in_both_formats(tmp_path: Path) -> None:
    done = convert(nets.conv(tmp_path / "net.onnx"), "--to", "tflite", "--to", "onnx")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / "net-fp32.tflite"),
        str(tmp_path / "net-fp32.onnx"),
    ]
    assert "Traceback" not in done.stderr


def program(path: Path, **arguments: Any) -> Path:
    """For batches of up to eight, saved."""
    example = torch.rand(2, 3, 8, 8), torch.rand(2, 4)
    batch = {0: torch.export.Dim("batch", max=8)}
    shapes = None if arguments else {"image": batch, "offset": batch}
    torch.export.save(torch.export.export(Net().eval(), example, arguments, dynamic_shapes=shapes), path)
    return path


def test_a_saved_program_in_both_formats(tmp_path: Path) -> None:
    """Its shapes are in it; of open ones they are given."""
    source = program(tmp_path / "net.pt2")
    lacking = convert(source, "--to", "onnx")
    assert lacking.returncode == 2
    (error,) = lacking.stderr.splitlines()
    assert error == "Error: net.pt2: input 'image' has open dimensions: --shape image=1x3x8x8"
    shapes = "--shape", "image=3x3x8x8", "--shape", "offset=3x4"
    done = convert(source, "--to", "onnx", "--to", "tflite", *shapes)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["net: fp32 for onnx", "net: fp32 for tflite"]
    graph = onnx.load(tmp_path / "net-fp32.onnx").graph
    sizes = [[dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (*graph.input, *graph.output)]
    assert sizes == [[3, 3, 8, 8], [3, 4], [3, 4]]
    assert (tmp_path / "net-fp32.tflite").is_file()


def test_a_saved_program_that_cannot_be_converted(tmp_path: Path) -> None:
    named = convert(program(tmp_path / "named.pt2", scale=torch.rand(2, 4)), "--to", "onnx")
    assert named.returncode == 2 and "a program with keyword inputs cannot be converted" in named.stderr
    torch.save(Net().state_dict(), tmp_path / "weights.pt2")
    weights = convert(tmp_path / "weights.pt2", "--to", "onnx")
    assert weights.returncode == 2
    (error,) = weights.stderr.splitlines()
    assert error.startswith("Error: weights.pt2: no torch.export program that this torch reads: ")
    ncnn = convert(tmp_path / "named.pt2", "--to", "ncnn")
    assert ncnn.returncode == 2 and "--to ncnn takes an .onnx file: convert named.pt2 --to onnx first" in ncnn.stderr


def test_a_batch_of_several(tmp_path: Path) -> None:
    source = nets.conv(tmp_path / "net.onnx")
    model = onnx.load(source)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, source)
    done = convert(source, "--to", "tflite")
    assert done.returncode == 0, done.stderr
