"""Weights set to zero, one by one: smaller when it is sent compressed, and nothing else."""

from __future__ import annotations

import copy
import gzip
import io
from collections.abc import Iterator
from typing import Any

import torch

from pocketbench.compress import training
from pocketbench.compress.recipe import Done, NetworkContext, StepFailed
from pocketbench.compress.training import WEIGHTED

# A layer with fewer weights is left alone: it would lose much and save nothing.
FEWEST = 256
# The share of zeros may be off by the layers that are left alone.
SLACK = 0.05


class Sparse:
    """The smallest weights of each layer become zero; where the workload can train, the others make up for it."""

    def __init__(self, share: float) -> None:
        self._share = share

    def apply(self, network: Any, context: NetworkContext) -> tuple[Any, Done]:
        """Layer by layer: by one threshold for all of them, whole layers would go."""
        made = copy.deepcopy(network)
        masks = [(layer.weight, _largest(layer.weight, 1 - self._share)) for layer in layers(made)]
        if not masks:
            raise StepFailed(f"sparse:{self._share:g}: the network has no layer of {FEWEST} weights or more")

        def mask() -> None:
            with torch.no_grad():
                for weight, kept in masks:
                    weight.mul_(kept)

        mask()
        facts = training.fine_tune(made, context, f"sparse:{self._share:g}", after_step=mask) if context.trains else {}
        return made, Done({"layers": len(masks), **facts})

    def check(self, before: Any, after: Any, context: NetworkContext) -> Done:
        """So many zeros as were asked for."""
        name = f"sparse:{self._share:g}"
        share = zeros(after)
        if share < self._share - SLACK:
            raise StepFailed(f"{name}: only {share:.0%} of the weights are zero")
        training.check_outputs(name, before, after, context)
        sent, sent_before = transfer_bytes(after), transfer_bytes(before)
        found = (
            f"{share:.0%} of the weights are zero, and file size and latency stay as they are: no runtime here makes "
            f"use of zeros; sent with gzip it is {sent / sent_before:.0%} of the size "
            f"({sent / 1e6:.2f} instead of {sent_before / 1e6:.2f} MB)"
        )
        return Done({"zeros": share, "gzip_bytes": sent, "gzip_bytes_before": sent_before}, (found,))


def layers(network: Any) -> Iterator[Any]:
    """Convolutions and linear layers with weights enough."""
    for layer in network.modules():
        if isinstance(layer, WEIGHTED) and layer.weight.numel() >= FEWEST:
            yield layer


def zeros(network: Any) -> float:
    """The share of zeros among the weights of those layers."""
    weights = [layer.weight for layer in layers(network)]
    return float(sum(int((one == 0).sum()) for one in weights) / max(1, sum(one.numel() for one in weights)))


def transfer_bytes(network: Any) -> int:
    """Of all parameters, compressed by gzip."""
    plain = io.BytesIO()
    for one in network.state_dict().values():
        plain.write(one.detach().cpu().contiguous().numpy().tobytes())
    return len(gzip.compress(plain.getvalue(), 6, mtime=0))


def _largest(weight: Any, share: float) -> Any:
    flat = weight.detach().abs().flatten()
    kept = torch.zeros_like(flat)
    kept[flat.topk(max(1, round(share * flat.numel()))).indices] = 1
    return kept.view_as(weight)
