"""Training, as the steps on networks share it: a short schedule, time left, and a look at what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pocketbench.compress.recipe import NetworkContext, Say, StepFailed
from pocketbench.compress.source import parts
from pocketbench.fleet.progress import duration

# Layers that are weights and arithmetic on them.
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
EPOCHS, RATE = 8, 2e-3
WARM_UP_STEPS = 20
SAY_EVERY_S = 10.0
# Outputs are looked at on so many samples.
JUDGED = 8

Outputs = Sequence[torch.Tensor]


def fine_tune(
    network: Any,
    context: NetworkContext,
    doing: str,
    mode: Callable[[Any, bool], None] = lambda network, on: network.train(on) and None,
    after_step: Callable[[], None] = lambda: None,
    epochs: int = EPOCHS,
    rate: float = RATE,
) -> Mapping[str, Any]:
    """With the workload's batches and its loss(outputs, targets), in place; facts for the manifest."""
    loss = context.functions["loss"]
    return train(
        network,
        context.functions["train_batches"],
        lambda inputs, outputs, targets: loss(outputs, targets),
        context.say,
        doing,
        len(context.samples[0]),
        mode=mode,
        after_step=after_step,
        epochs=epochs,
        rate=rate,
    )


def train(
    network: Any,
    batches: Callable[[], Any],
    loss: Callable[[tuple[Any, ...], Any, Any], Any],
    say: Say,
    doing: str,
    inputs: int,
    mode: Callable[[Any, bool], None] = lambda network, on: network.train(on) and None,
    after_step: Callable[[], None] = lambda: None,
    epochs: int = EPOCHS,
    rate: float = RATE,
    beside: Any = None,
) -> Mapping[str, Any]:
    """AdamW, in place; every call of `batches` is an epoch of (inputs, targets), or of inputs alone.

    `inputs` is how many the network has; `beside` is a module that is trained along. How long an epoch is shows in the
    first one only: it warms up and keeps its rate, the others go down to zero along a cosine. StepFailed: no batches,
    or a loss that is not finite.
    """
    trained = [*network.parameters(), *(beside.parameters() if beside is not None else ())]
    optimizer = torch.optim.AdamW([one for one in trained if one.requires_grad], lr=rate, weight_decay=1e-4)
    mode(network, True)
    begun = told = time.monotonic()
    steps, in_epoch, value = 0, 0, float("nan")
    for epoch in range(epochs):
        for position, batch in enumerate(batches()):
            given, targets = parts(batch, inputs)
            tensors = tuple(torch.as_tensor(one) for one in given)
            for group in optimizer.param_groups:
                group["lr"] = rate * _share(epoch, epochs, position, in_epoch, steps)
            optimizer.zero_grad()
            total = loss(tensors, network(*tensors), targets)
            value = float(total.detach())
            if not value == value or value in (float("inf"), -float("inf")):
                raise StepFailed(f"{doing}: the loss became {value} after {steps} steps")
            total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            after_step()
            steps += 1
            if time.monotonic() - told >= SAY_EVERY_S:
                told = time.monotonic()
                left = max(0.0, (told - begun) / steps * (epochs * in_epoch - steps))
                until = f"about {duration(left)} left" if in_epoch else f"{steps} steps so far"
                say(f"{doing}: epoch {epoch + 1} of {epochs}, loss {value:.3g}, {until}")
        if not steps:
            raise StepFailed(f"{doing}: train_batches() gave nothing")
        in_epoch = in_epoch or steps
    mode(network, False)
    return {"epochs": epochs, "steps": steps, "rate": rate, "last_loss": round(value, 6)}


def outputs(network: Any, inputs: Sequence[Any]) -> Outputs:
    """Of one sample."""
    with torch.no_grad():
        made = network(*(torch.as_tensor(one) for one in inputs))
    return listed(made)


def listed(made: Any) -> list[Any]:
    """A network's outputs, whether it gives one or several."""
    return list(made) if isinstance(made, (tuple, list)) else [made]


def check_outputs(name: str, before: Any, after: Any, context: NetworkContext) -> None:
    """StepFailed: shapes changed, a value is not finite, or an output is the same whatever goes in."""
    samples = context.samples[:JUDGED]
    first = [outputs(before, sample) for sample in samples]
    second = [outputs(after, sample) for sample in samples]
    for position, (source, made) in enumerate(zip(zip(*first, strict=True), zip(*second, strict=True), strict=True)):
        if source[0].shape != made[0].shape:
            raise StepFailed(f"{name}: output {position} became {list(made[0].shape)}, it was {list(source[0].shape)}")
        if not all(bool(torch.isfinite(one).all()) for one in made):
            raise StepFailed(f"{name}: output {position} is not finite any more")
        if len(samples) > 1 and _moves(source) and not _moves(made):
            raise StepFailed(f"{name}: output {position} is the same for every input: the network is dead")


def _moves(values: Outputs) -> bool:
    spread = torch.stack(list(values)).float().std(dim=0).max()
    return bool(spread > 1e-6 * max(1e-6, float(values[0].abs().max())))


def _share(epoch: int, epochs: int, position: int, in_epoch: int, steps: int) -> float:
    if epoch == 0:
        return min(1.0, (steps + 1) / WARM_UP_STEPS)
    done = (epoch - 1 + min(1.0, position / in_epoch)) / max(1, epochs - 1)
    return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * done))))
