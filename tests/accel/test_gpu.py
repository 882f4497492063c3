"""GPU paths of LiteRT and ONNX Runtime on a Vulkan in software: coverage, fidelity, and a call that returns early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.accel.conftest import environment, measure, needs
from tests.integration.conftest import DIGITS, Bench
from tests.integration.test_run import codes
from tests.peers import chains

pytestmark = needs("swiftshader")
# A model of four convolutions, whose time on a software GPU is far above that of a call.
EARLY = """
import json, sys, time
import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from pathlib import Path
from pocketbench_agent.runtimes import LoadOptions
from pocketbench_agent.runtimes.litert_compiled import Compiled
path = Path(sys.argv[1])
runtime = Compiled()
facts = runtime.load([path], LoadOptions(threads=1, delegate="gpu"))
arrays = [np.ones(i.shape, i.dtype) for i in facts.inputs]
spans = []
for _ in range(6):
    runtime.bind(arrays)
    begin = time.perf_counter()
    runtime._model.run_by_index(runtime._index, *runtime._order)
    queued = time.perf_counter()
    runtime.read()
    read = time.perf_counter()
    runtime.bind(arrays)
    again = time.perf_counter()
    runtime.run()
    ran = time.perf_counter()
    runtime.read()
    spans.append([queued - begin, read - queued, ran - again, time.perf_counter() - ran])
print(json.dumps(np.median(spans, axis=0).tolist()))
"""


def test_litert_on_the_gpu(bench: Bench) -> None:
    """Wholly, right, and labelled as software: never a GPU's time."""
    env = environment("swiftshader")
    gpu = measure(bench, env, DIGITS / "digits-float.tflite", "gpu")["gpu"]
    assert gpu["status"] == "OK", gpu["reasons"]
    delegate = gpu["delegate"]
    assert (delegate["used"], delegate["coverage"]) == ("gpu", "full")
    assert (delegate["nodes"], delegate["nodes_delegated"]) == (11, 11)
    assert "SwiftShader" in delegate["adapter"]
    assert "software_adapter" in codes(gpu)
    assert gpu["fidelity"][0]["cosine"] > 0.9999
    quantized = measure(bench, env, DIGITS / "digits-int8.tflite", "gpu")["gpu"]
    assert quantized["status"] == "OK", quantized["reasons"]
    assert quantized["fidelity"][0]["cosine"] > 0.99


def test_exact_maths_where_it_is_asked_for(bench: Bench) -> None:
    """Options of devices.yaml reach LiteRT's own; one that it does not have is refused."""
    setups = "{exact: {base: gpu, options: {enforce_f32: on}}, odd: {base: gpu, options: {enforce_f64: on}}}"
    found = measure(bench, environment("swiftshader"), DIGITS / "digits-float.tflite", "exact", "odd", setups=setups)
    assert found["exact"]["status"] == "OK", found["exact"]["reasons"]
    assert found["exact"]["runtime"]["precision"] == "as stored"
    assert found["odd"]["status"] == "FAILED"
    assert "has no option enforce_f64; it has enforce_f32," in found["odd"]["reasons"][0]["message"]


def test_a_part_and_nothing_of_a_model(bench: Bench) -> None:
    """What the GPU does not know stays on the CPU, by name; where it knows nothing, that is a fallback."""
    env = environment("swiftshader")
    part = measure(bench, env, chains.write(bench.home / "part.tflite", ["NEG", "LOG_SOFTMAX", "NEG"]), "gpu")["gpu"]
    assert part["status"] == "OK", part["reasons"]
    assert (part["delegate"]["nodes"], part["delegate"]["nodes_delegated"]) == (3, 1)
    assert part["delegate"]["on_cpu"] == {"LOG_SOFTMAX": 1, "others": 1}
    assert "partial_delegation" in codes(part, "warn")
    nothing = chains.write(bench.home / "nothing.tflite", ["LOG_SOFTMAX", "L2_NORMALIZATION"])
    none = measure(bench, env, nothing, "gpu")["gpu"]
    assert (none["status"], none["delegate"]["nodes_delegated"]) == ("FALLBACK", 0)


def test_the_span_of_a_run_lasts_until_its_outputs_can_be_read() -> None:
    """LiteRT's own call returns at once, and the read after it waits: what is timed as a run is both."""
    env = {**os.environ, **environment("swiftshader")}
    model = DIGITS / "digits-float.tflite"
    done = subprocess.run(
        [sys.executable, "-c", EARLY, str(model)], capture_output=True, text=True, env=env, timeout=120, check=True
    )
    queued, waited, ran, read = json.loads(done.stdout.splitlines()[-1])
    assert queued < 0.2 * waited, "has LiteRT become synchronous? Then run() need not wait"
    assert ran > 0.5 * (queued + waited)
    assert read < 0.1 * ran


def test_without_an_adapter_there_is_no_gpu(bench: Bench, tmp_path: Path) -> None:
    """A loader without a driver: skipped, and never a run on the CPU under the GPU's name."""
    env = {**environment("swiftshader"), "VK_ICD_FILENAMES": "/dev/null", "VK_DRIVER_FILES": "/dev/null"}
    gpu = measure(bench, env, DIGITS / "digits-float.tflite", "gpu")["gpu"]
    assert gpu["status"] == "SKIPPED"
    assert "LiteRT finds no gpu here: No adapters found" in gpu["reasons"][0]["message"]


@needs("webgpu")
def test_onnxruntime_on_webgpu(bench: Bench) -> None:
    """Wholly, right, and labelled as software; without a driver it runs on the CPU unsaid, which is a fallback."""
    env = environment("webgpu", "swiftshader")
    gpu = measure(bench, env, DIGITS / "digits-float.onnx", "webgpu")["webgpu"]
    assert gpu["status"] == "OK", gpu["reasons"]
    assert (gpu["delegate"]["coverage"], gpu["delegate"]["accelerated_by"]) == ("full", "WebGpuExecutionProvider")
    assert "SwiftShader" in gpu["delegate"]["adapter"]
    assert "software_adapter" in codes(gpu)
    assert gpu["fidelity"][0]["max_abs"] < 1e-3
    blind = {**env, "VK_ICD_FILENAMES": "/dev/null", "VK_DRIVER_FILES": "/dev/null"}
    none = measure(bench, blind, DIGITS / "digits-float.onnx", "gpu")["gpu"]
    assert (none["status"], none["delegate"]["nodes_delegated"]) == ("FALLBACK", 0)
