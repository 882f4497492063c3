"""Outputs beside the reference over a link that breaks: asked again, and never a verdict for want of an answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pocketbench.errors import DeviceLost
from pocketbench.fleet.output_check import OutputCheck
from pocketbench.measurement import Ended, Output, Rounding
from pocketbench.plan import Plan
from pocketbench.session.wire import JobFiles
from tests.unit import facts

REFERENCE = np.array([1, 100, 200], "uint8")
OURS = np.array([4, 103, 203], "uint8")


@dataclass
class Device:
    """A link and its session in one, of another processor than the host's; what is `broken` is lost so often."""

    broken: dict[str, int] = field(default_factory=dict)
    reopened: int = 0
    info: Any = None
    ours: Any = field(default_factory=lambda: OURS)

    @property
    def live(self) -> Device:
        return self

    def _may_break(self, what: str) -> None:
        if self.broken.get(what, 0):
            self.broken[what] -= 1
            raise DeviceLost(f"pi: gone in {what}")

    def reference(self, *_: object) -> tuple[Ended, list[Output]]:
        self._may_break("outputs")
        return Ended("ok"), [Output("y", self.ours)]

    def reopen(self, why: str) -> None:
        self.reopened += 1


@dataclass
class Host:
    """The reference; how far rounding alone moves it is what makes the difference above nothing."""

    values: Any = field(default_factory=lambda: REFERENCE)

    def outputs(self, *_: object) -> list[Output]:
        return [Output("y", self.values)]

    def rounding(self, *_: object) -> list[Rounding]:
        return [Rounding(3.0, 0.01)]


def compared(device: Device) -> Any:
    check = OutputCheck(device, Plan(), Host(), threading.Event())  # type: ignore[arg-type]
    return check.compare(facts.case(), JobFiles(), facts.processes())


def test_a_link_that_breaks_in_the_comparison_is_opened_anew() -> None:
    device = Device({"outputs": 1})
    (found,) = compared(device)
    assert (device.reopened, found.max_abs) == (1, 3) and found.tolerance >= 3


def test_a_model_that_is_quantized_inside_is_judged_so_on_an_accelerator() -> None:
    """As the worker says of it, whatever its outputs are."""
    logits = np.array([3.3, -5.0, 12.0], "float32")
    for quantized in (True, False):
        placed = replace(facts.placed(4, 4), quantized=quantized)
        processes = [replace(process, placed=placed) for process in facts.processes()]
        device, host = Device(ours=logits + np.float32(4.0 * 0.0825)), Host(logits)
        check = OutputCheck(device, Plan(), host, threading.Event())  # type: ignore[arg-type]
        found = check.compare(replace(facts.case(), delegate="npu"), JobFiles(), processes)
        assert found is not None and (found[0].tolerance == 12.0) is quantized


def test_a_link_that_breaks_again_leaves_it_open() -> None:
    device = Device({"outputs": 5})
    assert (compared(device), device.reopened) == (None, 2)
