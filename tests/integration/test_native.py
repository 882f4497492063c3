"""Runtime `native` through the command line: the vendors' tools are stand-ins that print recorded outputs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pocketbench.models import place
from pocketbench_agent.cache import BlobCache
from pocketbench_agent.jobs import Jobs
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.integration.conftest import DIGITS, QUICK, ROOT, Bench, wait_until
from tests.peers import native_tool

DATA = ROOT / "tests" / "data" / "native"
TFLITE, ONNX = DIGITS / "digits-int8.tflite", DIGITS / "digits-int8.onnx"


def tools(bench: Bench, env: str = "{}", delegates: str = "{}", **told: str) -> None:
    """A devices.yaml whose local device has those tools."""
    listed = ", ".join(f"{name}: {path}" for name, path in told.items())
    (bench.home / "devices.yaml").write_text(
        "devices:\n  local:\n    transport: local\n"
        f"    env: {env}\n    delegates: {delegates}\n    native_tools: {{{listed}}}\n"
    )


def stand_in(bench: Bench, name: str, fixture: str, how: str = "normal", **more: Path) -> str:
    """Its path, relative to devices.yaml."""
    return str(native_tool.write(bench.home / how / name, DATA / fixture, how, **more).relative_to(bench.home))


def measure(bench: Bench, model: Path, *arguments: object) -> list[dict[str, Any]]:
    """Results of a model by runtime native."""
    ended = bench("--device", "local", "--model", model, "--runtime", "native", *QUICK, *arguments, "--format", "json")
    assert ended.code in (0, 3), ended.stderr
    return ended.results


def codes(result: dict[str, Any]) -> dict[str, str]:
    """Messages of its reasons, by code."""
    return {reason["code"]: reason["message"] for reason in result["reasons"]}


def test_benchmark_model_tells_a_median(bench: Bench) -> None:
    """Its statistics become ours, what it does not tell is null, and the row says whose word it is."""
    tools(bench, benchmark_model=stand_in(bench, "benchmark_model", "benchmark_model-2.19-gpu-full.txt"))
    (result,) = measure(bench, TFLITE, "--delegate", "gpu", "--threads", "2", "--min-runs", "60", "--processes", "2")
    assert (result["status"], result["emulated"]) == ("OK", False), result["reasons"]
    assert set(codes(result)) >= {"emulated", "told_by_tool", "fidelity_unavailable"}
    assert "no single runs" in codes(result)["told_by_tool"]
    assert "p50" not in codes(result)["told_by_tool"]
    latency = result["latency_ms"]
    assert (latency["p50"], latency["n"], latency["processes"]) == (3.849, 120, 2)
    assert (latency["mean"], latency["min"], latency["max"]) == (pytest.approx(3.86127), 3.699, 4.402)
    assert (latency["p90"], latency["p99"], result["io_ms"], result["samples_ns"]) == (None, None, None, [[], []])
    assert result["told_p50_ns"] == [3_849_000, 3_849_000]
    assert (result["load_ms"], result["first_inference_ms"]) == (401.223, 8.123)
    assert result["warm_up"] == {"runs": 260, "steady": None}
    assert result["memory_mb"]["model"] == pytest.approx(61.4375 * 1.048576)
    assert result["memory_mb"]["peak"] > 1
    delegate = result["delegate"]
    assert (delegate["coverage"], delegate["nodes"], delegate["nodes_delegated"], delegate["partitions"]) == (
        *("full", 31, 31, 1),
    )
    assert result["runtime"]["version"].startswith("benchmark_model ")


def test_what_the_tools_are_asked(bench: Bench) -> None:
    """Flags of threads, runs, times, delegate, options and shapes; those of an older name are found out."""
    log = bench.home / "asked.txt"
    name = stand_in(bench, "benchmark_model", "benchmark_model-2.19-gpu-full.txt")
    tools(
        bench,
        env=f"{{STAND_IN_LOG: {log}}}",
        delegates="{odd: {base: gpu, options: {gpu_speling: cl}}}",
        benchmark_model=name,
    )
    measure(bench, TFLITE, "--delegate", "gpu", "--threads", "3", "--min-runs", "50")
    asked = log.read_text().splitlines()[0].split()
    assert {"--num_threads=3", "--num_runs=50", "--min_secs=0.05", "--max_secs=0.3", "--use_gpu=true"} <= set(asked)
    assert asked[0].startswith("--graph=/")
    (odd,) = measure(bench, TFLITE, "--delegate", "odd")
    assert (odd["status"], "--gpu_speling=cl" in codes(odd).get("run_failed", "")) == ("FAILED", True), odd["reasons"]


def test_delegates_that_took_nothing_or_a_part(bench: Bench) -> None:
    """What benchmark_model says of the end counts, whatever nodes it had replaced before."""
    fixtures = {
        "nnapi": ("benchmark_model-2.16-nnapi-none.txt", "FALLBACK", ("none", 31, 0), "fallback"),
        "gpu": ("benchmark_model-2.13-gpu-partial.txt", "OK", ("partial", 297, 97), "partial_delegation"),
        "xnnpack": ("benchmark_model-2.3-cpu.txt", "FALLBACK", ("none", None, None), "fallback"),
    }
    for delegate, (fixture, status, coverage, code) in fixtures.items():
        tools(bench, benchmark_model=stand_in(bench, "benchmark_model", fixture))
        (result,) = measure(bench, TFLITE, "--delegate", delegate)
        told = result["delegate"]
        assert (result["status"], code in codes(result)) == (status, True), (delegate, result["reasons"])
        assert (told["coverage"], told["nodes"], told["nodes_delegated"]) == coverage
    strict = bench(
        *("--device", "local", "--model", TFLITE, "--runtime", "native", "--delegate", "xnnpack", *QUICK),
        "--require-full-delegation",
    )
    assert (strict.code, "coverage none" in strict.stderr) == (1, True), strict.stderr


def test_the_npu_of_benchmark_litert_model(bench: Bench) -> None:
    """Counted by the compiler plugin; a dispatch that failed later is none; without a plugin there is no NPU."""
    expected = {
        "benchmark_litert_model-2.1-npu.txt": ("OK", 3911, "partial_delegation"),
        "benchmark_litert_model-2.1-npu-fallback.txt": ("FALLBACK", 0, "fallback"),
        "benchmark_litert_model-2.1-no-npu.txt": ("SKIPPED", None, "not_available"),
    }
    for fixture, (status, taken, code) in expected.items():
        tools(bench, benchmark_litert_model=stand_in(bench, "benchmark_litert_model", fixture))
        (result,) = measure(bench, TFLITE, "--delegate", "npu", "--min-runs", "50")
        assert (result["status"], code in codes(result)) == (status, True), (fixture, result["reasons"])
        assert result["delegate"]["nodes_delegated"] == taken


def test_perf_test_keeps_single_runs(bench: Bench) -> None:
    """Samples, percentiles and a warm-up of its own; where nodes went is asked for in a start that is not measured."""
    results = DATA / "onnxruntime_perf_test-1.20-results.csv"
    log = bench.home / "asked.txt"
    tool = stand_in(bench, "onnxruntime_perf_test", "onnxruntime_perf_test-1.20-qnn.txt", results=results)
    tools(bench, env=f"{{STAND_IN_LOG: {log}}}", onnxruntime_perf_test=tool)
    (result,) = measure(bench, ONNX, "--delegate", "npu", "--min-runs", "20", "--max-time", "2")
    assert result["status"] == "OK", result["reasons"]
    assert "samples" not in codes(result)["told_by_tool"]
    assert len(result["samples_ns"][0]) == 20
    assert 31.19 < result["latency_ms"]["p50"] < 31.32
    assert (result["load_ms"], result["first_inference_ms"]) == (912.033, 31)
    assert (result["delegate"]["nodes"], result["delegate"]["nodes_delegated"]) == (3, 1)
    assert result["delegate"]["on_cpu"] == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    first, measured = (line.split() for line in log.read_text().splitlines()[:2])
    assert ("-v" in first, "-v" in measured) == (True, False)
    assert measured[measured.index("-e") + 1] == "qnn"
    for fixture, (status, code) in {
        "onnxruntime_perf_test-1.20-fallback.txt": ("FALLBACK", "fallback"),
        "onnxruntime_perf_test-1.20-no-provider.txt": ("SKIPPED", "not_available"),
    }.items():
        tools(bench, onnxruntime_perf_test=stand_in(bench, "onnxruntime_perf_test", fixture, results=results))
        (result,) = measure(bench, ONNX, "--delegate", "npu", "--max-time", "2", "--min-runs", "20")
        assert (result["status"], code in codes(result)) == (status, True), result["reasons"]


def test_benchncnn_tells_no_median(bench: Bench) -> None:
    """A mean is shown as one; there is no p50, and no load time."""
    model = bench.home / "m.param"
    model.write_text("7767517\n1 1\nInput in0 0 1 in0 0=224 1=224 2=3\n")
    (bench.home / "m.bin").write_bytes(b"")
    tools(bench, benchncnn=stand_in(bench, "benchncnn", "benchncnn-20240820-vulkan.txt"))
    (result,) = measure(bench, model, "--delegate", "vulkan")
    latency = result["latency_ms"]
    assert (latency["p50"], latency["mean"], latency["min"], latency["max"]) == (None, 7.37, 7.2, 7.59)
    assert (result["status"], result["load_ms"], result["delegate"]["coverage"]) == ("OK", None, "n/a")
    assert {"told_by_tool", "coverage_unknown"} <= set(codes(result))
    assert "no p50" in codes(result)["told_by_tool"]
    assert (result["runtime"]["precision"], result["delegate"]["adapter"]) == (
        "weights of zeros, whatever the file holds",
        "NVIDIA Tegra X1",
    )
    table = bench("--device", "local", "--model", model, "--runtime", "native", "--delegate", "vulkan", *QUICK)
    assert "mean 7.37" in table.stdout
    for delegate, options, fixture in (
        ("vulkan", "{}", "benchncnn-20240820-no-vulkan.txt"),
        ("gpu", "{}", "benchncnn-20240820-no-vulkan.txt"),
        ("vulkan", "{vulkan: {options: {gpu_device: 1}}}", "benchncnn-20240820-vulkan.txt"),
    ):
        tools(bench, delegates=options, benchncnn=stand_in(bench, "benchncnn", fixture))
        (result,) = measure(bench, model, "--delegate", delegate)
        told = result["delegate"]
        assert (result["status"], "fallback" in codes(result)) == ("FALLBACK", True), (delegate, result["reasons"])
        assert (told["used"], told["coverage"], told["adapter"]) == ("cpu", "none", None), told
    for fixture, says in {
        "benchncnn-2019-own-nets.txt": "it benchmarked squeezenet instead",
        "benchncnn-20240820-broken.txt": "find_blob_index_by_name output failed",
    }.items():
        tools(bench, benchncnn=stand_in(bench, "benchncnn", fixture))
        (result,) = measure(bench, model)
        assert (result["status"], says in codes(result)["load_failed"]) == ("FAILED", True), result["reasons"]


def test_a_model_that_is_too_short_for_the_digits_of_its_tool(bench: Bench) -> None:
    """A mean of 0 is none, and does not ask for loops without end; `--max-runs` holds for tools that loop."""
    model, log = bench.home / "m.param", bench.home / "asked.txt"
    model.write_text("7767517\n1 1\nInput in0 0 1 in0 0=224 1=224 2=3\n")
    (bench.home / "m.bin").write_bytes(b"")
    recorded = (DATA / "benchncnn-20240820-no-vulkan.txt").read_text().rpartition("min =")[0]
    for mean, status in {"0.00": "FAILED", "0.01": "OK"}.items():
        short = bench.home / f"{mean}.txt"
        short.write_text(f"{recorded}min =    {mean}  max =    0.02  avg =    {mean}\n")
        tools(bench, env=f"{{STAND_IN_LOG: {log}}}", benchncnn=stand_in(bench, "benchncnn", str(short)))
        (result,) = measure(bench, model, "--max-runs", "200", "--min-runs", "20")
        assert result["status"] == status, result["reasons"]
        told = codes(result).get("load_failed", "")
        assert ("a mean of 0: one inference is shorter" in told) == (status == "FAILED"), told
    # A start to learn how long a run lasts, twice; 0.05 s of 0.01 ms would be 5000.
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["4", "4", "200"]


def test_tools_that_misbehave(bench: Bench) -> None:
    """Dying, silent, failing, changing between processes, of another processor, missing on the device: each by name."""
    full = "benchmark_model-2.19-gpu-full.txt"
    foreign, absent = bench.home / "foreign", "device:/nowhere/benchmark_model"
    foreign.write_bytes(b"\x7fELF\x02\x01" + bytes(12) + b"\xf3\x00" + bytes(100))
    text = bench.home / "text"
    text.write_text("not a program")
    for tool, (status, code, says) in {
        stand_in(bench, "benchmark_model", full, "dies"): ("CRASHED", "worker_died", "died of SIGSEGV"),
        stand_in(bench, "benchmark_model", full, "silent"): ("CRASHED", "worker_died", "without a result"),
        stand_in(bench, "benchmark_model", full, "fails"): ("FAILED", "run_failed", "Benchmarking failed"),
        "foreign": ("FAILED", "load_failed", "is made for riscv64"),
        "text": ("FAILED", "load_failed", "is not a program"),
        absent: ("SKIPPED", "not_available", "no such file"),
    }.items():
        tools(bench, benchmark_model=f'"{tool}"')
        (result,) = measure(bench, TFLITE)
        told = codes(result)
        assert (result["status"], says in told.get(code, "")) == (status, True), (tool, result["reasons"])
    changing = native_tool.write(bench.home / "own" / "benchmark_model", DATA / full, "changes")
    tools(bench, benchmark_model=f'"device:{changing}"')
    (result,) = measure(bench, TFLITE, "--processes", "2")
    assert (result["status"], "runtime_changed" in codes(result)) == ("INVALID", True), result["reasons"]


def test_a_tool_that_hangs_is_ended(bench: Bench) -> None:
    """With its worker, when the run is stopped: nothing is left of either, and what was measured is kept."""
    tool = stand_in(bench, "benchmark_model", "benchmark_model-2.19-gpu-full.txt", "hangs")
    tools(bench, benchmark_model=tool)
    running = bench.start("--device", "local", "--model", TFLITE, "--runtime", "native", *QUICK)
    hung = "hangs/benchmark_model"

    def tool_runs() -> bool:
        commands = (path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdigit())
        home = str(bench.home).encode()
        return any(b"benchmark_model" in text and home in text for text in map(_read, commands) if b"--graph" in text)

    assert wait_until(tool_runs, 30), hung
    os.kill(running.pid, signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 130
    assert wait_until(lambda: not tool_runs(), 15)


def test_a_tool_that_hangs_ends_at_the_deadline(tmp_path: Path) -> None:
    """In the stage where it hung, and the tool with its worker."""
    path = native_tool.write(tmp_path / "benchmark_model", DATA / "benchmark_model-2.3-cpu.txt", "hangs")
    cache = BlobCache(tmp_path / "blobs")
    file = place(TFLITE, "model.tflite", "--model")
    cache.put(bytes.fromhex(file.sha256), 0, file.bytes, iter([TFLITE.read_bytes()]))
    program = pb.Program(runtime="native", tool=pb.Tool(name="benchmark_model", path=str(path)))
    files = [pb.File(path=file.name, sha256=bytes.fromhex(file.sha256))]
    jobs = Jobs(tmp_path, cache)
    jobs.start(pb.Job(job_id="hang", files=files, program=program, deadline_s=3, phase="latency"))
    ended = list(jobs.watch("hang", 1))[-1].ended
    assert (ended.how, ended.stage) == (pb.Ended.TIMEOUT, "load"), ended
    assert not [p for p in Path("/proc").iterdir() if p.name.isdigit() and str(path).encode() in _read(p / "cmdline")]
    jobs.close()


def test_what_is_found_before_anything_runs(bench: Bench) -> None:
    """Exit code 2: a tool that is missing on this host, a name that is none, a path that is neither."""
    for listed, says in {
        "benchmark_model: nowhere": "local: native_tools: benchmark_model:",
        "benchmark_modell: x": "unknown tool 'benchmark_modell' (did you mean 'benchmark_model'?)",
        "benchmark_model: 'device:here'": "device:/an/absolute/path",
        "benchmark_model: {path: x, fils: [y]}": "unknown key 'fils' (did you mean 'files'?)",
    }.items():
        (bench.home / "devices.yaml").write_text(
            f"devices:\n  local:\n    transport: local\n    native_tools: {{{listed}}}\n"
        )
        ended = bench("--device", "local", "--model", TFLITE, "--runtime", "native")
        assert (ended.code, says in ended.stderr) == (2, True), (listed, ended.stderr)


def test_what_no_tool_can_do(bench: Bench) -> None:
    """No tool for a delegate, a scenario, inputs of one's own: SKIPPED, with what to do."""
    tools(bench, benchmark_model=stand_in(bench, "benchmark_model", "benchmark_model-2.19-gpu-full.txt"))
    for arguments, says in {
        ("--delegate", "npu"): "no tool that runs .tflite files on npu",
        ("--rate", "10"): "back to back only",
        ("--inputs", str(DIGITS / "digits_5k.npz")): "leave --inputs out",
    }.items():
        (result,) = measure(bench, TFLITE, *arguments)
        assert (result["status"], says in codes(result)["not_available"]) == ("SKIPPED", True), result["reasons"]


def test_rerun_compare_and_profile(bench: Bench) -> None:
    """The same tool again, and no other in its place; medians that were told are compared as medians."""
    tool = stand_in(bench, "benchmark_model", "benchmark_model-2.19-profile.txt")
    tools(bench, benchmark_model=tool)
    (result,) = measure(bench, TFLITE, "--profile", "--processes", "2")
    assert [(op["op"], op["runs_on"], op["nodes"], op["ms"]) for op in result["profile"]] == [
        ("delegate (fused)", "cpu", 1, 7.001),
        ("Convolution (NHWC, QU8) IGEMM", "cpu", 3, 0.3),
        ("SOFTMAX", "cpu", 1, 0.107),
    ]
    again = bench("rerun", result["id"], "--format", "json")
    assert again.code == 0, again.stderr
    compared = bench("compare", result["id"], again.results[0]["id"])
    assert compared.code == 0, compared.stderr
    assert "7.42" in compared.stdout + compared.stderr
    (bench.home / tool).write_text("#!/bin/sh\n")
    changed = bench("rerun", result["id"])
    assert (changed.code, "is not the tool that was used then" in changed.stderr) == (2, True), changed.stderr


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
