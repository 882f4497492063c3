"""What a network is known by: its weights, and the code that computes with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pocketbench.compress import source
from pocketbench.errors import UsageError
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
NOT_FINITE = """
import numpy as np

class Tensor:
    detach = cpu = lambda self: self

    def __init__(self, *values):
        self.values = np.array(values, np.float32)

    def numpy(self):
        return self.values

class Net:
    def state_dict(self):
        return {{"weight": Tensor(1, float("{weight}")), **dict(self.named_buffers())}}

    def named_buffers(self):
        return [("mask", Tensor(0, float("{buffer}")))]

def model():
    return Net()

def score(predict):
    raise NotImplementedError
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


@pytest.mark.parametrize(
    ("weight", "buffer", "held"), [("nan", "0", "weight"), ("inf", "0", "weight"), ("1", "nan", "mask")]
)
def test_weights_that_are_not_finite(tmp_path: Path, weight: str, buffer: str, held: str) -> None:
    path = tmp_path / "work.py"
    path.write_text(NOT_FINITE.format(weight=weight, buffer=buffer))
    with pytest.raises(UsageError, match=rf"^work\.py: model\(\) gave weights '{held}' that hold NaN or infinity$"):
        source.network(load(path))


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    path = tmp_path / "work.py"
    path.write_text(NOT_FINITE.format(weight="1", buffer="-inf"))
    assert source.network(load(path)).sha256
