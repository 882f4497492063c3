"""Channels taken out of a network, with everything that hangs on them, until a share of its arithmetic is gone."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from pocketbench.compress import compare, refit, sensitivity, training
from pocketbench.compress.recipe import Done, NetworkContext, StepFailed
from pocketbench.compress.training import WEIGHTED

# Kernels work on blocks of channels. Without training, whole blocks of thin layers are more than a net can do without.
BLOCK, BLOCK_UNTRAINED = 8, 4
# By halving, the ratio of channels that comes nearest to the share of arithmetic.
TRIES = 8
# Less of what was asked for is no pruning at that share.
LEAST = 0.5
# Whoever takes out less has an easy game.
AS_MUCH = 0.9
# A ranking by samples knows what they show and no more (MobileNetV2 by animals alone: as near on other animals, and 13
# points worse on everything). One that needs none may be so much farther away on them.
BLIND = 1.25
JUDGED = 16
MAGNITUDE, OUTPUTS = "magnitude", "sensitivity of the outputs"
Rank = Callable[[Any], Any]
COUNTED = ("multiplications_before", "multiplications", "parameters_before", "parameters")


@dataclass(frozen=True)
class Pruned:
    """A network with fewer channels, and which of the channels each layer still has, by its name."""

    network: Any
    kept: Mapping[str, Any]
    cut: float


class Prune:
    """The channels that matter least; then training, where the workload can train, or least squares layer by layer."""

    def __init__(self, share: float) -> None:
        self._share = share

    def apply(self, network: Any, context: NetworkContext) -> tuple[Any, Done]:
        """Where there is batch norm and training, by magnitude; else by what serves the outputs best."""
        name = f"prune:{self._share:g}"
        traced = refit.traced(network)
        source = network if traced is None else traced
        example = tuple(torch.from_numpy(one) for one in context.samples[0])
        trained = context.trains and any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in network.modules())
        ignored = heads(source, example)
        if not ignored:
            raise StepFailed(
                f"{name}: the network has no convolution or linear layer that channels could be taken from"
            )
        if trained:
            rank: Rank = lambda made: tp.importance.GroupMagnitudeImportance(p=2)  # noqa: E731
            pruned = _nearest(self._share, source, example, ignored, rank, BLOCK, globally=False)
            facts: dict[str, Any] = {"importance": MAGNITUDE, "channels_in_blocks_of": BLOCK}
        else:
            pruned, facts = self._untrained(name, source, example, ignored, context, traced is not None)
        facts |= {"asked": self._share, "cut": round(pruned.cut, 4), "ignored_layers": ignored}
        found: tuple[str, ...] = ()
        if context.trains:
            facts["recovery"] = training.fine_tune(pruned.network, context, name)
        elif "recovery" in facts:
            recovery = facts["recovery"]
            found = (
                "recovered without labels, layer by layer: its outputs differ from the network's by "
                f"{recovery['noise']:.0%} of their spread ({recovery['noise_before']:.0%} before); that is rarely good "
                "enough, so look at its accuracy first",
            )
        else:
            found = ("the network cannot be traced, so that nothing makes up for the channels that it lost",)
        return pruned.network.eval(), Done(facts, found)

    def _untrained(
        self,
        name: str,
        source: Any,
        example: Sequence[Any],
        ignored: Sequence[str],
        context: NetworkContext,
        traced: bool,
    ) -> tuple[Pruned, dict[str, Any]]:
        """Without training no ranking is best for every network: two are tried, each with what least squares make of
        it, and compared on samples that nothing was fitted to. That by magnitude stays unless it is clearly worse.
        """
        block = BLOCK if context.trains else BLOCK_UNTRAINED
        fit = refit.fitting(source, context.samples[JUDGED:] or context.samples)
        seen = sensitivity.look(source, fit, ignored, context.say, name)
        by_outputs: Rank = lambda made: sensitivity.Importance(made, seen.scores, example, self._share, block)  # noqa: E731
        by_magnitude: Rank = lambda made: tp.importance.GroupMagnitudeImportance(p=2)  # noqa: E731
        tries = [(OUTPUTS, ignored, by_outputs, True)]
        inside = within(source, example, ignored)
        if not context.trains and traced and inside:
            tries.append((MAGNITUDE, sorted({*_layers(source), *ignored} - {*inside}), by_magnitude, False))
        best: tuple[Pruned, dict[str, Any]] | None = None
        for importance, left_alone, rank, globally in tries:
            context.say(f"{name}: which channels to take out by {importance}")
            pruned = _nearest(self._share, source, example, left_alone, rank, block, globally)
            facts: dict[str, Any] = {"importance": importance, "channels_in_blocks_of": block}
            if context.trains or not traced:
                return pruned, facts
            judge = context.samples[:JUDGED]
            before = _noise(source, pruned.network, judge)
            solved = refit.refit(source, pruned.network, pruned.kept, fit, seen.places, context.say, name)
            noise = _noise(source, pruned.network, judge)
            facts["recovery"] = {**solved, "noise_before": round(before, 4), "noise": round(noise, 4)}
            if best is None or (pruned.cut >= AS_MUCH * best[0].cut and noise <= BLIND * best[1]["recovery"]["noise"]):
                best = (pruned, facts)
        assert best is not None
        return best

    def check(self, before: Any, after: Any, context: NetworkContext) -> Done:
        """Less arithmetic, by about what was asked for; outputs of the same shapes, which still move."""
        name = f"prune:{self._share:g}"
        counted = sizes(before, after, context)
        macs, macs_left, parameters, parameters_left = (counted[name] for name in COUNTED)
        cut = 1 - macs_left / macs if macs else 0.0
        if cut < LEAST * self._share:
            raise StepFailed(f"{name}: only {cut:.0%} of the multiplications are gone")
        training.check_outputs(name, before, after, context)
        told = (
            f"{cut:.1%} of the multiplications are gone ({macs / 1e6:.1f} to {macs_left / 1e6:.1f} million), of the "
            f"parameters {1 - parameters_left / parameters:.1%} ({parameters / 1e6:.3f} to {parameters_left / 1e6:.3f} "
            "million)"
        )
        return Done(counted, (told,))


def size(network: Any, example: Sequence[Any]) -> tuple[int, int]:
    """Multiplications and parameters."""
    macs, parameters = tp.utils.count_ops_and_params(copy.deepcopy(network), tuple(example))
    return int(macs), int(parameters)


def sizes(before: Any, after: Any, context: NetworkContext) -> Mapping[str, int]:
    """Of both, by the names of COUNTED."""
    example = tuple(torch.from_numpy(one) for one in context.samples[0])
    (macs, parameters), (macs_left, parameters_left) = size(before, example), size(after, example)
    return dict(zip(COUNTED, (macs, macs_left, parameters, parameters_left), strict=True))


def heads(network: Any, example: Sequence[Any]) -> list[str]:
    """Names of the layers whose channels reach an output without another layer with weights: they have to stay."""
    work = _trainable(network)
    names = {layer: name for name, layer in work.named_modules()}
    graph = _graph(work, example)
    found = []
    for layer, node in graph.module2node.items():
        if not isinstance(layer, WEIGHTED):
            continue
        seen, open_ = set(), list(node.outputs)
        ends = not open_
        while open_ and not ends:
            one = open_.pop()
            if id(one) in seen or isinstance(one.module, WEIGHTED):
                continue
            seen.add(id(one))
            ends = not one.outputs
            open_ += one.outputs
        if ends:
            found.append(names[layer])
    return sorted(found)


def within(network: Any, example: Sequence[Any], ignored: Sequence[str]) -> list[str]:
    """Names of the layers whose channels stay inside a block: no sum joins them with those of another layer.

    Where there are depthwise layers, only those that pass through one on their way to the next.
    """
    work = _trainable(network)
    graph = _graph(work, example)
    found: dict[str, bool] = {}
    for name, layer in _layers(work).items():
        if name in ignored:
            continue
        group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, [0])
        made = {
            one.target.module
            for one, _ in group
            if isinstance(one.target.module, WEIGHTED) and graph.is_out_channel_pruning_fn(one.handler)
        }
        if sum(not _depthwise(one) for one in made) == 1:
            found[name] = any(_depthwise(one) for one in made)
    return [name for name, deep in found.items() if deep or not any(found.values())]


def _nearest(
    share: float,
    network: Any,
    example: Sequence[Any],
    ignored: Sequence[str],
    rank: Rank,
    block: int,
    globally: bool,
) -> Pruned:
    best: Pruned | None = None
    low, high = 0.0, min(0.95, 2 * share)
    before, _ = size(network, example)
    for _ in range(TRIES):
        ratio = (low + high) / 2
        made = _prune(network, example, ignored, rank, ratio, block, globally, before)
        if best is None or abs(made.cut - share) < abs(best.cut - share):
            best = made
        low, high = (ratio, high) if made.cut < share else (low, ratio)
    assert best is not None
    return best


def _prune(
    network: Any,
    example: Sequence[Any],
    ignored: Sequence[str],
    rank: Rank,
    ratio: float,
    block: int,
    globally: bool,
    before: int,
) -> Pruned:
    made = _trainable(network)
    layers = _layers(made)
    names = {layer: name for name, layer in layers.items()}
    kept = {name: np.arange(_channels(layer)) for name, layer in layers.items()}
    with _quiet():
        pruner = tp.pruner.BasePruner(
            made,
            tuple(example),
            importance=rank(made),
            global_pruning=globally,
            pruning_ratio=ratio,
            ignored_layers=[layers[name] for name in ignored],
            round_to=block,
        )
        for group in pruner.step(interactive=True):
            for dependency, channels in group:
                layer = dependency.target.module
                if layer in names and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                    kept[names[layer]] = np.delete(kept[names[layer]], np.asarray(channels, dtype=int))
            group.prune()
    for name, layer in layers.items():
        if len(kept[name]) != _channels(layer):
            raise StepFailed(f"torch-pruning lost track of the channels of {name}")
    left, _ = size(made, example)
    return Pruned(made, kept, 1 - left / before if before else 0.0)


def _noise(source: Any, made: Any, samples: Sequence[Any]) -> float:
    """Of the worst output; of a table the mean of its channels: pixels would hide what scores lost."""
    first, second = ([training.outputs(network, sample) for sample in samples] for network in (source, made))
    worst = 0.0
    for before, after in zip(zip(*first, strict=True), zip(*second, strict=True), strict=True):
        wanted, found = torch.stack(list(before)).double(), torch.stack(list(after)).double()
        axes = compare.channel_axes(wanted.shape[1:]) if wanted.dim() > 3 else ()
        if axes:
            wanted, found = wanted.movedim(axes[0] + 1, -1), found.movedim(axes[0] + 1, -1)
        width = wanted.shape[-1] if axes else 1
        wanted, found = wanted.reshape(-1, width), found.reshape(-1, width)
        apart = (found - wanted).square().mean(0).sqrt() / wanted.std(0).clamp(min=1e-9)
        worst = max(worst, float(apart[wanted.std(0) > 0].mean()))
    return worst


def _graph(network: Any, example: Sequence[Any]) -> Any:
    with _quiet():
        return tp.DependencyGraph().build_dependency(network, example_inputs=tuple(example))


def _trainable(network: Any) -> Any:
    """A copy through which gradients flow: the library follows them to find what hangs together."""
    made = copy.deepcopy(network).eval()
    for one in made.parameters():
        one.requires_grad_(True)
    return made


def _layers(network: Any) -> dict[str, Any]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, WEIGHTED)}


def _depthwise(layer: Any) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def _channels(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
