"""Recipes as they are typed."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketbench.compress import pipeline, recipe, variants
from pocketbench.compress.recipe import StepFailed, parse
from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected", "steps"),
    [
        ("fp32", "fp32", ()),
        ("int8-static", "int8-static", ("int8-static",)),
        ("fp32+fp16", "fp16", ("fp16",)),
        ("sparse:0.50+int8-static", "sparse:0.5+int8-static", ("sparse:0.5", "int8-static")),
    ],
)
def test_parse(text: str, expected: str, steps: tuple[str, ...]) -> None:
    found = parse(text)
    assert (found.text, found.steps) == (expected, steps)


def test_what_is_no_recipe() -> None:
    with pytest.raises(
        UsageError, match=r"--recipe int8-statik: unknown step 'int8-statik' \(did you mean 'int8-static'"
    ):
        parse("int8-statik")
    with pytest.raises(UsageError, match=r"fp16 writes a file of its own kind: nothing can follow it"):
        parse("fp16+int8-static")
    with pytest.raises(UsageError, match="unknown step ''"):
        parse("fp16+")
    with pytest.raises(UsageError, match=r"unknown step 'sparce' \(did you mean 'sparse'"):
        parse("sparce:0.5")
    with pytest.raises(UsageError, match=r"fp16 writes a file of its own kind: nothing can follow it"):
        parse("fp16+sparse:0.5")
    with pytest.raises(UsageError, match="fp16 takes no argument"):
        parse("fp16:1")


@pytest.mark.parametrize("share", ["0", "1", "50", "half", "nan", ""])
def test_a_share_lies_between_none_and_all(share: str) -> None:
    with pytest.raises(UsageError, match=r"sparse takes a share between 0 and 1, like sparse:0\.5; not '"):
        parse(f"sparse:{share}")


def test_steps_on_the_network_and_on_the_file() -> None:
    found = parse("sparse:0.5+int8-static")
    assert (found.on_network, found.on_file) == (("sparse:0.5",), "int8-static")
    assert (parse("fp32").on_network, parse("fp32").on_file) == ((), None)


def test_needs_are_named() -> None:
    assert list(parse("int8-static").needs()) == [("int8-static", "calibration_batches")]
    assert not list(parse("fp16").needs())


def test_a_format_without_a_way() -> None:
    with pytest.raises(StepFailed, match="int8-weight has no way to onnx; it has one to tflite"):
        recipe.create("int8-weight", "onnx")


def test_file_names_are_plain() -> None:
    assert recipe.file_name("net", parse("int8-static"), "tflite") == "net-int8-static.tflite"


def test_distillation_has_a_control() -> None:
    control = parse("distill:tiny+fp16").control
    assert control == parse("scratch:tiny+fp16")
    assert parse("fp16").control is None and parse("scratch").control is None
    needs = [function for _, function in parse("distill:tiny").needs()]
    assert needs == ["calibration_batches", "train_batches", "tiny"]
    assert ("distill", "student") in list(parse("distill").needs())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune:0.5+distill", "distill begins with another network: nothing can come before it"),
        ("sparse:0.5+prune:0.5", r"prune:0\.5 would undo the zeros of sparse:0\.5: put sparse:0\.5 after it"),
        ("int8-qat+fp16", "int8-qat writes a file of its own kind: nothing can follow it"),
        ("int8-qat+prune:0.5", "int8-qat writes a file of its own kind: nothing can follow it"),
        ("distill:a b", "distill takes the name of a function of the workload, not 'a b'"),
        ("int8-qat:3", "int8-qat takes no argument"),
    ],
)
def test_an_order_that_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_names_with_numbers_are_in_the_order_of_the_numbers() -> None:
    names = [f"output_{number}" for number in range(12)]
    assert recipe.in_order(sorted(names)) == names
    assert recipe.in_order(["input", "b2", "a10", "7", "a9", ""]) == ["", "7", "a9", "a10", "b2", "input"]


def test_inputs_of_a_tflite_file_are_in_the_order_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT gives them as text would be sorted."""
    names = [f"args_{number}" for number in range(11)]
    plain = {"dtype": np.float32, "quantization": (0.0, 0)}
    details = {name: {"shape": [1, position], **plain} for position, name in enumerate(names)}

    class Interpreter:
        def __init__(self, model_path: str) -> None: ...

        def get_signature_runner(self) -> Interpreter:
            return self

        def get_signature_list(self) -> list[str]:
            return ["serve"]

        def get_input_details(self) -> dict[str, dict[str, Any]]:
            return {name: details[name] for name in sorted(names)}

        get_output_details = get_input_details

    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    monkeypatch.setattr(interpreter, "Interpreter", Interpreter)
    assert list(pipeline._inputs(Path("net.tflite"), "tflite").items()) == [(n, [1, p]) for p, n in enumerate(names)]


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("arm64", "aarch64"), ("aarch64", "aarch64"), ("ARM64", "aarch64"), ("AMD64", "x86_64"), ("riscv64", "riscv64")],
)
def test_this_processor_by_the_name_that_targets_have(
    monkeypatch: pytest.MonkeyPatch, machine: str, expected: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert recipe.processor() == expected
    assert variants._processor("local", DeviceEntry(transport="local"), print) == expected
