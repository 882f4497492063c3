"""Qualcomm's own NPU stack in simulation: a model that it takes, and a backend that fails without a word."""

from __future__ import annotations

from tests.accel.conftest import environment, measure, needs
from tests.integration.conftest import DIGITS, Bench
from tests.integration.test_run import codes

pytestmark = needs("qnn")


def test_a_quantized_model_on_the_npu(bench: Bench) -> None:
    """All but the two nodes that turn floats into integers and back; the outputs are the CPU's within rounding."""
    found = measure(bench, environment("qnn"), DIGITS / "digits-int8.onnx", "npu", "cpu")
    npu = found["npu"]
    assert npu["status"] == "OK", npu["reasons"]
    delegate = npu["delegate"]
    assert (delegate["used"], delegate["accelerated_by"]) == ("npu", "QNNExecutionProvider")
    assert (delegate["nodes"], delegate["nodes_delegated"], delegate["partitions"]) == (49, 47, 1)
    assert delegate["on_cpu"] == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert codes(npu, "warn") == {"partial_delegation"}
    # What simulates must say so: the time is this processor's.
    assert "simulator" in delegate["adapter"]
    assert "software_adapter" in codes(npu)
    assert npu["fidelity"][0]["cosine"] > 0.999
    assert found["cpu"]["delegate"]["coverage"] == "n/a"


def test_a_float_model_on_the_npu(bench: Bench) -> None:
    """Wholly, as one node."""
    npu = measure(bench, environment("qnn"), DIGITS / "digits-float.onnx", "npu")["npu"]
    assert npu["status"] == "OK", npu["reasons"]
    assert (npu["delegate"]["coverage"], npu["delegate"]["partitions"]) == ("full", 1)
    assert npu["fidelity"][0]["max_abs"] < 1e-3


def test_a_backend_that_fails_silently_is_a_fallback(bench: Bench) -> None:
    """The GPU backend cannot start here; the session then runs on the CPU and still names QNN among its providers."""
    gpu = measure(bench, environment("qnn"), DIGITS / "digits-int8.onnx", "gpu")["gpu"]
    assert gpu["status"] == "FALLBACK"
    assert (gpu["delegate"]["nodes_delegated"], gpu["delegate"]["coverage"]) == (0, "none")
    assert gpu["delegate"]["used"] == "cpu"
    assert codes(gpu, "invalid") == {"fallback"}
    assert gpu["delegate"]["adapter"] is None


def test_strict_options_reach_the_session(bench: Bench) -> None:
    """A key with a dot is a session's own: without leave to fall back, the same backend is a clear failure."""
    setups = "{strict: {base: gpu, options: {session.disable_cpu_ep_fallback: 1}}}"
    strict = measure(bench, environment("qnn"), DIGITS / "digits-int8.onnx", "strict", setups=setups)["strict"]
    assert (strict["status"], strict["stage"]) == ("FAILED", "load")
    assert "fallback to CPU EP has been explicitly disabled" in strict["reasons"][0]["message"]
    assert strict["delegate"]["options"] == {"session.disable_cpu_ep_fallback": "1"}


def test_without_the_package_there_is_no_npu(bench: Bench) -> None:
    """Skipped, with what this build has."""
    npu = measure(bench, {}, DIGITS / "digits-int8.onnx", "npu")["npu"]
    assert npu["status"] == "SKIPPED"
    assert "has no provider for 'npu'; it has" in npu["reasons"][0]["message"]
