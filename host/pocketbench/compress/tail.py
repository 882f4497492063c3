"""The tail of a graph: what stands after its last weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Node = TypeVar("Node")


def tail(
    nodes: Sequence[Node],
    inputs: Callable[[Node], Iterable[Hashable]],
    outputs: Callable[[Node], Iterable[Hashable]],
    weighted: Callable[[Node], bool],
) -> list[Node]:
    """Of nodes in the order of execution, those from which no convolution or matrix product with weights is reached.

    That is where a detector decodes its boxes: arithmetic on pixels and scores, which have no scale in common.
    """
    # Nodes of a protobuf are made anew at every look: these stay the same ones.
    nodes = list(nodes)
    consumers: dict[Hashable, list[Node]] = {}
    for node in nodes:
        for name in inputs(node):
            consumers.setdefault(name, []).append(node)
    leads: dict[int, bool] = {}
    for node in reversed(nodes):
        after = [one for name in outputs(node) for one in consumers.get(name, [])]
        leads[id(node)] = any(weighted(one) or leads[id(one)] for one in after)
    return [node for node in nodes if not leads[id(node)] and not weighted(node)]
