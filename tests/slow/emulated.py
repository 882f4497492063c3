"""What the runs on the emulated board and phone have in common."""

from __future__ import annotations

import importlib.util
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pocketbench.config.devices import load
from pocketbench.transports.ssh import Ssh
from tests.integration.conftest import DIGITS, SHARED, Bench, Ended
from tests.peers.board import Board

BUNDLE_MISSING = (
    None if importlib.util.find_spec("pocketbench_bundle_aarch64") else "the bundle is not installed: make bundle"
)
needs_models = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/models here")
TFLITE, ONNX = DIGITS / "digits-int8.tflite", DIGITS / "digits-float.onnx"
# Emulated, a run costs next to nothing and a process many seconds.
SHORT = ("--processes", "1", "--min-runs", "8", "--min-time", "0.1", "--max-time", "20", "--cooldown", "0")
# What takes one minute takes several where others use the machine.
TIMEOUT_S = 540
# For a shell there.
WORKDIR = "~/.cache/pocketbench"


def measured(bench: Bench, device: str, *models: Path) -> Ended:
    """One command, in JSON: every case is what a run on an emulated device has to be."""
    told = [word for model in models for word in ("--model", model)]
    ended = bench("--device", device, *told, *SHORT, "--format", "json")
    assert ended.code == 0, ended.stderr
    assert [(r["device"], r["status"]) for r in ended.results] == [(device, "OK")] * len(models)
    for result in ended.results:
        emulated(result)
    return ended


def emulated(result: dict[str, Any]) -> None:
    """It says that it is, and computes what the host computes."""
    assert result["emulated"] is True
    assert "emulated" in [reason["code"] for reason in result["reasons"]]
    faithful(result)


def faithful(result: dict[str, Any]) -> None:
    """Every output was compared, and is within its tolerance."""
    assert result["fidelity"]
    assert all(one["max_abs"] <= one["tolerance"] for one in result["fidelity"]), result["fidelity"]


def sent(ended: Ended) -> list[str]:
    """What was deployed, in order; how far each had got, which a slow link has said as well, aside."""
    return list(dict.fromkeys(re.findall(r"^\S+: sending (the .*?) \(", ended.stderr, re.MULTILINE)))


def register(bench: Bench, to: Board, more: str = "", *lines: str) -> None:
    """Write devices.yaml."""
    where = f"host: 127.0.0.1, port: {to.port}, user: {to.user}, key: {to.key}"
    entry = f'  board: {{transport: ssh, {where}, host_key: "{to.host_key}"{more}}}'
    (bench.home / "devices.yaml").write_text("\n".join(["devices:", entry, *lines, ""]))


def on_board(bench: Bench, script: str) -> str:
    """What a shell there says."""
    ssh = Ssh("board", load(bench.home / "devices.yaml")["board"])
    ssh.open()
    with closing(ssh):
        return ssh.run(["sh", "-c", script], 60).stdout.decode()


def kept(bench: Bench) -> str:
    """What lies in the board's work folder for good, with its times."""
    folders = " ".join(f"{WORKDIR}/{name}" for name in ("pythons", "agents", "home/runtimes", "home/blobs"))
    return on_board(bench, f"ls -l --full-time {folders} 2>/dev/null")


def nothing_is_sent_again(bench: Bench, *models: Path) -> None:
    """A second run finds what the first one left."""
    left = kept(bench)
    assert "blobs" in left
    second = measured(bench, "board", *models)
    assert "sending" not in second.stderr
    assert kept(bench) == left
