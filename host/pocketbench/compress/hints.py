"""Features of the teacher as hints for the student: what FitNets (Romero et al., 2015) add to distillation.

Widths differ, so that a linear map for each pair, learnt beside the student and then thrown away, turns its channels
into the teacher's. Where sizes differ, both are averaged down to the smaller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pocketbench.compress import training
from pocketbench.compress.recipe import Inputs, StepFailed
from pocketbench.errors import nearest

# The teacher's layer, and the student's that is to say the same.
Pairs = Sequence[tuple[str, str]]


@contextlib.contextmanager
def hinted(
    given: Any, teacher: Any, student: Any, sample: Inputs
) -> Iterator[tuple[Callable[[], torch.Tensor], nn.Module]]:
    """How far the student's features are from the teacher's in the batch that both have just seen, in units of the
    teacher's spread, a mean over pairs; and the maps, to be trained with it. StepFailed: layers that cannot be paired.
    """
    pairs = _pairs(given)
    with (
        _watched("teacher", teacher, [one for one, _ in pairs]) as wanted,
        _watched("student", student, [two for _, two in pairs]) as found,
    ):
        for network in (teacher, student.eval()):
            training.outputs(network, sample)
        maps = nn.ModuleList(
            nn.Linear(_channels(two, found[two]), _channels(one, wanted[one]), bias=False) for one, two in pairs
        )

        def apart() -> torch.Tensor:
            parts = []
            for (one, two), turned in zip(pairs, maps, strict=True):
                own, aim = _alike(found[two], wanted[one].detach())
                parts.append(functional.mse_loss(turned(own), aim) / aim.var().clamp(min=1e-6))
            return torch.stack(parts).mean()

        # What cannot be paired is refused now, and not once it is being trained.
        apart()
        yield apart, maps


def _pairs(given: Any) -> Pairs:
    try:
        pairs = [(str(one), str(two)) for one, two in (given.items() if isinstance(given, Mapping) else given)]
    except (TypeError, ValueError):
        pairs = []
    if not pairs:
        raise StepFailed(
            "distill: hints() has to give pairs of names, a layer of the teacher and a layer of the student, like "
            "{'features.7': 'features.3'}"
        )
    return pairs


@contextlib.contextmanager
def _watched(whose: str, network: Any, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """The output of each layer, of the last call."""
    layers = dict(network.named_modules())
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen[name] = output

        return hook

    for name in names:
        if not name or name not in layers:
            known = nearest(name, [one for one in layers if one])
            raise StepFailed(f"distill: hints() names {name!r}, which is no layer of the {whose}{known}")
    hooks = [layers[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for one in hooks:
            one.remove()


def _channels(name: str, features: Any) -> int:
    if not isinstance(features, torch.Tensor) or features.dim() < 2:
        raise StepFailed(f"distill: hints() names {name!r}, whose output is no tensor of channels")
    return int(features.shape[1 if features.dim() == 4 else -1])


def _alike(own: torch.Tensor, aim: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels last, of as many places."""
    if own.dim() == aim.dim() == 4:
        size = [min(one, two) for one, two in zip(own.shape[2:], aim.shape[2:], strict=True)]
        own, aim = (functional.adaptive_avg_pool2d(one, size).movedim(1, -1) for one in (own, aim))
    if own.shape[:-1] != aim.shape[:-1]:
        raise StepFailed(
            f"distill: hints() pairs {list(own.shape)} of the student with {list(aim.shape)} of the teacher: only "
            "channels, and heights and widths of images, may differ"
        )
    return own, aim
