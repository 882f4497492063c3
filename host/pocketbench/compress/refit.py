"""Layer by layer, the weights that bring a pruned network back to the one it came from: least squares, no labels.

Both run side by side, node by node. At each layer the weights are solved for that turn the *pruned* network's input
into the source's output at the channels that were kept, so that a layer makes up for what those before it lost.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pocketbench.compress import sensitivity
from pocketbench.compress.recipe import Inputs, Say
from pocketbench.fleet.progress import working

# Of the mean of the diagonal: how strongly the weights are held to what they were. Few samples want it strong.
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# All samples stand at the same node: so many bytes of them.
MEMORY, LARGEST = 2_000_000_000, 96


def traced(network: Any) -> Any:
    """The network as a graph of its layers; None where it does not lend itself to that."""
    if isinstance(network, torch.fx.GraphModule):
        return network
    try:
        return torch.fx.symbolic_trace(network.eval())
    except Exception:
        return None


def refit(
    source: Any,
    pruned: Any,
    kept: Mapping[str, Any],
    samples: Sequence[Inputs],
    places: Mapping[str, Sequence[torch.Tensor]],
    say: Say,
    doing: str,
) -> Mapping[str, Any]:
    """In place; both are graphs of the same nodes, and `kept` names the source's channels that each layer still has.

    `places` of each layer's output, in each sample, are where it is to be right.
    """
    with torch.no_grad():
        return _refit(source, pruned, kept, samples, places, say, doing)


def fitting(network: Any, samples: Sequence[Inputs]) -> Sequence[Inputs]:
    """As many as there is room for."""
    with torch.no_grad():
        return samples[: _fitting(network, samples[0])]


def _refit(
    source: Any,
    pruned: Any,
    kept: Mapping[str, Any],
    chosen: Sequence[Inputs],
    places: Mapping[str, Sequence[torch.Tensor]],
    say: Say,
    doing: str,
) -> Mapping[str, Any]:
    nodes = list(pruned.graph.nodes)
    twins = {node.name: node for node in source.graph.nodes}
    uses = {name: last for last, node in enumerate(nodes) for name in (one.name for one in node.all_input_nodes)}
    first: dict[str, list[Any]] = {}
    second: dict[str, list[Any]] = {}
    placeholders = [node.name for node in nodes if node.op == "placeholder"]
    for position, name in enumerate(placeholders):
        first[name] = second[name] = [torch.from_numpy(sample[position]) for sample in chosen]
    tell = working(say, f"{doing}: least squares, operation", len(nodes))
    layers = 0
    for place, node in enumerate(nodes):
        if node.op in ("placeholder", "output"):
            continue
        first[node.name] = [_call(source, twins[node.name], first, item) for item in range(len(chosen))]
        layer = pruned.get_submodule(node.target) if node.op == "call_module" else None
        if layer is not None and _solvable(layer) and node.target in places:
            channels = torch.as_tensor(kept[node.target])
            wanted = _with_what_it_is_added_to(pruned, node, first, second, channels)
            _solve(layer, second[node.args[0].name], wanted, places[node.target])
            layers += 1
        second[node.name] = [_call(pruned, node, second, item) for item in range(len(chosen))]
        for name in [one.name for one in node.all_input_nodes if uses[one.name] == place]:
            first.pop(name, None)
            second.pop(name, None)
        tell(place + 1)
    return {"method": "least squares", "layers": layers, "samples": len(chosen)}


def _with_what_it_is_added_to(
    network: Any, node: Any, first: Mapping[str, list[Any]], second: Mapping[str, list[Any]], channels: torch.Tensor
) -> list[Any]:
    """The source's outputs at the kept channels; where they are added to another branch, with what that one lost."""
    axis = 1 if first[node.name][0].dim() == 4 else -1
    wanted = [one.index_select(axis, channels) for one in first[node.name]]
    (user,) = node.users if len(node.users) == 1 else (None,)
    if user is None or not _adds(network, user):
        return wanted
    (other,) = [one for one in user.all_input_nodes if one is not node] or (None,)
    if other is None or other.name not in second or second[other.name][0].shape != wanted[0].shape:
        return wanted
    pairs = zip(first[other.name], second[other.name], strict=True)
    lost = [one.index_select(axis, channels) - two for one, two in pairs]
    return [one + two for one, two in zip(wanted, lost, strict=True)]


def _adds(network: Any, node: Any) -> bool:
    if node.op == "call_module":
        return getattr(network.get_submodule(node.target), "math_op_function", None) is torch.add
    return node.target in (operator.add, torch.add, "add")


def _fitting(network: Any, sample: Inputs) -> int:
    largest = [1]
    hooks = [
        one.register_forward_hook(lambda _, __, made: largest.append(made.numel() if hasattr(made, "numel") else 1))
        for one in network.modules()
    ]
    network(*(torch.from_numpy(one) for one in sample))
    for hook in hooks:
        hook.remove()
    # Of both networks, and at a node that joins three results.
    return max(8, min(LARGEST, MEMORY // (max(largest) * 4 * 2 * 3)))


def _call(network: Any, node: Any, values: Mapping[str, list[Any]], item: int) -> Any:
    given = torch.fx.node.map_arg(node.args, lambda one: values[one.name][item])
    named = torch.fx.node.map_arg(node.kwargs, lambda one: values[one.name][item])
    if node.op == "call_module":
        return network.get_submodule(node.target)(*given, **named)
    if node.op == "call_function":
        return node.target(*given, **named)
    if node.op == "call_method":
        return getattr(given[0], node.target)(*given[1:], **named)
    found = network
    for name in node.target.split("."):
        found = getattr(found, name)
    return found


def _solvable(layer: Any) -> bool:
    if isinstance(layer, nn.Linear):
        return True
    plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and (layer.groups == 1 or layer.groups == layer.in_channels == layer.out_channels)


def _solve(
    layer: Any, given: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], places: Sequence[torch.Tensor]
) -> None:
    deep = isinstance(layer, nn.Conv2d) and layer.groups > 1
    # Of the samples to fit, and of every fourth, which says how strongly the weights are to be held.
    sums: list[tuple[Any, Any]] = [(0.0, 0.0), (0.0, 0.0)]
    for place, (one, target, at) in enumerate(zip(given, wanted, places, strict=True)):
        rows, aims = _rows(layer, one, target.shape[-1], at), sensitivity.by_place(layer, target)[at]
        if layer.bias is not None:
            rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
        # Depthwise: [channels, positions, taps], each channel by itself; else [positions, inputs] for all.
        left, right = sums[place % 4 == 0]
        aims = aims.mT[..., None] if deep else aims
        sums[place % 4 == 0] = (left + (rows.mT @ rows).double(), right + (rows.mT @ aims).double())
    old = layer.weight.reshape(layer.weight.shape[0], -1)
    if layer.bias is not None:
        old = torch.cat([old, layer.bias[:, None]], 1)
    start = old.double()[..., None] if deep else old.double().mT
    fit, judge = sums
    errors = {ridge: _error(_held(start, *fit, ridge), *judge) for ridge in RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    if not errors[best] < _error(start, *judge):
        return
    made = _held(start, fit[0] + judge[0], fit[1] + judge[1], best)
    made = made[..., 0] if deep else made.mT
    if layer.bias is not None:
        layer.bias.copy_(made[:, -1].float())
        made = made[:, :-1]
    layer.weight.copy_(made.reshape(layer.weight.shape).float())


def _held(start: Any, left: Any, right: Any, ridge: float) -> Any:
    """Least squares, held to what the weights were."""
    scale = left.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    held = left + ridge * scale[..., None, None] * torch.eye(left.shape[-1], dtype=torch.double)
    return start + torch.linalg.solve(held, right - left @ start)


def _error(weights: Any, left: Any, right: Any) -> float:
    """Squared, less what no weights can change."""
    found = float((weights * (left @ weights)).sum() - 2 * (weights * right).sum())
    return found if found == found else float("inf")


def _rows(layer: Any, given: torch.Tensor, width: int, at: torch.Tensor) -> torch.Tensor:
    """What the layer sees at these places of its output, which is so wide; depthwise channel by channel."""
    if isinstance(layer, nn.Linear):
        return given.reshape(-1, given.shape[-1])[at]
    (high, wide), (down, right) = layer.kernel_size, layer.padding
    padded = functional.pad(given, (right, right, down, down))[0]
    rows, columns = at // width * layer.stride[0], at % width * layer.stride[1]
    taps = [
        padded[:, rows + y * layer.dilation[0], columns + x * layer.dilation[1]]
        for y in range(high)
        for x in range(wide)
    ]
    seen = torch.stack(taps, 1)
    return seen.mT if layer.groups > 1 else seen.flatten(0, 1).mT
