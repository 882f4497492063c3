"""What the runs on the emulated board and phone have in common."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest

from tests.integration.conftest import DIGITS, SHARED, Bench, Ended

BUNDLE_MISSING = (
    None if importlib.util.find_spec("pocketbench_bundle_aarch64") else "the bundle is not installed: make bundle"
)
needs_models = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/models here")
MODELS = ("--model", DIGITS / "digits-int8.tflite", "--model", DIGITS / "digits-float.onnx")
# Emulated, a run costs next to nothing and a process many seconds.
SHORT = ("--processes", "1", "--min-runs", "8", "--min-time", "0.1", "--max-time", "20", "--cooldown", "0")
SENDING = re.compile(r"^\S+: sending (.*) \(", re.MULTILINE)


def measured(bench: Bench, device: str, *more: object) -> Ended:
    """One command with two models, in JSON: every case is what a run on an emulated device has to be."""
    ended = bench("--device", device, *MODELS, *(more or SHORT), "--format", "json")
    assert ended.code == 0, ended.stderr
    assert [(r["device"], r["status"]) for r in ended.results] == [(device, "OK")] * 2
    for result in ended.results:
        emulated(result)
    return ended


def emulated(result: dict[str, Any]) -> None:
    """It says that it is, and computes what the host computes."""
    assert result["emulated"] is True
    assert "emulated" in [reason["code"] for reason in result["reasons"]]
    assert result["device_info"]["arch"] == "aarch64"
    faithful(result)


def faithful(result: dict[str, Any]) -> None:
    """Every output was compared, and is within its tolerance."""
    assert result["fidelity"]
    assert all(one["max_abs"] <= one["tolerance"] for one in result["fidelity"]), result["fidelity"]
