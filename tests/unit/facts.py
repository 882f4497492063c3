"""Honest raw facts: what a well-behaved device sends, so that a test can plant one lie in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pocketbench.assemble import Context, assemble
from pocketbench.measurement import (
    Device,
    Ended,
    Facts,
    Nanoseconds,
    OutputFact,
    Placed,
    Process,
    Reading,
    Tensor,
)
from pocketbench.models import ModelFile, PlacedFile
from pocketbench.plan import Case, RuntimeChoice
from pocketbench.results import Delegate, DeviceFacts, Latency, Model, Reason, Result, Runtime
from pocketbench.verdict.verdict import Evidence

MS = 1_000_000
SPAN_NS = 2_000_000_000
BEGIN_NS = 7_000_000_000
BOOT = "2b0a4f0e-1111-4222-8333-444455556666"
# Small differences between processes, as fresh processes on a quiet device have them.
LEVELS_MS = (10.02, 9.97, 10.01, 9.99, 10.03, 9.98)
FILE_FACTS = Facts(
    inputs=(Tensor("x", "float32", (1, 4)),),
    outputs=(Tensor("y", "float32", (1, 2)),),
    runtime_version="1.32.0",
    precision="as stored",
    inputs_from="file",
    python="3.11.7",
    numpy="2.1.0",
)
DEVICE = Device(
    model="Board 5",
    soc="BCM2712",
    os="Debian 13",
    kernel="6.12",
    cpu="Cortex-A76",
    boot_id=BOOT,
    fingerprint="f00dfeed",
    cpus=4,
    arch="aarch64",
    libc="glibc-2.41",
    python="3.13.1",
    free_bytes=10**10,
    memory_bytes=8 * 10**9,
    emulated_by="",
    agent_build="abc",
)


def samples(level_ms: float, n: int = 200, spread: float = 0.01, seed: int = 0) -> Nanoseconds:
    """Log-normal run spans about a level."""
    noise = np.random.default_rng(seed).normal(0, spread, n)
    return np.asarray(level_ms * MS * np.exp(noise), np.int64)


def two(source: str, quantity: str, unit: str, first: int, last: int) -> Reading:
    """A reading before and after the timed runs."""
    return Reading(source, quantity, unit, (BEGIN_NS, BEGIN_NS + SPAN_NS), (first, last))


def readings() -> tuple[Reading, ...]:
    """Clocks that agree, a core of one's own, no swap, a pinned clock, one thermal zone."""
    return (
        two("clock", "boottime", "ns", BEGIN_NS + 50, BEGIN_NS + 50 + SPAN_NS),
        two("clock", "realtime", "ns", 10**18, 10**18 + SPAN_NS + 1000),
        two("worker", "run_delay", "ns", 500, 500 + SPAN_NS // 1000),
        two("worker", "swap", "bytes", 0, 0),
        two("worker", "cpu_time", "ns", 10**8, 10**8 + SPAN_NS),
        two("system", "stolen", "ticks", 3, 3),
        two("system", "all", "ticks", 10_000, 10_800),
        Reading("memory", "start", "bytes", (1,), (20 * 10**6,)),
        Reading("memory", "runtime", "bytes", (2,), (50 * 10**6,)),
        Reading("memory", "loaded", "bytes", (3,), (58 * 10**6,)),
        Reading("memory", "peak", "bytes", (4,), (70 * 10**6,)),
        two("thermal:thermal_zone0:cpu", "temperature", "millicelsius", 41_000, 42_500),
        two("cpufreq:policy0", "frequency", "khz", 1_800_000, 1_800_000),
        two("cpufreq:policy0", "ceiling", "khz", 2_400_000, 2_400_000),
    )


def with_reading(process: Process, reading: Reading) -> Process:
    """That reading instead of the one of its name."""
    kept = [r for r in process.readings if (r.source, r.quantity) != (reading.source, reading.quantity)]
    return replace(process, readings=(*kept, reading))


def process(index: int = 0, level_ms: float = 10.0, **changes: Any) -> Process:
    """An honest process."""
    made = Process(
        round=index,
        ended=Ended("ok"),
        facts=FILE_FACTS,
        load_ns=80 * MS,
        first_ns=15 * MS,
        run_ns=samples(level_ms, seed=100 + index),
        io_ns=np.full(200, 20_000, np.int64),
        warm_up_ns=samples(level_ms, n=40, spread=0.002, seed=200 + index),
        warm_up_runs=40,
        warm_up_steady=True,
        probe_run_ns=(10 * MS,) * 5,
        probe_read_ns=(12_000,) * 5,
        probe_reread_ns=(11_000,) * 5,
        outputs=(OutputFact("y", 2, 0, 0, "00" * 32),),
        output_constant=False,
        readings=readings(),
        job_id=f"job{index}",
        boot_id=BOOT,
    )
    return replace(made, **changes)


def processes() -> list[Process]:
    """Six honest processes of one case."""
    return [process(index, level) for index, level in enumerate(LEVELS_MS)]


def model_file(name: str = "net.onnx", size: int = 1_234_567, sha256: str = "ab" * 32) -> ModelFile:
    """A model that need not be on disk."""
    path = Path(name)
    return ModelFile(path, (PlacedFile(f"model{path.suffix}", path, sha256, size),))


def case(**changes: Any) -> Case:
    """One cell on one CPU thread."""
    return replace(Case("pi5", model_file(), RuntimeChoice("onnxruntime")), **changes)


def latency(of: Sequence[Process]) -> Latency | None:
    """The statistics of processes that all ended well."""
    return assemble(case(), of, Context("ssh")).latency_ms


def evidence(of: Sequence[Process] | None = None, **changes: Any) -> Evidence:
    """What the checks see of those processes, else of six honest ones."""
    chosen = list(processes() if of is None else of)
    made = Evidence(
        processes=chosen,
        latency=latency(chosen),
        fidelity=(),
        accuracy=None,
        original=(),
        delegate="cpu",
        placed=None,
        null_runtime=False,
        has_thermal_sensor=True,
        emulated_by="",
    )
    return replace(made, **changes)


def placed(nodes: int, delegated: int, known: bool = True) -> Placed:
    """Where the graph ran."""
    return Placed(known, nodes, delegated, 1, {"SOFTMAX": nodes - delegated}, "log", "Adreno", "gpu", "webgpu")


def result(**changes: Any) -> Result:
    """A judged result with fixed names, for reports and the store."""
    made = Result(
        id="0123456789ab",
        device="pi5",
        device_info=DeviceFacts(model="Board 5", soc="BCM2712", os="Debian 13", cpu="Cortex-A76", fingerprint="f00d"),
        transport="ssh",
        emulated=False,
        attempt=1,
        model=Model("net", "ab" * 32, 1_234_567, "onnx", None, None, None),
        runtime=Runtime("onnxruntime", "1.32.0", "as stored"),
        threads=1,
        cpus=None,
        scenario="single_stream",
        delegate=Delegate("cpu"),
        status="OK",
        stage=None,
        reasons=(),
        load_ms=80.5,
        first_inference_ms=15.25,
        latency_ms=timing(10.0),
        samples_ns=tuple(tuple(samples(10.0, n=9, seed=k).tolist()) for k in range(4)),
        plan={"processes": 4, "seed": 7},
        labels={"branch": "main"},
    )
    return replace(made, **changes)


def timing(p50: float, **changes: Any) -> Latency:
    """Latency about that p50, milliseconds."""
    made = Latency(
        p50=p50,
        ci95=(p50 * 0.98, p50 * 1.02),
        mean=p50 * 1.01,
        min=p50 * 0.9,
        max=p50 * 1.5,
        p90=p50 * 1.1,
        p90_upper=p50 * 1.12,
        p95=p50 * 1.2,
        p95_upper=p50 * 1.25,
        p99=None,
        p99_upper=None,
        stdev_within=p50 * 0.02,
        stdev_between=p50 * 0.01,
        n=480,
        processes=4,
    )
    return replace(made, **changes)


def reason(code: str, severity: str = "warn", message: str = "because", scope: str = "latency") -> Reason:
    """A reason in any words."""
    return Reason(code, severity, scope, message)
