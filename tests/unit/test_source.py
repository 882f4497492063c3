"""What a network is known by: its weights, and the code that computes with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pocketbench.compress import source
from pocketbench.workload import load

WORKLOAD = """
from net_beside import Net

def model():
    return Net()

def score(predict):
    raise NotImplementedError
"""
NET = """
import numpy as np

class Tensor:
    detach = cpu = lambda self: self
    numpy = lambda self: np.ones(3, np.float32)

class Net:
    def state_dict(self):
        return {{"weight": Tensor()}}

    def forward(self, x):
        return {activation}(x)
"""


def test_the_same_weights_in_other_code_are_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "work.py"
    path.write_text(WORKLOAD)
    found: list[str] = []
    for activation in ("relu", "silu", "relu"):
        (tmp_path / "net_beside.py").write_text(NET.format(activation=activation))
        (tmp_path / "not_imported.py").write_text(f"# {activation} {len(found)}\n")
        monkeypatch.delitem(sys.modules, "net_beside", raising=False)
        found.append(source.network(load(path)).sha256)
    assert found[0] == found[2] != found[1]
