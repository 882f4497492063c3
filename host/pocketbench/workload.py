"""Workloads: what a user writes to have accuracy beside speed.

A workload is one Python file with `score(predict) -> Score`. `predict` takes and gives *real values*: the
harness quantizes what goes in and dequantizes what comes out, so that one workload serves a float file and
an int8 one. Layout follows the file: look at `predict.inputs[i].shape` or `.layout`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketbench.errors import DeviceError, UsageError
from pocketbench.measurement import Facts, Tensor, WorkerEnded
from pocketbench.models import PlacedFile, place
from pocketbench_agent.values import real_values, stored_values

__all__ = ["Predict", "Score", "TensorInfo", "Workload", "WorkloadFailed", "layout", "load"]

Arrays = Sequence[NDArray[Any]]
# Of an object that has a workload's functions as methods, in the place of the file.
OBJECT = "workload"


class WorkloadFailed(Exception):
    """The user's code raised, or returned what is not a score; the message names file and function."""


@dataclass(frozen=True)
class Score:
    """What a workload found.

    `per_item` has one number an item (1.0 or 0.0 for right or wrong). The metric is their mean, unless
    `resample` gives its value over any item indices (with repetition), as mAP needs. `others` are further
    metrics as fractions; `resamples` is how many bootstrap resamples are worth their time.
    """

    metric: str
    per_item: Sequence[float] | NDArray[np.float64]
    higher_is_better: bool = True
    others: Mapping[str, float] = field(default_factory=dict)
    resample: Callable[[Sequence[int]], float] | None = None
    resamples: int = 1000


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the file. Real value = (stored - zero_point) * scale, along `axis`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: Literal["NHWC", "NCHW"] | None
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None


class Predict(Protocol):
    """The model as a workload sees it."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The file's inputs, in its order."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The file's outputs, in its order."""

    def __call__(self, arrays: NDArray[Any] | Arrays | Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Real values of the inputs' shapes in (one array, a sequence, or by name), real values out."""


class DevicePredict:
    """A Predict over anything that answers stored values with stored values."""

    def __init__(self, call: Callable[[Arrays], list[NDArray[Any]]], facts: Facts) -> None:
        self._call = call
        self._facts = facts
        self.inputs = tuple(_info(tensor) for tensor in facts.inputs)
        self.outputs = tuple(_info(tensor) for tensor in facts.outputs)
        # The stored values of the first call: real inputs for the timed runs.
        self.first: Arrays | None = None

    def __call__(self, arrays: NDArray[Any] | Arrays | Mapping[str, NDArray[Any]], /) -> list[NDArray[Any]]:
        """Quantize, infer on the device, dequantize. WorkloadFailed: arrays that do not fit the inputs."""
        given = self._ordered(arrays)
        stored = [self._stored(a, t) for a, t in zip(given, self._facts.inputs, strict=True)]
        outputs = self._call(stored)
        self.first = self.first or stored
        return [real_values(a, t) for a, t in zip(outputs, self._facts.outputs, strict=True)]

    def _ordered(self, arrays: NDArray[Any] | Arrays | Mapping[str, NDArray[Any]]) -> Arrays:
        if isinstance(arrays, np.ndarray):
            arrays = [arrays]
        names = [tensor.name for tensor in self._facts.inputs]
        if isinstance(arrays, Mapping):
            if set(arrays) != set(names):
                raise WorkloadFailed(f"predict() got {sorted(arrays)}, the inputs are {names}")
            return [arrays[name] for name in names]
        if len(arrays) != len(names):
            raise WorkloadFailed(f"predict() got {len(arrays)} arrays, the inputs are {names}")
        return arrays

    @staticmethod
    def _stored(array: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
        array = np.asarray(array)
        if array.shape != tensor.shape:
            raise WorkloadFailed(
                f"predict() got shape {list(array.shape)} for input {tensor.name!r}, which wants {list(tensor.shape)}"
            )
        try:
            return stored_values(array, tensor)
        except ValueError as error:
            raise WorkloadFailed(f"predict() got {error}") from error


@dataclass(frozen=True)
class Workload:
    """A loaded workload file; its functions are those of `module`, or of the object `workload` in it."""

    path: Path
    sha256: str
    module: Any
    # By the function that gave them: items that must not be scored, as digests (disjoint.py).
    seen: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def score(self, predict: Predict) -> Score:
        """Run the user's score(); WorkloadFailed where it raises, or gives nothing finite."""
        try:
            # stdout is the report's: what the user's code prints goes beside the progress.
            with contextlib.redirect_stdout(sys.stderr):
                score = self.module.score(predict)
        except (WorkloadFailed, WorkerEnded, DeviceError):
            raise
        except (Exception, SystemExit) as error:
            raise WorkloadFailed(f"{self.path.name}: score() raised {where(error, self.path)}") from error
        return _checked(score, self.path.name)


@dataclass(frozen=True)
class DevicePipeline:
    """What times whole frames on the device: a file with pre() and post(), and the items for pre()."""

    code: PlacedFile
    items: PlacedFile


def device_pipeline(workload: Workload, folder: Path) -> DevicePipeline | None:
    """What the workload's device_pipeline() gives, as files; None where it has none. UsageError: it is not usable."""
    function = getattr(workload.module, "device_pipeline", None)
    if function is None:
        return None
    name = f"{workload.path.name}: device_pipeline()"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            path, items = function()
            arrays = [np.asarray(item) for item in items]
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name} raised {where(error, workload.path)}") from error
    if not arrays or any(array.dtype.kind not in "biuf" for array in arrays):
        raise UsageError(f"{name} must give a file and at least one item, each an array of numbers")
    kept = folder / "items.npz"
    numbered: dict[str, Any] = {str(position): array for position, array in enumerate(arrays)}
    np.savez(kept, **numbered)
    return DevicePipeline(place(Path(path), "pipeline.py", name), place(kept, "items.npz", name))


def load(path: Path, *, scores: bool = True) -> Workload:
    """Import a workload file. UsageError: missing, does not import, or has no score() where it is to score."""
    if not path.is_file():
        raise UsageError(f"--workload {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"pocketbench_workload_{sha256[:12]}"
    # Absolute, as the traceback of an error will name it.
    path = path.absolute()
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--workload {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses of the user's file look their module up by name.
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--workload {path}: does not import: {where(error, path)}") from error
    holder = _holder(module, path)
    if scores and not callable(getattr(holder, "score", None)):
        raise UsageError(f"--workload {path}: has no function score(predict)")
    return Workload(path, sha256, holder)


def _holder(module: ModuleType, path: Path) -> Any:
    """What has the functions: the module, or the object `workload` in it; a class of that name is made one."""
    found = getattr(module, OBJECT, None)
    if found is None or isinstance(found, ModuleType):
        return module
    if not isinstance(found, type):
        return found
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return found()
    except (Exception, SystemExit) as error:
        raise UsageError(f"--workload {path}: {OBJECT}() raised {where(error, path)}") from error


def _checked(score: Any, name: str) -> Score:
    if not isinstance(score, Score):
        raise WorkloadFailed(f"{name}: score() returned {type(score).__name__}, not a Score")
    try:
        items = np.asarray(score.per_item, np.float64)
    except (TypeError, ValueError) as error:
        raise WorkloadFailed(f"{name}: score() returned items that are no numbers: {error}") from error
    try:
        others = [float(value) for value in score.others.values()]
    except (AttributeError, TypeError, ValueError) as error:
        raise WorkloadFailed(f"{name}: score() returned a further metric that is no number: {error}") from error
    if items.ndim != 1 or not len(items):
        raise WorkloadFailed(f"{name}: score() returned no items")
    if not np.isfinite(items).all():
        raise WorkloadFailed(
            f"{name}: score() returned {int((~np.isfinite(items)).sum())} items that are NaN or infinite"
        )
    if not np.isfinite(others).all():
        raise WorkloadFailed(f"{name}: score() returned a further metric that is NaN or infinite")
    if score.resample is None and not 0 <= float(items.mean()) <= 1:
        raise WorkloadFailed(f"{name}: score() returned {items.mean():.4g}, which is no fraction from 0 to 1")
    if not isinstance(score.metric, str) or not score.metric:
        raise WorkloadFailed(f"{name}: score() returned a metric without a name")
    if not isinstance(score.resamples, int) or not 10 <= score.resamples <= 100_000:
        raise WorkloadFailed(f"{name}: score() asks for {score.resamples!r} resamples; give 10 to 100000")
    return score


def where(error: BaseException, path: Path) -> str:
    """The error with the line of the user's file that it came from."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}" + (f" ({path.name}:{line})" if line else "")


def _info(tensor: Tensor) -> TensorInfo:
    return TensorInfo(
        tensor.name, tensor.dtype, tensor.shape, layout(tensor.shape), tensor.scale, tensor.zero_point, tensor.axis
    )


def layout(shape: tuple[int, ...]) -> Literal["NHWC", "NCHW"] | None:
    """Of an image with 1, 3 or 4 channels; None where both or neither fit."""
    if len(shape) != 4:
        return None
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    if first == last:
        return None
    return "NCHW" if first else "NHWC"
