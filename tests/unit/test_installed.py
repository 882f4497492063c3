"""Which version of a runtime this environment has."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from pocketbench.deploy import runtimes


def test_what_is_installed_under_its_own_name() -> None:
    assert runtimes.installed("litert") == metadata.version("ai-edge-litert")
    assert runtimes.installed("null") is None


def test_a_build_that_goes_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu, -webgpu, -openvino all hold the package `onnxruntime`."""
    assert runtimes.installed("tflite-runtime") is None
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime" / "__init__.py").write_text("")
    told = tmp_path / "tflite_runtime_special-7.8.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: tflite-runtime-special\nVersion: 7.8\n")
    (told / "top_level.txt").write_text("tflite_runtime\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert runtimes.installed("tflite-runtime") == "7.8"
