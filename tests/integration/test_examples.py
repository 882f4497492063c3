"""The reference workloads: what they calibrate with is not what they score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketbench import workload
from pocketbench.compress.disjoint import Guard, digests
from tests.integration.conftest import ROOT, SHARED


class Answers:
    """The same answer for everything."""

    outputs = ()

    def __init__(self, shape: tuple[int, ...], answer: NDArray[np.float32]) -> None:
        self.inputs = (workload.TensorInfo("x", "float32", shape, workload.layout(shape), (), (), None),)
        self._answer = answer

    def __call__(self, _: Any, /) -> list[NDArray[Any]]:
        """Real values."""
        return [self._answer]


@pytest.mark.parametrize(
    ("name", "side", "answer", "calibration", "scored"),
    [
        ("imagenet_classification", 224, np.zeros((1, 1001), "f4"), 128, 872),
        ("coco_detection", 640, np.zeros((1, 4, 85), "f4"), 64, 128),
    ],
)
def test_calibration_and_scored_images_are_apart(
    monkeypatch: pytest.MonkeyPatch, name: str, side: int, answer: NDArray[np.float32], calibration: int, scored: int
) -> None:
    if not SHARED.is_dir():
        pytest.skip("no ../shared/models here")
    monkeypatch.setenv("POCKETBENCH_DATA", str(SHARED / "images"))
    work = workload.load(ROOT / "examples" / f"{name}.py")
    assert work.module.model().is_file()
    batches = list(work.module.calibration_batches())
    shape = (1, 3, side, side)
    assert {(batch.shape, batch.dtype.name) for batch in batches} == {(shape, "float32")}
    seen = digests([batch] for batch in batches)
    assert len(seen) == calibration
    guard = Guard(Answers((1, side, side, 3), answer), {"calibration_batches": seen})
    assert len(work.score(guard).per_item) == scored
    guard.verify(name)
    guard(batches[0])
    with pytest.raises(workload.WorkloadFailed, match=rf"1 of the {scored + 1} items"):
        guard.verify(name)
