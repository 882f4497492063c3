"""ncnn: a model converted by pnnx, on the CPU and on a Vulkan in software, and files that are broken."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.accel.conftest import FETCHED, environment, measure, needs, vulkan
from tests.integration.conftest import DIGITS, ROOT, Bench
from tests.integration.test_run import PROVENANCE, codes

pytestmark = needs("ncnn")
SHAPE = ("--shape", "in0=1x1x28x28")
TINY = "7767517\n2 2\nInput in0 0 1 in0 0=8 1=4 2=3\n{op} r 1 1 in0 out0\n"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits-float.onnx as ncnn has it."""
    folder = tmp_path_factory.mktemp("ncnn")
    (folder / "digits.onnx").write_bytes((DIGITS / "digits-float.onnx").read_bytes())
    pnnx = FETCHED / "pnnx" / "pnnx" / "pnnx"
    pnnx.chmod(0o755)
    command = [str(pnnx), "digits.onnx", "inputshape=[1,1,28,28]f32"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder / "digits.ncnn.param"


def tiny(bench: Bench, op: str = "ReLU") -> Path:
    """A model of one op without weights."""
    path = bench.home / "tiny.param"
    path.write_text(TINY.format(op=op))
    path.with_suffix(".bin").write_bytes(b"")
    return path


@needs("pnnx")
def test_accuracy_on_the_device(bench: Bench, digits: Path) -> None:
    """The digits are read as well as from the file that it was converted from."""
    arguments = (*SHAPE, "--workload", ROOT / "examples" / "digits.py")
    cpu = measure(bench, environment("ncnn"), digits, "cpu", arguments=arguments)["cpu"]
    assert cpu["status"] == "OK", cpu["reasons"]
    assert (cpu["model"]["format"], cpu["runtime"]["name"]) == ("ncnn", "ncnn")
    known = PROVENANCE["files"]["digits-float.onnx"]["test_accuracy"]
    assert cpu["accuracy"]["value"] == pytest.approx(known, abs=0.003)
    assert cpu["delegate"]["coverage"] == "n/a"


@needs("pnnx", "swiftshader")
def test_vulkan(bench: Bench, digits: Path) -> None:
    """Every layer, right, and labelled as software; without a driver it is skipped, where ncnn would take the CPU."""
    env = environment("ncnn", "swiftshader")
    gpu = measure(bench, env, digits, "gpu", arguments=SHAPE)["gpu"]
    assert gpu["status"] == "OK", gpu["reasons"]
    delegate = gpu["delegate"]
    assert (delegate["coverage"], delegate["nodes"], delegate["accelerated_by"]) == ("full", 9, "vulkan")
    assert "SwiftShader" in delegate["adapter"]
    assert "software_adapter" in codes(gpu)
    blind = {**env, **vulkan(Path(os.devnull), FETCHED / "swiftshader")}
    none = measure(bench, blind, digits, "vulkan", arguments=SHAPE)["vulkan"]
    assert (none["status"], "finds no Vulkan" in none["reasons"][0]["message"]) == ("SKIPPED", True)


def test_shapes(bench: Bench) -> None:
    """The file's own, the same with a batch of 1, and others, which are refused."""
    model, env = tiny(bench), environment("ncnn")
    own = measure(bench, env, model, "cpu")["cpu"]
    assert (own["status"], own["model"]["inputs"][0]["shape"]) == ("OK", [3, 4, 8]), own["reasons"]
    batch = measure(bench, env, model, "cpu", arguments=("--shape", "in0=1x3x4x8"))["cpu"]
    assert (batch["status"], batch["model"]["inputs"][0]["shape"]) == ("OK", [1, 3, 4, 8]), batch["reasons"]
    other = measure(bench, env, model, "cpu", arguments=("--shape", "in0=3x4x9"))["cpu"]
    assert (other["status"], "does not fit the file's 3x4x8" in other["reasons"][0]["message"]) == ("FAILED", True)


def test_files_that_are_not_what_they_should_be(bench: Bench) -> None:
    """An op that ncnn does not have, as a broken conversion leaves behind; a text that is none; no weights."""
    env = environment("ncnn")
    unknown = measure(bench, env, tiny(bench, "Conv"), "cpu")["cpu"]
    assert unknown["status"] == "FAILED"
    assert "layer Conv not exists" in unknown["reasons"][0]["message"]
    (bench.home / "tiny.param").write_text("hello\n")
    text = measure(bench, env, bench.home / "tiny.param", "cpu")["cpu"]
    assert (text["status"], text["stage"]) == ("FAILED", "load")
    (bench.home / "tiny.bin").unlink()
    missing = bench("--device", "local", "--model", bench.home / "tiny.param")
    assert (missing.code, "its weights are missing" in missing.stderr) == (2, True)


def test_options(bench: Bench) -> None:
    """Switches by ncnn's own names."""
    setups = "{exact: {base: cpu, options: {use_fp16_storage: off, use_fp16_packed: off, use_fp16_arithmetic: off}}, "
    setups += "odd: {base: cpu, options: {use_fp8: on}}}"
    found = measure(bench, environment("ncnn"), tiny(bench), "exact", "odd", setups=setups)
    assert (found["exact"]["status"], found["exact"]["runtime"]["precision"]) == ("OK", "as stored")
    assert (found["odd"]["status"], "has no option use_fp8" in found["odd"]["reasons"][0]["message"]) == (
        "FAILED",
        True,
    )


@needs("pnnx")
def test_a_network_is_converted_and_measured(bench: Bench) -> None:
    """`bench convert` compares what pnnx made with its source, and keeps nothing that answers otherwise."""
    env = environment("ncnn", "pnnx")
    made = bench("convert", DIGITS / "digits-float.onnx", "--to", "ncnn", **env)
    assert made.code == 0 and "outputs agree with the source's" in made.stdout, made.stderr
    cpu = measure(bench, env, bench.home / "digits-float.param", "cpu", arguments=SHAPE)["cpu"]
    assert cpu["status"] == "OK", cpu["reasons"]
    broken = bench.home / "broken.onnx"
    broken.write_bytes((DIGITS / "digits-float.onnx").read_bytes()[:5000])
    refused = bench("convert", broken, "--to", "ncnn", **env)
    assert refused.code in (2, 3) and not broken.with_suffix(".param").exists()
