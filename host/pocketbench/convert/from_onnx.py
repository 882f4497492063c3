"""An .onnx file as a torch network: one that can be trained, pruned, and exported again."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress import compare, onnx_graph
from pocketbench.compress.recipe import StepFailed, missing_extra
from pocketbench.convert import onnx_older
from pocketbench.convert.exporting import last_cause

# onnx2torch wants these for operators on boxes alone.
TORCHVISION = ("torchvision", "torchvision.ops")
# Of the largest value of an output: what two runtimes may differ by.
TOLERANCE = 1e-3
# The same of each channel by itself: scores may be gone beside boxes in pixels. Small values are rounded more.
CHANNEL_TOLERANCE = 1e-2
SMALLEST = 1e-6
CHECKED = 4

Inputs = Sequence[NDArray[np.float32]]


def convert(path: Path, samples: Sequence[Inputs]) -> Any:
    """A torch.fx module that answers as ONNX Runtime does on the first of the samples.

    StepFailed: an operator that onnx2torch does not know, or outputs that are not those of the file.
    """
    library = onnx2torch()
    model = onnx_graph.load(path)
    onnx_older.older(model)
    onnx_graph.without_constant_nodes(model)
    try:
        network = _static(library.convert(model).eval(), any_batch=True)
        _check(path, network, samples[:CHECKED])
    except StepFailed:
        network = _static(library.convert(model).eval(), any_batch=False)
        _check(path, network, samples[:CHECKED])
    except NotImplementedError as error:
        named = re.search(r"operation_type='(\w+)'", str(error))
        why = f"onnx2torch does not know {named[1]}" if named else last_cause(error)
        raise StepFailed(f"{path.name}: has no way to torch: {why}") from error
    except Exception as error:
        raise StepFailed(f"{path.name}: onnx2torch cannot read it: {last_cause(error)}") from error
    return network


def onnx2torch() -> Any:
    """The library, which has to be there before a network of its modules is unpickled.

    It wants torchvision for two operators alone, which does not import where it was built for another torch.
    UsageError: the extra is missing.
    """
    try:
        with _torchvision():
            return importlib.import_module("onnx2torch")
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error


@contextlib.contextmanager
def _torchvision() -> Iterator[None]:
    if "onnx2torch" in sys.modules:
        yield
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        # What is left of the attempt would be taken for the whole.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    else:
        yield
        return

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("NonMaxSuppression and RoiAlign need a torchvision that was built for this torch")

    package, operators = (ModuleType(name) for name in TORCHVISION)
    for module in (package, operators):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
    for name in ("nms", "box_convert", "roi_align"):
        setattr(operators, name, missing)
    package.ops = operators  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name in TORCHVISION:
            del sys.modules[name]


def _static(network: Any, any_batch: bool) -> Any:
    """Constants where the graph has tensors that are constant; convolutions out of the sequences they stand in.

    With `any_batch` a reshape to one item keeps the batch as it is, since training wants more than one.
    """
    graph = network.graph
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        module = network.get_submodule(node.target)
        given = _arguments(node, module)
        made = _constant_module(network, module, given, any_batch)
        if made is not None:
            network.set_submodule(node.target, made)
            node.args, node.kwargs = (next(iter(given.values())),), {}
        elif type(module).__name__ == "Sequential":
            last = node.args[0]
            for name, _ in module.named_children():
                with graph.inserting_before(node):
                    last = graph.call_module(f"{node.target}.{name}", (last,))
            node.replace_all_uses_with(last)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    network.recompile()
    network.delete_all_unused_submodules()
    return network


def _constant_module(network: Any, module: Any, given: dict[str, Any], any_batch: bool) -> Any:
    from pocketbench.convert import onnx_modules

    kind = type(module).__name__
    constant = {name: _constant(network, value) for name, value in given.items()}
    if kind == "OnnxReshape" and (wanted := constant["shape"]) is not None:
        shape = wanted.astype(int).tolist()
        return onnx_modules.Reshape([0, *shape[1:]] if any_batch and shape[:1] == [1] else shape)
    if kind == "OnnxSplit13" and (wanted := constant.get("split")) is not None:
        return onnx_modules.Split(wanted.astype(int).tolist(), module.axis)
    if kind == "OnnxPow" and (wanted := constant["exponent"]) is not None and wanted.size == 1:
        return onnx_modules.Power(float(wanted.item()))
    if kind in ("OnnxResize", "OnnxResizeV10"):
        inner = module._resize if kind == "OnnxResizeV10" else module
        factors, size = constant.get("scales"), constant.get("sizes")
        wanted = factors if factors is not None and factors.size else size
        if wanted is None or not wanted.size or wanted.size < 3:
            return None
        flat = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}, "cubic": {2: "bicubic"}}
        mode = flat.get(inner.onnx_mode, {}).get(wanted.size - 2, inner.onnx_mode)
        if wanted is factors:
            return onnx_modules.Resize([float(one) for one in wanted[2:]], None, mode, inner.align_corners)
        return onnx_modules.Resize(None, [int(one) for one in wanted[2:]], mode, inner.align_corners)
    return None


def _arguments(node: Any, module: Any) -> dict[str, Any]:
    """By the names that the module's forward has for them."""
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _constant(network: Any, value: Any) -> NDArray[Any] | None:
    """What the graph holds there, where that is no result of a computation."""
    if getattr(value, "op", None) == "get_attr":
        tensor = network
        for name in value.target.split("."):
            tensor = getattr(tensor, name)
    elif getattr(value, "op", None) == "call_module":
        module = network.get_submodule(value.target)
        if type(module).__name__ != "OnnxConstant":
            return None
        tensor = module()
    else:
        return None
    return np.asarray(tensor.detach().numpy())


def _check(path: Path, network: Any, samples: Sequence[Inputs]) -> None:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    for sample in samples:
        if len(sample) != len(names):
            raise StepFailed(f"{path.name}: has {len(names)} inputs, calibration_batches() gives {len(sample)}")
        try:
            wanted = session.run(None, dict(zip(names, sample, strict=True)))
            with torch.no_grad():
                made = network(*(torch.from_numpy(one) for one in sample))
        except Exception as error:
            raise StepFailed(f"{path.name}: does not run as a torch network: {last_cause(error)}") from error
        found = [one.numpy() for one in (made if isinstance(made, (tuple, list)) else (made,))]
        for position, (source, result) in enumerate(zip(wanted, found, strict=True)):
            if source.shape != result.shape or not alike(source, result):
                raise StepFailed(f"{path.name}: as a torch network its output {position} is not that of ONNX Runtime")


def alike(source: NDArray[Any], result: NDArray[Any]) -> bool:
    """Of one output: as near as two runtimes are, over all and in each channel."""
    apart = np.abs(source - result)
    if not apart.max() <= TOLERANCE * max(SMALLEST, float(np.abs(source).max())):
        return False
    return all(
        bool((differences.max(axis=0) <= np.maximum(SMALLEST, CHANNEL_TOLERANCE * sizes.max(axis=0))).all())
        for differences, sizes in zip(
            compare.by_channel(apart[None]), compare.by_channel(np.abs(source)[None]), strict=True
        )
    )
