"""Recipes: ordered steps, chained by `+`, found through a literal table."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketbench.errors import PocketbenchError, UsageError, nearest

FORMATS = ("onnx", "tflite")
REFERENCE = "fp32"
# Each works on a file of one format, after which nothing can follow.
STEPS: Mapping[str, Mapping[str, str]] = {
    "fp16": {
        "onnx": "pocketbench.compress.onnx_float16:Float16",
        "tflite": "pocketbench.compress.tflite_quantize:Float16",
    },
    "int8-dynamic": {
        "onnx": "pocketbench.compress.onnx_quantize:Dynamic",
        "tflite": "pocketbench.compress.tflite_quantize:Dynamic",
    },
    "int8-weight": {"tflite": "pocketbench.compress.tflite_quantize:WeightOnly"},
    "int4-weight": {
        "onnx": "pocketbench.compress.onnx_int4:WeightOnly",
        "tflite": "pocketbench.compress.tflite_quantize:Int4WeightOnly",
    },
    "int8-static": {
        "onnx": "pocketbench.compress.onnx_quantize:Static",
        "tflite": "pocketbench.compress.tflite_quantize:Static",
    },
}
# What at least has to be converted of all weights of convolutions and matrix products.
CONVERTED_SHARE = 0.95
# Which function of the workload a step needs beside model().
NEEDS: Mapping[str, str] = {"int8-static": "calibration_batches"}

Sample = Mapping[str, NDArray[np.float32]]


class StepFailed(PocketbenchError):
    """A step cannot do, or did not do, what its name says; the message says why and what to do instead."""

    exit_code = 3


@dataclass(frozen=True)
class Context:
    """What a step may use: real inputs by name, and the processor that the file is for."""

    samples: Sequence[Sample]
    target: str = "x86_64"
    seed: int = 0


@dataclass(frozen=True)
class Done:
    """What a step did, in facts for the manifest, and what a person should know of it."""

    facts: Mapping[str, Any]
    findings: tuple[str, ...] = ()


class Step(Protocol):
    """One step on a file."""

    def apply(self, source: Path, target: Path, context: Context) -> Done:
        """Write `target`. StepFailed where the network does not lend itself to it."""

    def check(self, source: Path, target: Path) -> Done:
        """Did the file become what the step's name says? StepFailed where it did not."""


@dataclass(frozen=True)
class Recipe:
    """Steps in order; none at all is the reference."""

    text: str
    steps: tuple[str, ...]

    def needs(self) -> Iterator[tuple[str, str]]:
        """(step, function of the workload) of what cannot be done without."""
        for step in self.steps:
            if step in NEEDS:
                yield step, NEEDS[step]


def converted(step: str, weights: Mapping[str, int], *kinds: str) -> float:
    """The share of weights that are of one of these types. StepFailed where more than a few are not."""
    share = sum(weights.get(kind, 0) for kind in kinds) / max(1, sum(weights.values()))
    if share < CONVERTED_SHARE:
        raise StepFailed(f"{step}: only {share:.0%} of the weights became {kinds[0]}")
    return share


def within_half(subject: str, values: NDArray[Any]) -> None:
    """StepFailed: values that half precision cannot hold. The subject ends in its verb."""
    largest = float(np.abs(values).max(initial=0))
    if not largest <= float(np.finfo(np.float16).max):
        raise StepFailed(f"fp16: {subject} {largest:.3g}, and half precision ends at 65504")


def parse(text: str) -> Recipe:
    """`int8-static`, or several joined by `+`. UsageError names the nearest step that there is."""
    names = [name.strip() for name in text.split("+")]
    for name in names:
        if name != REFERENCE and name not in STEPS:
            raise UsageError(f"--recipe {text}: unknown step {name!r}{nearest(name, [REFERENCE, *STEPS])}")
    steps = tuple(name for name in names if name != REFERENCE)
    if len(steps) > 1:
        raise UsageError(f"--recipe {text}: {steps[0]} writes a file of its own kind: nothing can follow it")
    return Recipe("+".join(steps) or REFERENCE, steps)


def create(step: str, form: str) -> Step:
    """The step for a format. StepFailed: there is no way to that format; UsageError: the extra is missing."""
    target = STEPS[step].get(form)
    if target is None:
        raise StepFailed(f"{step} has no way to {form}; it has one to {', '.join(STEPS[step])}")
    module, _, attribute = target.partition(":")
    try:
        made: Step = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    return made


def missing_extra(error: ModuleNotFoundError) -> UsageError:
    """In one sentence."""
    return UsageError(f"compression needs {error.name}: pip install 'pocketbench[compress]'")


def file_name(stem: str, recipe: Recipe, form: str) -> str:
    """Of an artifact: `net-int8-static.tflite`."""
    return f"{stem}-{re.sub(r'[^A-Za-z0-9.+-]+', '_', recipe.text)}.{form}"
