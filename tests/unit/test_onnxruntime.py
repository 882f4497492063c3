"""ONNX Runtime as a runtime of the agent's: what is told of a provider."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort
import pytest

from pocketbench_agent.errors import StageError
from pocketbench_agent.runtimes import LoadOptions, Placement, ort_providers
from pocketbench_agent.runtimes.onnxruntime import OnnxRuntime
from pocketbench_agent.runtimes.ort_providers import CPU, QNN
from tests.integration.conftest import DIGITS

# A provider that every build for a desktop has beside the CPU's; it takes no node of this model.
OTHER = "azure"


@pytest.fixture
def loaded() -> OnnxRuntime:
    """A model on another provider than the CPU's, after a run."""
    made = OnnxRuntime()
    made.load([DIGITS / "digits-int8.onnx"], LoadOptions(threads=1, delegate=OTHER))
    made.run()
    return made


@pytest.mark.parametrize("what", ["InferenceSession", "run", "end_profiling"])
def test_a_second_session_that_fails_costs_only_the_coverage(
    loaded: OnnxRuntime, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on an NPU that a process may use once: nothing is claimed then, and what was measured stays."""
    assert (loaded.placement().known, loaded.placement().delegated) == (True, 0)

    def busy(*_: Any, **__: Any) -> None:
        raise RuntimeError("the device is in use\nby this very process")

    monkeypatch.setattr(ort if what == "InferenceSession" else ort.InferenceSession, what, busy)
    placed = loaded.placement()
    assert placed == Placement(quantized=True) and not placed.known and placed.used == "cpu"
    assert "the device is in use\n" in capsys.readouterr().err
    loaded.run()
    assert all(array.size for array in loaded.read())
    if what == "InferenceSession":
        with pytest.raises(StageError, match="the device is in use"):
            loaded.profile()


@pytest.mark.parametrize(
    ("delegate", "given", "expected", "half", "adapter"),
    [
        ("npu", {}, {"backend_path": "libQnnHtp.so"}, True, "HTP"),
        ("qnn", {}, {"backend_path": "libQnnHtp.so"}, True, "HTP"),
        ("gpu", {}, {"backend_path": "libQnnGpu.so"}, False, "Gpu"),
        ("npu", {"enable_htp_fp16_precision": "0"}, {"backend_path": "libQnnHtp.so"}, False, "HTP"),
        ("npu", {"backend_path": "/vendor/libQnnHtp.so"}, {}, True, "HTP"),
        ("gpu", {"backend_type": "cpu"}, {}, False, "cpu"),
    ],
)
def test_a_qnn_that_is_built_in_is_told_which_backend(
    delegate: str,
    given: dict[str, str],
    expected: dict[str, str],
    half: bool,
    adapter: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it takes its own, and a row of the NPU says `gpu`. What the user chose stands."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [QNN, CPU])
    found = ort_providers.find(delegate, given, ())
    assert (found.name, found.devices) == (QNN, ())
    assert dict(found.options) == {**expected, **given}
    assert found.add_to(ort.SessionOptions()) == [(QNN, {**expected, **given}), CPU]
    assert (found.is_half(), adapter in found.adapter()) == (half, True), found.adapter()
