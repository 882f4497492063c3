"""Steps on torch networks, chained before the file: what they did, what is kept, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="pip install 'pocketbench[compress]'")

import torch

from pocketbench.compress import artifact, onnx_quantize, source, sparse, training
from pocketbench.compress.recipe import NetworkContext, StepFailed
from pocketbench.workload import load
from tests.compress import workloads
from tests.compress.workloads import made


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of stages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pocketbench" / "artifacts"


@pytest.fixture
def bars(tmp_path: Path) -> ModuleType:
    """The workload's module."""
    return load(workloads.write(tmp_path)).module


def context(module: ModuleType, *functions: str) -> NetworkContext:
    """With these of the workload's functions."""
    samples = [(image.numpy()[None],) for image in next(iter(module.calibration_batches()))]
    return NetworkContext(samples, {name: getattr(module, name) for name in functions}, module.model(), print)


def hits(run: Any, module: ModuleType) -> float:
    """The share that is told apart rightly."""
    inputs, labels = module.bars(200, 3)
    found = [int(np.argmax(run(one[None].numpy()))) for one in inputs]
    return float((np.array(found) == labels.numpy()).mean())


def eager(network: Any) -> Any:
    return lambda array: training.outputs(network, [array])[0].numpy()


def test_a_chain_says_what_each_step_did(tmp_path: Path, cache: Path) -> None:
    """Its network is kept and not trained again, also where only the last file is missing; the same bytes again."""
    path = workloads.write(tmp_path)
    (found,), failed, said = made(path, ["sparse:0.5+int8-static"], ["onnx"])
    assert not failed and found.path.name == "bars-sparse_0.5+int8-static.onnx"
    assert [line for line in said if "model()" not in line] == [
        "bars: sparse:0.5",
        "bars: sparse:0.5 for onnx",
        "bars: sparse:0.5+int8-static for onnx",
    ]
    told = artifact.read(found.path)
    assert told is not None and told["recipe"] == "sparse:0.5+int8-static"
    assert told["did"]["sparse:0.5"]["zeros"] == pytest.approx(0.5, abs=0.01) and told["did"]["int8_share"] == 1.0
    assert any("file size and latency stay as they are" in one for one in found.findings)
    before = found.sha256
    for one in [*cache.glob("*.onnx"), *(path.with_suffix(".json") for path in cache.glob("*.onnx"))]:
        one.unlink()
    (again,), _, said = made(path, ["sparse:0.5+int8-static"], ["onnx"])
    assert again.sha256 == before and "bars: sparse:0.5" not in said
    for one in cache.iterdir():
        one.unlink()
    (anew,), _, _ = made(path, ["sparse:0.5+int8-static"], ["onnx"])
    assert anew.sha256 == before


def test_an_interrupted_step_is_begun_anew(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workloads.write(tmp_path)

    def interrupted(*_: object, **__: object) -> Iterator[None]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(path, ["sparse:0.5"], ["onnx"])
    assert not list(cache.glob("*.json"))
    (found,), _, _ = made(path, ["sparse:0.5"], ["onnx"])
    assert found.path.is_file()


def test_what_the_workload_raises_while_it_trains(tmp_path: Path) -> None:
    path = workloads.write(tmp_path, workloads.BARS.replace("return functional.cross_entropy", "1 / 0 #"))
    text = path.read_text().replace("return train(network(16))", "return network(16)")
    path.write_text(text)
    from pocketbench.errors import UsageError

    with pytest.raises(
        UsageError, match=r"bars\.py: loss\(\) raised ZeroDivisionError: division by zero \(bars\.py:\d+\)"
    ):
        made(path, ["sparse:0.5"], ["onnx"])
    assert "score" in source.functions(load(path))


def test_a_loss_that_is_not_finite_ends_the_step(tmp_path: Path) -> None:
    path = workloads.write(
        tmp_path,
        workloads.BARS.replace("cross_entropy(outputs, targets)", "cross_entropy(outputs, targets) / 0").replace(
            "train(network(16))", "network(16)"
        ),
    )
    _, failed, _ = made(path, ["sparse:0.5"], ["onnx"])
    assert failed[0].why == "sparse:0.5: the loss became inf after 0 steps"


def test_sparse(bars: ModuleType) -> None:
    step, given = sparse.Sparse(0.8), context(bars, "train_batches", "loss")
    after, done = step.apply(given.original, given)
    checked = step.check(given.original, after, given)
    assert done.facts["epochs"] == training.EPOCHS and checked.facts["zeros"] > 0.78
    assert checked.facts["gzip_bytes"] < 0.5 * checked.facts["gzip_bytes_before"]
    assert hits(eager(after), bars) > 0.95
    alone, _ = step.apply(given.original, context(bars))
    assert sparse.zeros(alone) == sparse.zeros(after), "training leaves the zeros"
    assert sparse.zeros(given.original) == 0, "the network given stays as it is"


def test_sparse_that_did_nothing_is_refused(bars: ModuleType) -> None:
    step, given = sparse.Sparse(0.8), context(bars)
    with pytest.raises(StepFailed, match=r"sparse:0\.8: only 0% of the weights are zero"):
        step.check(given.original, copy.deepcopy(given.original), given)
    with pytest.raises(StepFailed, match="has no layer of 256 weights or more"):
        step.apply(torch.nn.Conv2d(1, 1, 3), given)
    dead = copy.deepcopy(given.original)
    with torch.no_grad():
        for one in dead.parameters():
            one.zero_()
    with pytest.raises(StepFailed, match="output 0 is the same for every input: the network is dead"):
        step.check(given.original, dead, given)


def test_the_file_is_the_network(tmp_path: Path, bars: ModuleType) -> None:
    (found,), _, _ = made(workloads.write(tmp_path), ["sparse:0.5"], ["onnx"])
    run = onnx_quantize.runner(found.path)
    assert hits(lambda array: run({"input": array})[0], bars) > 0.95
