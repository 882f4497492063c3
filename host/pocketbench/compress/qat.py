"""Training with the rounding of int8 in the network, so that the weights learn to live with it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental.optimization import fuse

from pocketbench.compress import compare, refit, training
from pocketbench.compress.recipe import Done, NetworkContext, StepFailed, converted
from pocketbench.convert.exporting import last_cause

# The weights are trained already: a short course at a low rate.
EPOCHS, RATE = 4, 2e-4


@dataclass(frozen=True)
class Trained:
    """A network, and what was learnt with rounding in it. It is not converted yet: each format wants that done anew.

    The exported graph does not survive pickling, so it is made again from the network, in the same way; `graph` is that
    of this process.
    """

    network: Any
    state: Mapping[str, Any]
    example: tuple[Any, ...]
    graph: Any = None

    def __getstate__(self) -> Mapping[str, Any]:
        return {**vars(self), "graph": None}

    def __call__(self, *inputs: Any) -> Any:
        """As the int8 file is to answer."""
        return self.rounding()(*inputs)

    def rounding(self) -> Any:
        """The graph with rounding in it, for inference; whoever converts it spoils it, so it is a copy."""
        if self.graph is None:
            made = _prepared(self.network, self.example)
            made.load_state_dict(self.state)
            _mode(made, False)
            object.__setattr__(self, "graph", made)
        return copy.deepcopy(self.graph)


class Int8:
    """Int8 weights per channel and int8 activations, trained for a few epochs with their rounding."""

    def apply(self, network: Any, context: NetworkContext) -> tuple[Any, Done]:
        """StepFailed: the network cannot be exported for training, or takes no batch of more than one."""
        # Two items, so that the batch is not taken for a constant.
        both = [*context.samples, *context.samples][:2]
        example = tuple(torch.cat([torch.from_numpy(one) for one in inputs]) for inputs in zip(*both, strict=True))
        network = _folded(network)
        try:
            work = _prepared(network, example)
        except Exception as error:
            raise StepFailed(f"int8-qat: the network cannot be exported for training: {last_cause(error)}") from error
        facts = training.fine_tune(work, context, "int8-qat", mode=_mode, epochs=EPOCHS, rate=RATE)
        return Trained(network, work.state_dict(), example, work), Done(facts)

    def check(self, before: Any, after: Any, context: NetworkContext) -> Done:
        """Rounding stands in the graph, and it was fed; what the file holds is looked at when it is written."""
        rounding = after.rounding()
        found = [one for one in rounding.modules() if hasattr(one, "fake_quant_enabled")]
        if not found:
            raise StepFailed("int8-qat: nothing in the network is rounded: it has no convolution or linear layer")
        training.check_outputs("int8-qat", before, lambda *inputs: rounding(*inputs), context)
        _check_channels(before, rounding, context)
        return Done({"rounded_tensors": len(found)})


def _check_channels(before: Any, rounding: Any, context: NetworkContext) -> None:
    """A detector's scores beside its boxes: where they share a scale, training has no way to save them."""
    samples = context.samples[: training.JUDGED]
    runs = ([[one.numpy() for one in training.outputs(each, s)] for s in samples] for each in (before, rounding))
    for one in compare.apart(*runs):
        if one.collapsed:
            raise StepFailed(
                f"int8-qat: output {one.output}: {len(one.collapsed)} of its channels do not move any more (first: "
                f"{one.collapsed[0]}): what shares an int8 scale with much larger values is gone"
            )


def finish(trained: Trained, form: str) -> Any:
    """The network with integers in it, as the converter of that format wants it."""
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    # ONNX takes int8 weights as they are; LiteRT's converter rounds them itself, and fails on rounded ones.
    made = convert_pt2e(trained.rounding(), fold_quantize=form == "onnx")
    pt2e.allow_exported_model_train_eval(made)
    return made


def written(path: Path, form: str, target: str) -> Done:
    """What became of the file: int8 weights nearly everywhere. StepFailed where it did not."""
    if form == "onnx":
        from pocketbench.compress import onnx_graph

        model = onnx_graph.load(path)
        activations = "s8"
        if target != "aarch64":
            onnx_graph.unsigned_activations(model)
            path.write_bytes(onnx_graph.strip(model))
            activations = "u8"
        share = converted("int8-qat", onnx_graph.weights(model), "int8", "uint8")
        return Done({"int8_share": share, "activations": activations, "operators": onnx_graph.operators(model)})
    from pocketbench.compress import tflite_graph

    graph = tflite_graph.load(path)
    share = converted("int8-qat", tflite_graph.weights(graph), "int8")
    return Done({"int8_share": share, "operators": tflite_graph.operators(graph)})


def _folded(network: Any) -> Any:
    """A copy with batch norm in the convolutions, as the file will have it: its statistics are learnt already.

    As it is where it cannot be traced; torchao looks after batch norm then, which takes it a minute.
    """
    graph = refit.traced(network)
    return copy.deepcopy(network) if graph is None else fuse(graph)


def _prepared(network: Any, example: Sequence[Any]) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    # The one quantizer of torchao's whose networks both converters read; it is only to be had from its tests.
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        work = copy.deepcopy(network).train()
        free = tuple({0: torch.export.Dim.AUTO} for _ in example)
        graph = torch.export.export(work, tuple(example), dynamic_shapes=free).module()
        settings = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
        return prepare_qat_pt2e(graph, XNNPACKQuantizer().set_global(settings))
    finally:
        logging.disable(before)


def _mode(network: Any, training_: bool) -> None:
    from torchao.quantization import pt2e

    (pt2e.move_exported_model_to_train if training_ else pt2e.move_exported_model_to_eval)(network)
