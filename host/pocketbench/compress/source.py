"""What is compressed: the network of a workload, and real inputs for it."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.compress.quiet import quiet
from pocketbench.compress.recipe import Inputs, Recipe, Say, missing_extra
from pocketbench.errors import UsageError
from pocketbench.workload import Workload, where

MOST_SAMPLES = 128
# What the extra brings, for workloads that import it themselves.
EXTRA = ("torch", "onnx", "onnxruntime", "litert_torch", "ai_edge_litert", "ai_edge_quantizer")


@dataclass(frozen=True)
class Network:
    """A torch module, or the path of an .onnx file."""

    content: Any
    stem: str
    sha256: str

    @property
    def is_file(self) -> bool:
        """An .onnx file?"""
        return isinstance(self.content, Path)


@dataclass(frozen=True)
class Read:
    """What a workload gives once, however many files are made of it."""

    network: Network
    samples: Sequence[Inputs]


def read(workload: Workload, recipes: Sequence[Recipe], say: Say) -> Read:
    """Its inputs and its network. UsageError: it lacks what a recipe needs, or gives what cannot be used."""
    check(workload, recipes)
    found = samples(workload)
    say(f"{workload.path.name}: model()")
    return Read(network(workload), found)


def check(workload: Workload, recipes: Sequence[Recipe]) -> None:
    """UsageError: which function of the workload is missing, and which recipe needs it."""
    for recipe in recipes:
        for step, function in [("every recipe", "model"), *recipe.needs()]:
            if not callable(getattr(workload.module, function, None)):
                raise UsageError(
                    f"--recipe {recipe.text}: {workload.path.name} has no {function}(), which {step} needs"
                )


def network(workload: Workload) -> Network:
    """Call model(). UsageError where it raises, or gives neither a network nor an .onnx file."""
    made = _call(workload, "model", workload.module.model)
    if isinstance(made, (str, Path)):
        path = Path(made)
        if path.suffix.lower() != ".onnx" or not path.is_file():
            raise UsageError(f"{workload.path.name}: model() gave {str(path)!r}, which is no .onnx file")
        try:
            from pocketbench.compress import onnx_graph
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error
        total = hashlib.sha256()
        for one in onnx_graph.files(path):
            with one.open("rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
        return Network(path, path.stem, total.hexdigest())
    if type(made).__name__ == "ExportedProgram":
        try:
            with quiet():
                from pocketbench.convert.exported import Exported
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error
        made = Exported(made)
    if not callable(getattr(made, "state_dict", None)):
        raise UsageError(
            f"{workload.path.name}: model() gave {type(made).__name__}: a torch module, a torch.export program or an "
            ".onnx path is needed"
        )
    digest = hashlib.sha256(workload.sha256.encode())
    for path in beside(workload):
        digest.update(path.read_bytes())
    buffers = dict(made.named_buffers()) if hasattr(made, "named_buffers") else {}
    for name, values in weights(made):
        # A mask is a buffer, and may be infinite.
        if values.dtype.kind == "f" and not (np.isfinite(values) | (name in buffers and np.isinf(values))).all():
            raise UsageError(f"{workload.path.name}: model() gave weights {name!r} that hold NaN or infinity")
        digest.update(name.encode() + values.tobytes())
    return Network(made, workload.path.stem, digest.hexdigest())


def weights(network: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """All that a torch module holds, by name."""
    for name, tensor in network.state_dict().items():
        yield name, np.ascontiguousarray(tensor.detach().cpu().numpy())


def beside(workload: Workload) -> list[Path]:
    """The user's own modules that the workload has imported so far: what a network computes stands in its code."""
    folder = workload.path.parent
    known = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    # Not ours, and of workloads the one alone.
    paths = {Path(file) for name, file in known.items() if file and not name.startswith("pocketbench")}
    own = [path for path in paths if path.is_relative_to(folder) and path != workload.path and path.suffix == ".py"]
    return sorted(path for path in own if path.is_file() and "site-packages" not in path.parts)


def functions(workload: Workload) -> dict[str, Callable[..., Any]]:
    """All of the workload's, by name. UsageError, with the line, where one raises as it is called or gone through."""

    def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            made = _call(workload, name, lambda: function(*arguments))
            return _through(workload, name, made) if isinstance(made, Iterator) else made

        return call

    named = {name: getattr(workload.module, name) for name in dir(workload.module) if not name.startswith("__")}
    return {name: guarded(name, one) for name, one in named.items() if callable(one)}


def samples(workload: Workload) -> list[Inputs]:
    """Up to 128 real inputs of one item each, from calibration_batches(). UsageError for what does not fit together."""
    function = getattr(workload.module, "calibration_batches", None)
    if function is None:
        return []
    found: list[Inputs] = []
    for batch in _call(workload, "calibration_batches", lambda: list(_first(function()))):
        arrays = tuple(_array(one, workload) for one in (batch if isinstance(batch, (tuple, list)) else (batch,)))
        items = {len(array) for array in arrays}
        if len(items) != 1 or 0 in items:
            raise UsageError(
                f"{workload.path.name}: calibration_batches() gave arrays of {sorted(items)} items in one batch"
            )
        found += [tuple(array[at : at + 1] for array in arrays) for at in range(items.pop())]
        shapes = {tuple(array.shape for array in sample) for sample in found}
        if len(shapes) > 1:
            raise UsageError(f"{workload.path.name}: calibration_batches() gave different shapes: {sorted(shapes)[:2]}")
    if not found:
        raise UsageError(f"{workload.path.name}: calibration_batches() gave nothing")
    return found[:MOST_SAMPLES]


def trained_on(workload: Workload, inputs: int) -> Iterator[Inputs]:
    """The inputs of one epoch, batch by batch; none where the workload cannot train."""
    function = getattr(workload.module, "train_batches", None)
    for batch in function() if function is not None else ():
        given, _ = parts(batch, inputs)
        yield tuple(np.asarray(one) for one in given)


def parts(batch: Any, inputs: int) -> tuple[tuple[Any, ...], Any]:
    """A batch of train_batches() as what a network with so many inputs takes, and the targets, or None.

    A tuple of as many as the network has inputs, if several, is inputs alone.
    """
    if not isinstance(batch, (tuple, list)):
        return (batch,), None
    targets = batch[1] if len(batch) > 1 else None
    if isinstance(batch[0], (tuple, list)):
        return tuple(batch[0]), targets
    return (tuple(batch), None) if len(batch) == inputs > 1 else ((batch[0],), targets)


def digest(found: Sequence[Inputs]) -> str:
    """Of the inputs: what they are, and their order."""
    total = hashlib.sha256()
    for sample in found:
        for array in sample:
            total.update(repr((array.shape, array.dtype.str)).encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _first(batches: Any) -> Any:
    count = 0
    for batch in batches:
        yield batch
        count += len(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if count >= MOST_SAMPLES:
            return


def _array(given: Any, workload: Workload) -> NDArray[np.float32]:
    array = np.asarray(given.detach().cpu().numpy() if hasattr(given, "detach") else given)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise UsageError(
            f"{workload.path.name}: calibration_batches() gave {array.dtype}, or NaN: finite floats are needed"
        )
    return array.astype(np.float32)


def _through(workload: Workload, name: str, items: Iterator[Any]) -> Iterator[Any]:
    end = object()
    while (item := _call(workload, name, lambda: next(items, end))) is not end:
        yield item


def _call(workload: Workload, name: str, function: Callable[[], Any]) -> Any:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return function()
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in EXTRA:
            raise missing_extra(error) from error
        raise UsageError(f"{workload.path.name}: {name}() raised {where(error, workload.path)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{workload.path.name}: {name}() raised {where(error, workload.path)}") from error
