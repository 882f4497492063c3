"""Whole frames: what is timed, and what a user's pipeline can do wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketbench_agent import frames, loop
from pocketbench_agent.errors import StageError
from pocketbench_agent.runtimes import Array, ModelFacts, TensorInfo

FEW = loop.Limits(min_runs=5, max_runs=5, min_time_ns=0, max_time_ns=10**10)
INT8 = TensorInfo("x", "int8", (1, 4), (0.5,), (3,))
FACTS = ModelFacts((INT8,), (TensorInfo("y", "int8", (1, 4), (0.25,), (0,)),))
GOOD = (
    "def pre(item, inputs):\n    return item.reshape(inputs[0].shape) / 2\ndef post(outputs):\n    return outputs[0]\n"
)


class Echo:
    """A runtime that gives back what it was given."""

    version = "1"

    def __init__(self) -> None:
        self.bound: list[list[Array]] = []

    def bind(self, arrays: Any) -> None:
        self.bound.append(arrays)

    def run(self) -> None:
        pass

    def read(self) -> list[Array]:
        return self.bound[-1]


def pipeline(folder: Path, code: str, *items: Any) -> frames.Pipeline:
    (folder / "pipeline.py").write_text(code)
    named: dict[str, Any] = {str(position): item for position, item in enumerate(items)}
    np.savez(folder / "items.npz", **named)
    return frames.load(folder / "pipeline.py", folder / "items.npz")


def test_frames_go_through_pre_quantization_model_and_post(tmp_path: Path) -> None:
    seen: list[Array] = []
    loaded = pipeline(tmp_path, GOOD, np.array([1, 2, 3, 4], np.uint8), np.array([5, 6, 7, 8], np.uint8))
    made = frames.Pipeline(loaded.pre, lambda outputs: seen.append(outputs[0]), loaded.items)
    runtime = Echo()
    samples = frames.timed(made, runtime, FACTS, FEW)  # type: ignore[arg-type]
    assert len(samples.run_ns) == len(samples.io_ns) == 5
    assert all(0 < around <= whole for around, whole in zip(samples.io_ns, samples.run_ns, strict=True))
    # The last of eight frames, the first three not counted: item 0 halved, stored as x / 0.5 + 3, read as y * 0.25.
    assert len(runtime.bound) == 8
    assert runtime.bound[3][0].dtype == np.int8
    assert runtime.bound[3][0].tolist() == [[4, 5, 6, 7]]
    assert seen[3].tolist() == [[1.0, 1.25, 1.5, 1.75]]
    assert runtime.bound[4][0].tolist() == [[8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_module\n", "does not import here: ModuleNotFoundError"),
        ("def pre(item, inputs): pass\n", r"no function post\(\)"),
        (GOOD.replace("item.reshape", "item.no_such"), r"pre\(\) raised AttributeError"),
        (GOOD.replace("outputs[0]", "outputs[7]"), r"post\(\) raised IndexError"),
        (GOOD.replace("/ 2", "[:, :2]"), r"shape \[1, 2\] for input 'x', which wants \[1, 4\]"),
        (GOOD.replace("/ 2", "/ 0.0"), "NaN or infinity for input 'x'"),
        (GOOD.replace("return item", "return [0, 0], item"), "gave 2 arrays, the model has 1 inputs"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_a_pipeline_does_wrong_is_said(tmp_path: Path, code: str, told: str) -> None:
    with pytest.raises(StageError, match=told):
        frames.timed(pipeline(tmp_path, code, np.ones(4)), Echo(), FACTS, FEW)  # type: ignore[arg-type]


def test_a_pipeline_needs_items(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no items"):
        pipeline(tmp_path, GOOD)
