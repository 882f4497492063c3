"""Whole frames: the user's pre-processing, the model and the user's post-processing, timed together on the device.

The user's file needs numpy alone and has `pre(item, inputs)`, which gives the model's inputs in real values, and
`post(outputs)`, which takes its outputs in real values. `inputs` are the file's own: name, dtype, shape.
"""

from __future__ import annotations

import importlib.util
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketbench_agent import loop, values
from pocketbench_agent.errors import StageError
from pocketbench_agent.runtimes import Array, ModelFacts, Runtime, TensorInfo

WARM_UP = 3
LIMITS = loop.Limits(min_runs=20, max_runs=10_000, min_time_ns=1_000_000_000, max_time_ns=10_000_000_000)


@dataclass(frozen=True)
class Pipeline:
    """The user's two functions, and the items that they are fed with in turn."""

    pre: Callable[[Array, Sequence[TensorInfo]], Any]
    post: Callable[[list[Array]], Any]
    items: Sequence[Array]


def load(path: Path, items: Path) -> Pipeline:
    """StageError where the file does not import, lacks a function, or there is no item."""
    spec = importlib.util.spec_from_file_location("pocketbench_device_pipeline", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise StageError(f"the device pipeline does not import here: {type(error).__name__}: {error}") from error
    for name in ("pre", "post"):
        if not callable(getattr(module, name, None)):
            raise StageError(f"the device pipeline has no function {name}()")
    with np.load(items, allow_pickle=False) as archive:
        found = [archive[str(position)] for position in range(len(archive.files))]
    if not found:
        raise StageError("the device pipeline has no items")
    return Pipeline(module.pre, module.post, found)


def timed(pipeline: Pipeline, runtime: Runtime, facts: ModelFacts, limits: loop.Limits = LIMITS) -> loop.Samples:
    """Frame after frame, as a camera would bring them: run_ns is the whole frame, io_ns all of it but the inference."""
    clock = loop.CLOCK
    run_ns, io_ns = array("q"), array("q")
    begin = clock()
    count = -WARM_UP
    while True:
        if count == 0:
            begin = clock()
        item = pipeline.items[count % len(pipeline.items)]
        a = clock()
        runtime.bind(_stored(_called("pre", pipeline.pre, item, facts.inputs), facts.inputs))
        b = clock()
        runtime.run()
        c = clock()
        outputs = [values.real_values(one, info) for one, info in zip(runtime.read(), facts.outputs, strict=True)]
        _called("post", pipeline.post, outputs)
        d = clock()
        count += 1
        if count > 0:
            run_ns.append(d - a)
            io_ns.append((b - a) + (d - c))
            spent = d - begin
            enough = count >= limits.min_runs and spent >= limits.min_time_ns
            if enough or spent >= limits.max_time_ns or count >= limits.max_runs:
                return loop.Samples(run_ns, io_ns)


def _called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        raise StageError(f"the device pipeline's {name}() raised {type(error).__name__}: {error}") from error


def _stored(given: Any, inputs: Sequence[TensorInfo]) -> list[Array]:
    arrays = [np.asarray(one) for one in (given if isinstance(given, (list, tuple)) else [given])]
    if len(arrays) != len(inputs):
        raise StageError(f"the device pipeline's pre() gave {len(arrays)} arrays, the model has {len(inputs)} inputs")
    for one, info in zip(arrays, inputs, strict=True):
        if one.shape != info.shape:
            raise StageError(
                f"the device pipeline's pre() gave shape {list(one.shape)} for input {info.name!r}, "
                f"which wants {list(info.shape)}"
            )
    try:
        return [values.stored_values(one, info) for one, info in zip(arrays, inputs, strict=True)]
    except ValueError as error:
        raise StageError(f"the device pipeline's pre() gave {error}") from error
