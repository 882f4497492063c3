"""A Result: what was measured of a case, its statistics and its verdict.

The dataclasses have the names, units and nesting of the JSON (schema 1, report/result.schema.json), so that
`to_doc` and `from_doc` of documents.py are the only translation. None is "unavailable"; 0 never is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from pocketbench.measurement import Process

STATUSES = ("OK", "INVALID", "FALLBACK", "FAILED", "TIMEOUT", "CRASHED", "LOST", "SKIPPED")


@dataclass(frozen=True)
class Metric:
    """A quantity that results are compared by. direction: -1 less is better, 1 more is better."""

    name: str
    unit: str
    direction: int


METRICS = (
    Metric("latency_p50", "ms", -1),
    Metric("load", "ms", -1),
    Metric("first_inference", "ms", -1),
    Metric("memory_peak", "mb", -1),
    Metric("energy", "mj", -1),
    Metric("size", "bytes", -1),
    Metric("accuracy", "fraction", 1),
    Metric("coverage", "fraction", 1),
)


@dataclass(frozen=True)
class Reason:
    """Why a number may not be what it seems.

    severity: note warn invalid; scope: latency memory energy accuracy case.
    """

    code: str
    severity: str
    scope: str
    message: str


@dataclass(frozen=True)
class Cores:
    """Cores that share a clock, such as big or little ones. `capacity` is of 1024, the fastest core's."""

    cpus: Sequence[int]
    max_mhz: float | None
    capacity: int | None


@dataclass(frozen=True)
class DeviceFacts:
    """What the device said of itself; None where the case never got that far."""

    model: str | None = None
    soc: str | None = None
    os: str | None = None
    kernel: str | None = None
    cpu: str | None = None
    boot_id: str | None = None
    fingerprint: str | None = None
    clusters: Sequence[Cores] | None = None

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        return ", ".join(fact for fact in (self.model, self.soc, self.cpu, self.os) if fact) or "never reached"


@dataclass(frozen=True)
class Quantization:
    """Real value = (stored - zero_point) * scale, along `axis` where there are several."""

    scale: Sequence[float]
    zero_point: Sequence[int]
    axis: int | None


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of the model."""

    name: str
    dtype: str
    shape: Sequence[int]
    quantization: Quantization | None


@dataclass(frozen=True)
class Model:
    """The file that ran."""

    name: str
    sha256: str
    bytes: int
    format: str | None
    recipe: str | None
    inputs: Sequence[TensorFacts] | None
    outputs: Sequence[TensorFacts] | None


@dataclass(frozen=True)
class Runtime:
    """What ran it."""

    name: str
    version: str | None
    precision: str | None


@dataclass(frozen=True)
class Delegate:
    """What was asked to compute, and what did."""

    requested: str
    used: str | None = None
    accelerated_by: str | None = None
    adapter: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    coverage: str = "n/a"
    nodes: int | None = None
    nodes_delegated: int | None = None
    partitions: int | None = None
    on_cpu: Mapping[str, int] | None = None


@dataclass(frozen=True)
class WarmUp:
    """Runs before the timed ones, over all processes, and whether they had become steady."""

    runs: int
    steady: bool | None


@dataclass(frozen=True)
class Latency:
    """Of the run span, milliseconds. stdev_between: of process medians; stdev_within: the median process's own.

    A vendor's tool may tell a mean and no median.
    """

    p50: float | None
    ci95: Sequence[float] | None
    mean: float
    min: float | None
    max: float | None
    p90: float | None
    p90_upper: float | None
    p95: float | None
    p95_upper: float | None
    p99: float | None
    p99_upper: float | None
    stdev_within: float | None
    stdev_between: float | None
    n: int
    processes: int


@dataclass(frozen=True)
class Io:
    """Copying inputs in and outputs out, milliseconds."""

    p50: float


@dataclass(frozen=True)
class Frame:
    """A whole frame on the device, milliseconds: the workload's pre-processing, copies, inference, post-processing.

    `around` is all but the inference; `per_s` frames one after the other.
    """

    p50: float
    ci95: Sequence[float] | None
    around: float
    per_s: float


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes), the most of all processes; `model` is loaded less runtime.

    `run_peak` is the peak since the model was loaded, where the kernel lets it be reset; `pss` counts shared pages by
    their share, after the timed runs; `graphics` is what Android's drivers hold for the process, which is in no other.
    """

    start: float | None
    runtime: float | None
    loaded: float | None
    peak: float | None
    model: float | None
    metric: str
    run_peak: float | None = None
    pss: float | None = None
    graphics: float | None = None


@dataclass(frozen=True)
class Energy:
    """An inference's, millijoules: gross is all that the source measured, idle what it would have taken anyway, net
    the difference. `steps`: how often the source moved while it worked; seconds between those, milliwatts at work.
    """

    gross_mj: float
    idle_mj: float | None
    net_mj: float | None
    source: str
    rails: Sequence[str]
    steps: int
    interval_s: float | None
    power_mw: float


@dataclass(frozen=True)
class RealTime:
    """Of the paced scenario: frames done after the next one had arrived. `missed_upper` is the 99 % bound of their
    share; `holds` None where too few frames came to tell.
    """

    rate_hz: float
    n: int
    missed: int
    missed_upper: float
    holds: bool | None


@dataclass(frozen=True)
class CurvePoint:
    """A stretch of the sustained scenario: latency in it, and what heat and clock were by its end."""

    t_s: float
    runs: int
    p50_ms: float
    max_ms: float
    temperature_c: float | None
    cpu_mhz: float | None
    ceiling_mhz: float | None


@dataclass(frozen=True)
class Temperature:
    """Of the hottest zone, degrees Celsius."""

    start: float
    end: float
    max: float


@dataclass(frozen=True)
class Clock:
    """Of the fastest core's policy, MHz."""

    mean: float
    ceiling: float


@dataclass(frozen=True)
class Heat:
    """What one process was measured at: the hottest zone by its end, and the fastest core's clock."""

    temperature_c: float | None
    cpu_mhz: float | None
    ceiling_mhz: float | None


@dataclass(frozen=True)
class Accuracy:
    """Of the workload's first metric, as fractions."""

    metric: str
    value: float
    ci95: Sequence[float] | None
    n: int
    reference: float | None
    difference: float | None
    difference_ci95: Sequence[float] | None
    higher_is_better: bool
    others: Mapping[str, float]


@dataclass(frozen=True)
class OpShare:
    """All nodes of one kind in one profiled inference; `share` is of the sum of all kinds."""

    op: str
    runs_on: str
    nodes: int
    ms: float
    share: float


@dataclass(frozen=True)
class Fidelity:
    """One output against the same file on the same runtime, on the host's CPU, with the same bytes.

    `constant` is how many of its slices (a score of all anchors, say) vary there and hold one value here.
    """

    output: str
    cosine: float | None
    max_abs: float | None
    tolerance: float
    constant: int = 0


def is_again(result: Result) -> bool:
    """Was the device lost, or never reached? Then a run that goes on measures the case after all."""
    never = result.status == "SKIPPED" and result.device_info.fingerprint is None
    return result.status == "LOST" or never


@dataclass(frozen=True)
class Result:
    """One case, measured and judged."""

    id: str
    device: str
    device_info: DeviceFacts
    transport: str
    emulated: bool
    attempt: int
    model: Model
    runtime: Runtime
    threads: int
    cpus: Sequence[int] | None
    scenario: str
    delegate: Delegate
    status: str
    stage: str | None
    reasons: Sequence[Reason]
    load_ms: float | None = None
    first_inference_ms: float | None = None
    # Of the process that compiled, where a delegate keeps its programs: those above have them ready then.
    cold_load_ms: float | None = None
    cold_first_inference_ms: float | None = None
    warm_up: WarmUp | None = None
    latency_ms: Latency | None = None
    io_ms: Io | None = None
    frame_ms: Frame | None = None
    real_time: RealTime | None = None
    serial_rate_per_s: float | None = None
    cpu_per_wall: float | None = None
    run_delay_share: float | None = None
    load_avg: float | None = None
    memory_mb: Memory | None = None
    energy: Energy | None = None
    temperature_c: Temperature | None = None
    cpu_mhz: Clock | None = None
    curve: Sequence[CurvePoint] | None = None
    profile: Sequence[OpShare] | None = None
    accuracy: Accuracy | None = None
    fidelity: Sequence[Fidelity] | None = None
    # What was asked for; what the model made of it is in its inputs.
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    signature: str | None = None
    samples_ns: Sequence[Sequence[int]] = ()
    told_p50_ns: Sequence[float] = ()
    # Of each process that ended well, in the order of rounds, as samples are.
    heat: Sequence[Heat] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Model with its format, runtime and threads: enough to tell rows of one table apart."""
        return f"{self.model.name} ({self.runtime.name}, {self.threads} thread{'s' if self.threads > 1 else ''})"

    def process_medians_ns(self) -> list[float]:
        """The unit of every statistic: one median a process, in the order of rounds; of tools that tell no samples as
        they tell it.
        """
        return [float(median(samples)) for samples in self.samples_ns if len(samples)] or list(self.told_p50_ns)

    def _energy_mj(self) -> float | None:
        """Gross; None where the verdict does not let it count."""
        refused = any(r.scope == "energy" and r.severity == "invalid" for r in self.reasons)
        return self.energy.gross_mj if self.energy is not None and not refused else None

    def _delegated(self) -> float | None:
        """Share of the nodes that the accelerator took; None where none was asked for, or the runtime cannot tell."""
        d = self.delegate
        if d.requested == "cpu" or not d.nodes or d.nodes_delegated is None:
            return None
        return d.nodes_delegated / d.nodes

    def interval(self, name: str) -> tuple[float | None, float | None]:
        """The 95 % interval of one of METRICS, in its unit; (None, None) where it has none."""
        ends: Sequence[float] | None = None
        if name == "latency_p50" and self.latency_ms is not None:
            ends = self.latency_ms.ci95
        if name == "accuracy" and self.accuracy is not None:
            ends = self.accuracy.ci95
        return (ends[0], ends[1]) if ends else (None, None)

    def metric(self, name: str) -> float | None:
        """The value of one of METRICS, in its unit."""
        values = {
            "latency_p50": self.latency_ms.p50 if self.latency_ms else None,
            "load": self.load_ms,
            "first_inference": self.first_inference_ms,
            "memory_peak": self.memory_mb.peak if self.memory_mb else None,
            "energy": self._energy_mj(),
            "size": float(self.model.bytes),
            "accuracy": self.accuracy.value if self.accuracy else None,
            "coverage": self._delegated(),
        }
        return values[name]


def with_samples(result: Result, processes: Mapping[int, Process]) -> Result:
    """With the timed runs of the processes that ended well, in the order of rounds."""
    samples = tuple(tuple(p.run_ns.tolist()) for _, p in sorted(processes.items()) if p.ended.how == "ok")
    return replace(result, samples_ns=samples)
