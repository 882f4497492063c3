"""Recipes: ordered steps, chained by `+`, found through a literal table."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketbench.errors import PocketbenchError, UsageError, nearest

FORMATS = ("onnx", "tflite")
REFERENCE = "fp32"
# Each makes another network of a torch network; any number of them may come before the file is written.
NETWORK_STEPS: Mapping[str, str] = {
    "prune": "pocketbench.compress.prune:Prune",
    "sparse": "pocketbench.compress.sparse:Sparse",
    "distill": "pocketbench.compress.distill:Distill",
    "scratch": "pocketbench.compress.distill:Scratch",
    "int8-qat": "pocketbench.compress.qat:Int8",
}
# Those whose argument, after a colon, is a share: more than 0 and less than 1.
SHARES = ("prune", "sparse")
# Those that begin with another network: the workload's student(), or the function that their argument names.
STUDENTS = ("distill", "scratch")
# What distillation is to be better than: the same student and training without a teacher.
CONTROLS: Mapping[str, str] = {"distill": "scratch"}
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
# Which functions of the workload a step needs beside model().
NEEDS: Mapping[str, tuple[str, ...]] = {
    "int8-static": ("calibration_batches",),
    "prune": ("calibration_batches",),
    "sparse": ("calibration_batches",),
    "distill": ("calibration_batches", "train_batches", "student"),
    "scratch": ("calibration_batches", "train_batches", "loss", "student"),
    "int8-qat": ("calibration_batches", "train_batches", "loss"),
}

Say = Callable[[str], None]
Inputs = tuple[NDArray[np.float32], ...]
Sample = Mapping[str, NDArray[np.float32]]


class StepFailed(PocketbenchError):
    """A step cannot do, or did not do, what its name says; the message says why and what to do instead."""

    exit_code = 3


@dataclass(frozen=True)
class Context:
    """What a step may use: real inputs by name, and the processor that the file is for."""

    samples: Sequence[Sample]
    target: str = "x86_64"
    say: Say = lambda _: None


@dataclass(frozen=True)
class NetworkContext:
    """What a step on a network may use: real inputs of one item each, and functions of the workload by name.

    `original` is the network that the recipe began with.
    """

    samples: Sequence[Inputs]
    functions: Mapping[str, Callable[..., Any]]
    original: Any
    say: Say
    seed: int = 0

    @property
    def trains(self) -> bool:
        """Can the workload train, with labels?"""
        return "train_batches" in self.functions and "loss" in self.functions


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


class NetworkStep(Protocol):
    """One step on a torch network. Whatever is random in it comes from torch's global generator, which is seeded."""

    def apply(self, network: Any, context: NetworkContext) -> tuple[Any, Done]:
        """Another network; the one given stays as it is. StepFailed where it does not lend itself to the step."""

    def check(self, before: Any, after: Any, context: NetworkContext) -> Done:
        """Did the network become what the step's name says? StepFailed where it did not."""


@dataclass(frozen=True)
class Recipe:
    """Steps in order, with their arguments; none at all is the reference."""

    text: str
    steps: tuple[str, ...]

    @property
    def on_network(self) -> tuple[str, ...]:
        """The steps before a file is written."""
        return tuple(step for step in self.steps if named(step)[0] in NETWORK_STEPS)

    @property
    def on_file(self) -> str | None:
        """The step on the file, if there is one."""
        return next((step for step in self.steps if step in STEPS), None)

    @property
    def control(self) -> Recipe | None:
        """What this recipe has to be better than, where that is another recipe."""
        if not self.steps or named(self.steps[0])[0] not in CONTROLS:
            return None
        name, colon, argument = self.steps[0].partition(":")
        steps = (CONTROLS[name] + colon + argument, *self.steps[1:])
        return Recipe("+".join(steps), steps)

    def needs(self) -> Iterator[tuple[str, str]]:
        """(step, function of the workload) of what cannot be done without."""
        for step in self.steps:
            name, argument = named(step)
            for function in NEEDS.get(name, ()):
                yield step, argument if function == "student" and argument else function


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
    """`int8-static`, or several joined by `+`: `prune:0.5+int8-static`. UsageError says what is wrong with it."""
    steps = tuple(step for part in text.split("+") if (step := _step(text, part.strip())) != REFERENCE)
    for place, step in enumerate(steps):
        name = named(step)[0]
        if place < len(steps) - 1 and (name in STEPS or name == "int8-qat"):
            raise UsageError(f"--recipe {text}: {step} writes a file of its own kind: nothing can follow it")
        if name == "sparse" and any(named(later)[0] in NETWORK_STEPS for later in steps[place + 1 :]):
            raise UsageError(f"--recipe {text}: {steps[place + 1]} would undo the zeros of {step}: put {step} after it")
        if place and name in STUDENTS:
            raise UsageError(f"--recipe {text}: {step} begins with another network: nothing can come before it")
    return Recipe("+".join(steps) or REFERENCE, steps)


def named(step: str) -> tuple[str, str]:
    """`prune:0.5` as (prune, 0.5); the argument is empty where there is none."""
    name, _, argument = step.partition(":")
    return name, argument


def _step(text: str, step: str) -> str:
    """In its plain spelling: one way to write a share."""
    name, argument = named(step)
    if name != REFERENCE and name not in STEPS and name not in NETWORK_STEPS:
        raise UsageError(f"--recipe {text}: unknown step {name!r}{nearest(name, [REFERENCE, *STEPS, *NETWORK_STEPS])}")
    if name in SHARES:
        try:
            share = float(argument)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise UsageError(
                f"--recipe {text}: {name} takes a share between 0 and 1, like {name}:0.5; not {argument!r}"
            )
        return f"{name}:{share:g}"
    if name in STUDENTS:
        if argument and not argument.isidentifier():
            raise UsageError(f"--recipe {text}: {name} takes the name of a function of the workload, not {argument!r}")
    elif ":" in step:
        raise UsageError(f"--recipe {text}: {name} takes no argument")
    return step.rstrip(":")


def create(step: str, form: str) -> Step:
    """The step for a format. StepFailed: there is no way to that format; UsageError: the extra is missing."""
    target = STEPS[step].get(form)
    if target is None:
        raise StepFailed(f"{step} has no way to {form}; it has one to {', '.join(STEPS[step])}")
    made: Step = _attribute(target)()
    return made


def create_on_network(step: str) -> NetworkStep:
    """The step with its argument. UsageError: the extra is missing."""
    name, argument = named(step)
    given = [float(argument)] if name in SHARES else [argument or "student"] if name in STUDENTS else []
    made: NetworkStep = _attribute(NETWORK_STEPS[name])(*given)
    return made


def _attribute(target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error


def missing_extra(error: ModuleNotFoundError) -> UsageError:
    """In one sentence."""
    return UsageError(f"compression needs {error.name}: pip install 'pocketbench[compress]'")


def file_name(stem: str, recipe: Recipe, form: str) -> str:
    """Of an artifact: `net-int8-static.tflite`."""
    return f"{stem}-{re.sub(r'[^A-Za-z0-9.+-]+', '_', recipe.text)}.{form}"


def in_order(names: Iterable[str]) -> list[str]:
    """As people count: `output_2` before `output_10`, which is how exporters number what a network takes and gives."""
    return sorted(
        names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )


def processor() -> str:
    """This machine's, by the name that `--target` has for it: macOS and Windows have others."""
    machine = platform.machine()
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(machine.lower(), machine)
