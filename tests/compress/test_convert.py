"""`bench convert` to TFLite, which takes the extra."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compress import nets

pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")


def test_an_onnx_file_in_both_formats(tmp_path: Path) -> None:
    source = nets.conv(tmp_path / "net.onnx")
    command = [sys.executable, "-m", "pocketbench", "convert", str(source), "--to", "tflite", "--to", "onnx"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, env=environment, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / "net-fp32.tflite"),
        str(tmp_path / "net-fp32.onnx"),
    ]
    assert "Traceback" not in done.stderr
