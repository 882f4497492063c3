"""Each step, in each format, has a network on which its library says nothing, and is refused there with the reason.

Files share theirs; whoever adds a step on networks adds one for it to the table here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from pocketbench.compress import recipe
from pocketbench.compress.recipe import NETWORK_STEPS, STEPS, Context, NetworkContext, StepFailed
from tests.compress import nets

SIZE = 16


def without_weights(path: Path) -> Path:
    """A network that only cuts off what is below zero."""
    if path.suffix == ".onnx":
        return nets.save(path, [helper.make_node("Relu", ["x"], ["y"], "relu")], {}, {"y": list(nets.SHAPE)})
    torch = pytest.importorskip("torch", reason="pip install 'pocketbench[compress]'")
    from pocketbench.convert import to_litert

    to_litert.convert(torch.nn.ReLU(), [np.zeros(nets.SHAPE, np.float32)], ["x"], path)
    return path


def inputs(form: str) -> list[dict[str, Any]]:
    """By the name that the format gives them."""
    return [{"x" if form == "onnx" else "args_0": one["x"]} for one in nets.samples()]


@pytest.mark.parametrize(("step", "form"), [(step, form) for step, ways in STEPS.items() for form in ways])
def test_a_file_with_which_nothing_was_done_is_refused(tmp_path: Path, step: str, form: str) -> None:
    """The library writes it, and raises nothing."""
    source, target = without_weights(tmp_path / f"net.{form}"), tmp_path / f"made.{form}"
    one = recipe.create(step, form)
    one.apply(source, target, Context(inputs(form)))
    assert target.is_file()
    with pytest.raises(StepFailed, match=f"{step}: only 0% of the weights became"):
        one.check(source, target)


def head_alone() -> Any:
    """All its channels are the outputs'."""
    import torch

    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten())


def weights_that_are_computed() -> Any:
    """What is set to zero in them is forgotten: they are made anew whenever they are looked at."""
    import torch

    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 64, 3))
    return torch.nn.Sequential(layer, torch.nn.Flatten())


def nothing_to_round() -> Any:
    """Parameters, and no layer that the quantizer knows."""
    import torch

    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LayerNorm(SIZE * SIZE))


def linear() -> Any:
    """Whose student is the same."""
    import torch

    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIZE * SIZE, 8))


NO_SMALLER = "{step}: the student is no smaller than the network"
NETWORKS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "prune": ("prune:0.5", head_alone, "{step}: only 0% of the multiplications are gone"),
    "sparse": ("sparse:0.5", weights_that_are_computed, "{step}: only 0% of the weights are zero"),
    "int8-qat": ("int8-qat", nothing_to_round, "{step}: nothing in the network is rounded"),
    "distill": ("distill", linear, NO_SMALLER),
    "scratch": ("scratch", linear, NO_SMALLER),
}


def test_every_step_on_networks_has_one() -> None:
    """Also where there is no torch to try it with."""
    assert NETWORKS.keys() == NETWORK_STEPS.keys()


@pytest.mark.parametrize("name", NETWORK_STEPS)
def test_a_network_with_which_nothing_was_done_is_refused(name: str) -> None:
    """The library gives it back, and raises nothing."""
    torch = pytest.importorskip("torch", reason="pip install 'pocketbench[compress]'")
    step, make, why = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()

    def train_batches() -> Iterator[Any]:
        yield torch.rand(4, 1, SIZE, SIZE), 0

    functions: dict[str, Callable[..., Any]] = {
        "train_batches": train_batches,
        "loss": lambda outputs, _: outputs.square().mean(),
        "student": make,
    }
    samples = [(torch.rand(1, 1, SIZE, SIZE).numpy(),) for _ in range(12)]
    context = NetworkContext(samples, functions, network, lambda _: None)
    one = recipe.create_on_network(step)
    made, _ = one.apply(network, context)
    with pytest.raises(StepFailed, match=why.format(step=step)):
        one.check(network, made, context)


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_a_file_without_the_integers_that_were_learnt_is_refused(tmp_path: Path, form: str) -> None:
    """A converter that was given int8 weights and wrote floats."""
    pytest.importorskip("torchao", reason="pip install 'pocketbench[compress]'")
    from pocketbench.compress import qat

    with pytest.raises(StepFailed, match="int8-qat: only 0% of the weights became int8"):
        qat.written(nets.DIGITS / f"digits-float.{form}", form, "x86_64")
