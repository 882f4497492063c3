"""How much each channel does to a network's outputs, found without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pocketbench.compress import training
from pocketbench.compress.recipe import Inputs
from pocketbench.compress.training import WEIGHTED

SAMPLES, DRAWS = 16, 3
# Of each layer, ranked over all of them, so much stays whatever its score.
KEPT = 0.3


def scores(network: Any, samples: Sequence[Inputs]) -> Mapping[str, torch.Tensor]:
    """Of each input channel of each layer, by its name: what the outputs would lose if it stood still.

    The Gauss-Newton term E[(g (a - mean a))^2], where g is the gradient of the outputs, drawn at random and each
    channel of the last axis in units of its own spread: pixels and scores of a detector count alike.
    """
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)}
    given: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, inputs: Any) -> Any:
            # A leaf of its own where nothing before it has a gradient.
            tensor = inputs[0] if inputs[0].requires_grad else inputs[0].requires_grad_(True)
            given[name] = tensor
            return (tensor, *inputs[1:])

        return hook

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    total: dict[str, torch.Tensor] = {}
    try:
        chosen = samples[:SAMPLES]
        spread, means = _spread(network, chosen, given)
        for sample in chosen:
            with torch.enable_grad():
                made = network(*(torch.from_numpy(one).clone().requires_grad_(True) for one in sample))
            outputs = training.listed(made)
            names = list(given)
            for draw in range(DRAWS):
                aimed: Any = sum(
                    (one / by * torch.randn_like(one)).sum() for one, by in zip(outputs, spread, strict=True)
                )
                slopes = torch.autograd.grad(
                    aimed, [given[name] for name in names], retain_graph=draw < DRAWS - 1, allow_unused=True
                )
                for name, slope in zip(names, slopes, strict=True):
                    if slope is None:
                        continue
                    effect = slope * (given[name].detach() - means[name])
                    total[name] = total.get(name, 0) + _by_channel(effect.square(), layers[name])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: one / (len(chosen) * DRAWS) for name, one in total.items()}


class Importance:
    """Scores for torch-pruning: of all that hangs on a channel, by the multiplications that it costs."""

    def __init__(self, network: Any, found: Mapping[str, torch.Tensor], example: Sequence[Any]) -> None:
        self._layers = {layer: name for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)}
        self._found = found
        self._costs = _costs(network, example)

    def __call__(self, group: Any) -> torch.Tensor:
        """One a channel of the group's first layer."""
        count = len(group[0].idxs)
        score, cost = torch.zeros(count), torch.zeros(count)
        for position, (dependency, channels) in enumerate(group):
            layer = dependency.target.module
            if layer not in self._layers:
                continue
            name, roots = self._layers[layer], torch.as_tensor(list(group[position].root_idxs))
            ins = dependency.handler in _IN
            width = layer.weight.shape[1 if ins else 0] if not isinstance(layer, nn.ConvTranspose2d) else len(roots)
            cost.index_add_(0, roots, torch.full((len(roots),), self._costs[name] / width))
            if ins and name in self._found:
                score.index_add_(0, roots, self._found[name][torch.as_tensor(list(channels))])
        value = score / cost.clamp(min=1)
        value[value.topk(max(1, int(KEPT * count))).indices] = torch.inf
        return value


def _in_handlers() -> frozenset[Any]:
    import torch_pruning as tp

    return frozenset((tp.prune_conv_in_channels, tp.prune_linear_in_channels))


_IN = _in_handlers()


def _spread(
    network: Any, samples: Sequence[Inputs], given: Mapping[str, torch.Tensor]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Of the outputs, and the means of each layer's input channels."""
    found: list[list[torch.Tensor]] = []
    means: dict[str, torch.Tensor] = {}
    for sample in samples:
        found.append(list(training.outputs(network, sample)))
        for name, tensor in given.items():
            axes = [axis for axis in range(tensor.dim()) if axis != _axis(tensor)]
            means[name] = means.get(name, torch.zeros(())) + tensor.detach().mean(axes, keepdim=True) / len(samples)
    spread = []
    for outputs in zip(*found, strict=True):
        stacked = torch.stack(outputs).float()
        # Rows of a table of boxes: each column by itself.
        flat = stacked.flatten(0, -2) if stacked.dim() > 3 else stacked.reshape(-1, 1)
        spread.append(flat.std(dim=0).clamp(min=1e-6))
    return spread, means


def _axis(tensor: torch.Tensor) -> int:
    return 1 if tensor.dim() in (4, 5) else tensor.dim() - 1


def _by_channel(effect: torch.Tensor, layer: Any) -> torch.Tensor:
    axis = 1 if not isinstance(layer, nn.Linear) else effect.dim() - 1
    return effect.sum([one for one in range(effect.dim()) if one != axis])


def _costs(network: Any, example: Sequence[Any]) -> dict[str, float]:
    """Multiplications of each layer."""
    found: dict[str, float] = {}

    def count(name: str) -> Any:
        def hook(layer: Any, _: Any, output: Any) -> None:
            found[name] = float(layer.weight[0].numel()) * output.numel()

        return hook

    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)]
    hooks = [layer.register_forward_hook(count(name)) for name, layer in layers]
    with torch.no_grad():
        network(*example)
    for one in hooks:
        one.remove()
    return {name: found.get(name, 0.0) for name, _ in layers}
