"""How much each channel does to what a network's last layers give, and where; found without labels."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pocketbench.compress import training
from pocketbench.compress.recipe import Inputs, Say
from pocketbench.compress.training import WEIGHTED
from pocketbench.fleet.progress import working

# Samples that say how far the heads spread.
UNITS = 16
# Of each layer and sample so many places are looked at.
POSITIONS = 600
# Of each layer, ranked over all of them, so much stays whatever its score.
KEPT = 0.3
# First no layer loses more than so much more than its share: least squares make up for little in each of many layers.
UNEVEN = 1.25
# Among channels of equal score those go first that cost more; not in proportion, or the first layers alone would go.
COST = 0.5
# What goes only when nothing else is left; what does nothing at all still goes first.
LATER, NOTHING = 1e20, 1e-30


@dataclass(frozen=True)
class Seen:
    """Of each layer, by its name: a score of each input channel, and places of its output in each sample.

    The score is the Gauss-Newton term E[(g (a - mean a))^2], what the heads would lose if the channel stood still.
    Places are numbered line by line; half of them are drawn in proportion to what the heads make of them. Layers that
    are called more than once have none.
    """

    scores: Mapping[str, torch.Tensor]
    places: Mapping[str, Sequence[torch.Tensor]]


def look(network: Any, samples: Sequence[Inputs], heads: Sequence[str], say: Say, doing: str) -> Seen:
    """By gradients of random sums over the heads: the last layers with weights, before sigmoids and boxes in pixels.

    Behind a sigmoid what is sure has no gradient, and is lost unseen. Each channel of a head counts in units of its
    spread, each head as much as the next one, and each place as much as it is unlike the others there: an object more
    than background.
    """
    network = copy.deepcopy(network)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)}
    ends = {name: layers[name] for name in heads}
    units, means = _units(network, layers, ends, samples[:UNITS])
    generator = torch.Generator().manual_seed(0)
    scores: dict[str, Any] = {}
    places: dict[str, list[torch.Tensor]] = {}
    tell = working(say, f"{doing}: what each channel does to the outputs, sample", len(samples))
    for position, sample in enumerate(samples):
        tell(position)
        with _watched(layers) as calls, torch.enable_grad():
            network(*(torch.from_numpy(one).clone().requires_grad_(True) for one in sample))
        names = list(calls)
        wanted = [tensor for name in names for tensor in calls[name][-1]]
        aimed: Any = sum(
            _drawn(by_place(layer, made), *units[name, number], generator)
            for name, layer in ends.items()
            for number, (_, made) in enumerate(calls.get(name, ()))
        )
        slopes = torch.autograd.grad(aimed, wanted, allow_unused=True)
        for name, before, after in zip(names, slopes[::2], slopes[1::2], strict=True):
            if before is None or after is None:
                continue
            effect = before * (calls[name][-1][0].detach() - means[name])
            scores[name] = scores.get(name, 0) + _by_channel(effect.square(), layers[name]) / len(samples)
            if len(calls[name]) == 1:
                salient = by_place(layers[name], after).square().sum(1)
                places.setdefault(name, []).append(_some(salient, generator))
    return Seen(scores, {name: found for name, found in places.items() if len(found) == len(samples)})


def by_place(layer: Any, output: torch.Tensor) -> torch.Tensor:
    """A layer's output of one sample, [places, channels]."""
    return output.reshape(-1, output.shape[-1]) if isinstance(layer, nn.Linear) else output[0].flatten(1).mT


def _drawn(output: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    unlike = ((output.detach() - mean) / spread).square().mean(1, keepdim=True).sqrt()
    return (output / spread * unlike * torch.randn(output.shape, generator=generator)).sum() / len(output) ** 0.5


def _some(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, half = len(weight), POSITIONS // 2
    if count <= POSITIONS:
        return torch.arange(count)
    total = weight.double().cumsum(0)
    drawn = torch.rand(half, generator=generator, dtype=torch.double) * total[-1]
    anywhere = torch.randint(count, (half,), generator=generator)
    return torch.cat([anywhere, torch.searchsorted(total, drawn).clamp(max=count - 1)])


@contextlib.contextmanager
def _watched(layers: Mapping[str, Any]) -> Iterator[dict[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """What each layer is given and what it makes of it, call by call."""
    calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def leaf(_: Any, inputs: Any) -> Any:
        # A leaf of its own where nothing before it has a gradient.
        tensor = inputs[0]
        return (tensor if tensor.requires_grad else tensor.detach().requires_grad_(True), *inputs[1:])

    def keep(name: str) -> Any:
        def hook(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            calls.setdefault(name, []).append((inputs[0], output))
            # What follows may write into it.
            return output.clone()

        return hook

    hooks = [layer.register_forward_pre_hook(leaf) for layer in layers.values()]
    hooks += [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for one in hooks:
            one.remove()


Units = Mapping[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]


def _units(
    network: Any, layers: Mapping[str, Any], ends: Mapping[str, Any], samples: Sequence[Inputs]
) -> tuple[Units, Mapping[str, torch.Tensor]]:
    """Mean and spread of the channels of each call of each head; the means of each layer's input channels."""
    found: dict[tuple[str, int], list[torch.Tensor]] = {}
    means: dict[str, torch.Tensor] = {}
    for sample in samples:
        with _watched(layers) as calls:
            training.outputs(network, sample)
        for name, made in calls.items():
            given = made[-1][0].detach()
            axes = [axis for axis in range(given.dim()) if axis != _axis(layers[name], given)]
            means[name] = means.get(name, torch.zeros(())) + given.mean(axes, keepdim=True) / len(samples)
            for number, (_, output) in enumerate(made if name in ends else ()):
                found.setdefault((name, number), []).append(by_place(layers[name], output))
    joined = {key: torch.cat(one) for key, one in found.items()}
    return {key: (one.mean(0), one.std(0, correction=0).clamp(min=1e-6)) for key, one in joined.items()}, means


def _axis(layer: Any, tensor: torch.Tensor) -> int:
    return tensor.dim() - 1 if isinstance(layer, nn.Linear) else 1


def _by_channel(effect: torch.Tensor, layer: Any) -> torch.Tensor:
    return effect.sum([axis for axis in range(effect.dim()) if axis != _axis(layer, effect)])


class Importance:
    """Scores for torch-pruning, of all that hangs on a channel, by what it costs; blocks of channels have one score."""

    def __init__(
        self, network: Any, found: Mapping[str, torch.Tensor], example: Sequence[Any], share: float, block: int
    ) -> None:
        self._layers = {layer: name for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)}
        self._found = found
        self._costs = _costs(network, example)
        self._most, self._block = UNEVEN * share, block

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
        value = (score / cost.clamp(min=1) ** COST).double()
        order = value.argsort()
        for at in range(0, count, self._block):
            # The library takes whole blocks from the lowest on: so they go, or stay, by the mean. Equals one by one.
            one = order[at : at + self._block]
            late = LATER if at + len(one) > self._most * count else 1
            value[one] = value[one].mean().clamp(min=NOTHING) * late * (1 + 1e-6 * at)
        value[order[count - max(1, int(KEPT * count)) :]] = torch.inf
        return value


def _in_handlers() -> frozenset[Any]:
    import torch_pruning as tp

    return frozenset((tp.prune_conv_in_channels, tp.prune_linear_in_channels))


_IN = _in_handlers()


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
