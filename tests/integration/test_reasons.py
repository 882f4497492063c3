"""Every reason of the registry is produced by a lie that a test plants, and found through the command line."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketbench.verdict.verdict import CODES
from tests.integration.conftest import DIGITS, QUICK, ROOT, Bench, wait_until
from tests.peers import native_tool

CC = shutil.which("cc") or shutil.which("gcc")
FULL = ROOT / "tests" / "data" / "native" / "benchmark_model-2.19-gpu-full.txt"
# Which test plants the lie that a reason is for.
RUN, CONDITIONS, ENERGY = "integration/test_run.py", "integration/test_conditions.py", "integration/test_energy.py"
DELEGATES, NATIVE, HERE = "integration/test_delegates.py", "integration/test_native.py", "integration/test_reasons.py"
PLANTED: Mapping[str, str] = {
    **dict.fromkeys(
        ("unsynchronised", "output_nan", "output_mismatch", "too_few_samples", "output_constant", "unstable", "drift"),
        f"{RUN}::test_a_planted_lie_is_caught",
    ),
    "inputs_random": f"{RUN}::test_shapes_inputs_and_threads",
    "load_failed": f"{RUN}::test_a_model_that_fails_under_a_workload_fails_as_without",
    "worker_died": f"{RUN}::test_a_model_that_fails_under_a_workload_fails_as_without",
    "workload_failed": f"{RUN}::test_a_workload_that_calls_exit_is_a_failed_case",
    "throttled": f"{CONDITIONS}::test_throttled_is_invalid",
    **dict.fromkeys(
        ("battery_saver", "background_cpuset"), f"{CONDITIONS}::test_what_android_says_of_heat_and_savings_counts"
    ),
    "not_prepared": "integration/test_preparation.py::test_what_could_not_be_set_need_not_be_put_back",
    "energy_clock": f"{CONDITIONS}::test_a_plug_that_answers_late_has_no_clock",
    "energy_unavailable": f"{CONDITIONS}::test_a_plug_on_the_wall_is_a_meter",
    **dict.fromkeys(
        ("energy_resolution", "energy_implausible", "energy_idle_drift"),
        f"{ENERGY}::test_a_lie_of_the_sensors_is_found",
    ),
    "charging": f"{ENERGY}::test_a_battery_that_charges_is_refused_unless_its_supply_is_outside",
    "counter_wrapped": f"{ENERGY}::test_energy_is_the_truth_within_a_hundredth",
    **dict.fromkeys(
        ("partial_delegation", "fallback", "coverage_unknown", "software_adapter"),
        f"{DELEGATES}::test_lies_about_placement_through_the_command_line",
    ),
    "runtime_changed": f"{NATIVE}::test_tools_that_misbehave",
    "run_failed": f"{NATIVE}::test_tools_that_misbehave",
    "not_available": f"{NATIVE}::test_tools_that_misbehave",
    "told_by_tool": f"{NATIVE}::test_benchmark_model_tells_a_median",
    "driven_from_host": "integration/test_driven.py::test_a_tool_is_measured_from_here",
    "fidelity_unavailable": f"{NATIVE}::test_benchmark_model_tells_a_median",
    "emulated": f"{NATIVE}::test_benchmark_model_tells_a_median",
    "not_served": "integration/test_lab.py::test_what_nobody_serves_is_said_and_can_be_called_off",
    "quarantined": "integration/test_lab.py::test_a_device_with_three_faults_is_left_alone_until_it_is_well",
    "device_busy": "integration/test_survival.py::test_two_runs_at_once_on_one_device",
    **dict.fromkeys(("clock_jumped", "suspended", "swapped"), f"{HERE}::test_clocks_and_memory_that_lie"),
    "rebooted": f"{HERE}::test_a_device_that_started_anew_between_processes",
    "background_load": f"{HERE}::test_a_core_that_is_shared",
    **dict.fromkeys(
        ("no_thermal_sensor", "frequency_unpinned", "percentile_withheld"), f"{HERE}::test_what_cannot_be_seen_is_noted"
    ),
    "implausible_latency": f"{HERE}::test_a_latency_of_nothing",
    "runtime_differs": f"{HERE}::test_two_builds_in_one_table",
    **dict.fromkeys(("slower_than_original", "accuracy_dropped"), f"{HERE}::test_compression_that_costs"),
    **dict.fromkeys(("timed_out", "hot_start", "warm_up_not_steady"), "slow/test_reasons.py::test_what_takes_minutes"),
    "device_lost": "slow/test_patience.py::test_a_device_that_does_not_come_back",
}


def test_every_reason_has_a_lie_that_is_planted() -> None:
    """The table is whole, and each test in it names its reason."""
    assert set(PLANTED) == set(CODES)
    for code, place in PLANTED.items():
        file, _, name = place.partition("::")
        text = (ROOT / "tests" / file).read_text()
        tree = ast.parse(text)
        test = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
        assert test is not None, place
        tables = [n for n in tree.body if isinstance(n, (ast.Assign, ast.AnnAssign))]
        named = [n.value for part in (test, *tables) for n in ast.walk(part) if isinstance(n, ast.Constant)]
        assert code in named, f"{place} does not name {code}"


def codes(result: Mapping[str, Any]) -> dict[str, str]:
    """Severity by code."""
    return {reason["code"]: reason["severity"] for reason in result["reasons"]}


def local(bench: Bench, **env: str) -> None:
    """A devices.yaml whose local agent has that environment."""
    told = ", ".join(f"{name}: '{text}'" for name, text in env.items())
    (bench.home / "devices.yaml").write_text(f"devices:\n  local: {{transport: local, env: {{{told}}}}}\n")


@pytest.mark.skipif(CC is None, reason="no C compiler here: clocks that lie were not tried")
def test_clocks_and_memory_that_lie(bench: Bench) -> None:
    """A wall clock that jumps, a device that sleeps, a worker in swap."""
    library, status = bench.home / "liblying.so", bench.home / "status"
    source = ROOT / "tests" / "peers" / "lying_clocks.c"
    subprocess.run([str(CC), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    status.write_text("VmHWM:\t  90000 kB\nVmRSS:\t  80000 kB\nVmSwap:\t   2048 kB\n")
    lies = {
        "jump": ("clock_jumped", "invalid"),
        "sleep": ("suspended", "invalid"),
        f"swap={status}": ("swapped", "warn"),
    }
    for lie, (code, severity) in lies.items():
        local(bench, LD_PRELOAD=str(library), LIE=lie)
        told = ("--processes", "1", "--min-time", "1.2", "--max-time", "2", "--cooldown", "0", "--format", "json")
        ended = bench("--device", "local", "--model", bench.null(sleep_ms=5), *told)
        (result,) = ended.results
        found = {c for c in codes(result) if c in ("clock_jumped", "suspended", "swapped")}
        assert (codes(result).get(code), found) == (severity, {code}), result["reasons"]
        assert result["status"] == ("INVALID" if severity == "invalid" else "OK")


@pytest.mark.skipif(CC is None, reason="no C compiler here: clocks that lie were not tried")
def test_a_device_that_sleeps_while_its_energy_is_measured(bench: Bench) -> None:
    """Of a gauge that says one thing all the time, and in the latency phase as well."""
    library, root = bench.home / "liblying.so", bench.home / "root"
    source = ROOT / "tests" / "peers" / "lying_clocks.c"
    subprocess.run([str(CC), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    gauge = root / "sys/class/hwmon/hwmon0"
    gauge.mkdir(parents=True)
    for name, text in (("name", "ina226"), ("power1_input", "5000000"), ("power1_label", "VDD_IN")):
        (gauge / name).write_text(f"{text}\n")
    local(bench, LD_PRELOAD=str(library), LIE="sleep", POCKETBENCH_ROOT=str(root))
    told = (*QUICK, "--energy", "2", "--format", "json")
    (result,) = bench("--device", "local", "--model", bench.null(sleep_ms=5), *told).results
    assert ("suspended", "invalid") in {(r["code"], r["severity"]) for r in result["reasons"] if r["scope"] == "energy"}


def test_a_device_that_started_anew_between_processes(bench: Bench) -> None:
    """Its boot id is another one."""
    root = bench.home / "root"
    boot = root / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("11111111-1111-4111-8111-111111111111\n")
    bench.environment["POCKETBENCH_ROOT"] = str(root)
    told = ("--processes", "2", "--min-time", "1", "--max-time", "1.5", "--cooldown", "0", "--format", "json")
    running = bench.start("--device", "local", "--model", bench.null(sleep_ms=5), *told)
    jobs = bench.home / "xdg_cache_home" / "pocketbench" / "agent" / "jobs"
    assert wait_until(lambda: any(jobs.glob("*.0.1")), 30)
    boot.write_text("22222222-2222-4222-8222-222222222222\n")
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 3, stderr
    assert '"rebooted"' in stdout and '"INVALID"' in stdout


def test_a_core_that_is_shared(bench: Bench) -> None:
    """Somebody else computes on the one core that the worker may use."""
    core = min(os.sched_getaffinity(0))
    spin = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as spinner:
        try:
            assert spinner.stdout is not None
            spinner.stdout.readline()
            case = ("--device", "local", "--model", DIGITS / "digits-float.onnx", "--cpus", core, *QUICK)
            (result,) = bench(*case, "--format", "json").results
        finally:
            spinner.kill()
    assert codes(result)["background_load"] == "warn"
    assert result["run_delay_share"] > 0.2


def test_what_cannot_be_seen_is_noted(bench: Bench) -> None:
    """No temperature, no clock of the cores, too few samples for percentiles: notes, and nothing else."""
    bench.environment["POCKETBENCH_ROOT"] = str(bench.home / "nothing")
    case = ("--device", "local", "--model", bench.null(sleep_ms=2), *QUICK, "--max-runs", "20", "--min-runs", "20")
    (result,) = bench(*case, "--format", "json").results
    found = codes(result)
    for code in ("no_thermal_sensor", "frequency_unpinned", "percentile_withheld"):
        assert found[code] == "note"
    assert (result["temperature_c"], result["cpu_mhz"], result["latency_ms"]["p99"]) == (None, None, None)


def tools(bench: Bench, **devices: Path) -> None:
    """A devices.yaml of local devices with a stand-in for benchmark_model each."""
    entries = [
        f"  {name}: {{transport: local, native_tools: {{benchmark_model: '{tool}'}}}}" for name, tool in devices.items()
    ]
    (bench.home / "devices.yaml").write_text("\n".join(["devices:", *entries, ""]))


def test_a_latency_of_nothing(bench: Bench) -> None:
    """A tool whose runs took no time did not run: 0 is never a latency."""
    zeros = bench.home / "zeros.txt"
    text = FULL.read_text().replace("min=3699 max=4402 avg=3861.27", "min=0 max=0 avg=0")
    zeros.write_text(text.replace("median=3849", "median=0").replace("(avg): 3861.27", "(avg): 0"))
    tools(bench, local=native_tool.write(bench.home / "benchmark_model", zeros))
    case = ("--device", "local", "--model", DIGITS / "digits-int8.tflite", "--runtime", "native", *QUICK)
    (result,) = bench(*case, "--processes", "2", "--format", "json").results
    assert (result["status"], codes(result)["implausible_latency"]) == ("INVALID", "invalid")


def test_two_builds_in_one_table(bench: Bench) -> None:
    """One tool in two builds is a warning; two tools are two programs."""
    first = native_tool.write(bench.home / "first" / "benchmark_model", FULL)
    second = native_tool.write(bench.home / "second" / "benchmark_model", FULL)
    second.write_text(second.read_text() + "# a newer build\n")
    tools(bench, one=first, two=second)
    case = ("--model", DIGITS / "digits-int8.tflite", "--runtime", "native", *QUICK, "--format", "json")
    for result in bench("--device", "one", "--device", "two", *case).results:
        assert codes(result)["runtime_differs"] == "warn"
    (alone,) = bench("--device", "one", *case).results
    assert "runtime_differs" not in codes(alone)


COSTS = """
import numpy as np
WEIGHTS = np.random.default_rng(3).normal(0, 1, (16, 1, 1, 1)).astype(np.float32)
def model():
    return {path!r}
def calibration_batches():
    yield np.random.default_rng(7).normal(0, 1, (12, 16, {side}, {side})).astype(np.float32)
def score(predict):
    from pocketbench.workload import Score
    images = np.random.default_rng(5).normal(0, 1, (20, 1, 16, {side}, {side})).astype(np.float32)
    exact = [np.abs(predict([image])[0] - np.maximum(image * WEIGHTS[:, 0], 0)).max() < 1e-4 for image in images]
    return Score("exact", [float(one) for one in exact])
"""


def test_compression_that_costs(bench: Bench) -> None:
    """Slower, for turning so much into integers takes longer than the little that is computed; and not exact."""
    side = 160
    weights = np.random.default_rng(3).normal(0, 1, (16, 1, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["z"], "scale", group=16),
            helper.make_node("Relu", ["z"], ["y"], "relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, side, side])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = bench.home / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    work = bench.home / "costs.py"
    work.write_text(COSTS.format(side=side, path=str(path)))
    told = ("--device", "local", "--processes", "4", "--min-runs", "30", "--min-time", "0.1", "--cooldown", "0")
    ended = bench("--workload", work, "--recipe", "int8-static", "--to", "onnx", *told, "--format", "json")
    assert ended.code == 0, ended.stderr
    small = next(r for r in ended.results if r["model"]["recipe"] == "int8-static")
    assert codes(small).get("slower_than_original") == "warn", (small["reasons"], small["latency_ms"])
    assert codes(small).get("accuracy_dropped") == "warn", (small["reasons"], small["accuracy"])
