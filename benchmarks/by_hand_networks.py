"""The libraries of networks as a careful script calls them: export, pruning, training with rounding, zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import litert_torch
import torch
import torch_pruning as tp
from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer
from litert_torch.quantize.pt2e_quantizer import get_symmetric_quantization_config as litert_config
from litert_torch.quantize.quant_config import QuantConfig
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import prune
from torchao.quantization import pt2e
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

TRIES, BLOCK = 8, 8

Batches = Iterable[tuple[Any, Any]]
Loss = Callable[[Any, Any], Any]


def to_onnx(network: Any, example: tuple[Any, ...], target: Path) -> None:
    """One file."""
    network.eval()
    with torch.no_grad():
        torch.onnx.export(
            network,
            example,
            str(target),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["input"],
        )


def to_tflite(network: Any, example: tuple[Any, ...], target: Path, integers: bool = False) -> None:
    """One file, with the integers that stand in the network where there are any."""
    settings = PT2EQuantizer().set_global(litert_config(is_per_channel=True)) if integers else None
    network.eval()
    with torch.no_grad():
        given = QuantConfig(pt2e_quantizer=settings) if integers else None
        litert_torch.convert(network, example, quant_config=given).export(str(target))


def train(network: Any, batches: Batches, loss: Loss, rate: float) -> None:
    """One epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss(network(inputs), targets).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()


def pruned(network: Any, example: tuple[Any, ...], share: float, kept: Sequence[str], block: int = BLOCK) -> Any:
    """Channels by magnitude. The library takes a share of channels; that which takes the share of arithmetic is found
    by halving, as there is no other way to it.
    """
    whole, _ = tp.utils.count_ops_and_params(network, example)
    low, high, best, nearest = 0.0, min(0.95, 2 * share), network, 1.0
    for _ in range(TRIES):
        ratio = (low + high) / 2
        made = deepcopy(network)
        tp.pruner.BasePruner(
            made,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[made.get_submodule(name) for name in kept],
            round_to=block,
        ).step()
        left, _ = tp.utils.count_ops_and_params(made, example)
        cut = 1 - left / whole
        if abs(cut - share) < nearest:
            best, nearest = made, abs(cut - share)
        low, high = (ratio, high) if cut < share else (low, ratio)
    return best


def sparse(network: Any, share: float, batches: Batches, loss: Loss, rate: float) -> Any:
    """The smallest weights of each layer are zero, and stay so while the others are trained."""
    made = deepcopy(network).train()
    layers = [one for one in made.modules() if isinstance(one, (torch.nn.Conv2d, torch.nn.Linear))]
    for layer in layers:
        prune.l1_unstructured(layer, "weight", share)
    train(made, batches, loss, rate)
    for layer in layers:
        prune.remove(layer, "weight")
    return made.eval()


def int8_qat(network: Any, example: tuple[Any, ...], batches: Batches, loss: Loss, rate: float, fold: bool) -> Any:
    """Batch norm folded, rounding learnt, integers in the graph."""
    work = fuse(torch.fx.symbolic_trace(network.eval())).train()
    graph = torch.export.export(work, example, dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    settings = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    made = prepare_qat_pt2e(graph, XNNPACKQuantizer().set_global(settings))
    pt2e.move_exported_model_to_train(made)
    train(made, batches, loss, rate)
    pt2e.move_exported_model_to_eval(made)
    made = convert_pt2e(made, fold_quantize=fold)
    pt2e.allow_exported_model_train_eval(made)
    return made
