"""The raw facts of one process of one case, as the agent sent them: nothing here is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench_agent.device_info import DeviceInfo

Nanoseconds = NDArray[np.int64]
EMPTY: Nanoseconds = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Tensor:
    """An input or output of the loaded model. Real value = (stored - zero_point) * scale, along `axis`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None


@dataclass(frozen=True)
class Facts:
    """What the runtime said of the model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    runtime_version: str
    precision: str
    inputs_from: str
    python: str
    numpy: str
    # What stands in for the runtime, as it says itself.
    emulated_by: str = ""


@dataclass(frozen=True)
class Told:
    """Statistics of the timed runs, nanoseconds, of a tool that does not tell the single ones; None: not told."""

    runs: int
    mean_ns: float | None = None
    min_ns: float | None = None
    max_ns: float | None = None
    median_ns: float | None = None
    stdev_ns: float | None = None


@dataclass(frozen=True)
class Placed:
    """Where the graph ran; `known` False where the runtime cannot tell. `stated` is the coverage where that is known,
    and no number of nodes. `quantized`: between its nodes are integers, whatever its outputs are.
    """

    known: bool
    nodes: int
    delegated: int
    partitions: int
    on_cpu: Mapping[str, int]
    evidence: str
    adapter: str
    used: str
    accelerated_by: str
    stated: str = ""
    quantized: bool = False

    @property
    def coverage(self) -> str | None:
        """none, partial or full; None where it is not known."""
        if not self.known or self.stated:
            return self.stated or None
        if self.delegated == 0:
            return "none"
        return "full" if self.delegated >= self.nodes else "partial"


@dataclass(frozen=True)
class OutputFact:
    """One output of the first inference."""

    name: str
    values: int
    nan: int
    inf: int
    sha256: str


@dataclass(frozen=True)
class Reading:
    """A sensor's values with their times (device monotonic ns), or why there are none."""

    source: str
    quantity: str
    unit: str
    t_ns: tuple[int, ...] = ()
    value: tuple[int, ...] = ()
    missing: str = ""
    text: str = ""

    @property
    def change(self) -> int | None:
        """Last value less first; None where there are not two."""
        return self.value[-1] - self.value[0] if len(self.value) > 1 else None

    @property
    def ahead_ns(self) -> int:
        """Of a clock: how much further it went than the monotonic one; 0 where that is not known."""
        return self.change - (self.t_ns[-1] - self.t_ns[0]) if self.change is not None else 0


@dataclass(frozen=True)
class Observation:
    """The device at one moment."""

    readings: tuple[Reading, ...]
    boot_id: str

    def values(self, quantity: str) -> list[int]:
        """The newest value of every reading of that quantity."""
        return [r.value[-1] for r in self.readings if r.quantity == quantity and r.value]


@dataclass(frozen=True)
class Ended:
    """How a job ended: ok error signal timeout no_output unavailable cancelled."""

    how: str
    stage: str = ""
    message: str = ""
    signal: int = 0
    log_tail: tuple[str, ...] = ()


class WorkerEnded(Exception):
    """The worker of a scoring stream ended; how is in `ended`."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.message)
        self.ended = ended


@dataclass(frozen=True)
class Process:
    """One worker process of one case. Spans are nanoseconds; empty arrays where a phase was not reached."""

    round: int
    ended: Ended
    attempt: int = 1
    facts: Facts | None = None
    placed: Placed | None = None
    load_ns: int | None = None
    first_ns: int | None = None
    run_ns: Nanoseconds = field(default_factory=lambda: EMPTY)
    io_ns: Nanoseconds = field(default_factory=lambda: EMPTY)
    # When each began, since the first did: of paced and sustained runs.
    at_ns: Nanoseconds = field(default_factory=lambda: EMPTY)
    # One timed run kept in so many.
    every: int = 1
    told: Told | None = None
    warm_up_ns: Nanoseconds = field(default_factory=lambda: EMPTY)
    # Whole frames of a device pipeline, and what of each is not the inference.
    frame_ns: Nanoseconds = field(default_factory=lambda: EMPTY)
    around_ns: Nanoseconds = field(default_factory=lambda: EMPTY)
    warm_up_runs: int = 0
    # None: nobody can tell.
    warm_up_steady: bool | None = False
    probe_run_ns: tuple[int, ...] = ()
    probe_read_ns: tuple[int, ...] = ()
    probe_reread_ns: tuple[int, ...] = ()
    outputs: tuple[OutputFact, ...] = ()
    output_constant: bool | None = None
    readings: tuple[Reading, ...] = ()
    # When the timed runs began, on the clock of the readings.
    timed_from_ns: int | None = None
    job_id: str = ""
    boot_id: str = ""
    hot_start: bool = False

    @property
    def p50_ns(self) -> float | None:
        """Median of the timed runs; None where there are none, or a tool does not tell it."""
        if len(self.run_ns):
            return float(np.median(self.run_ns))
        return self.told.median_ns if self.told is not None else None

    @property
    def runs(self) -> int:
        """Timed runs that are known, or told of."""
        return self.told.runs if self.told is not None and not len(self.run_ns) else len(self.run_ns)

    @property
    def least_ns(self) -> float | None:
        """The quickest timed run."""
        if len(self.run_ns):
            return float(self.run_ns.min())
        return self.told.min_ns if self.told is not None else None

    def reading(self, source: str, quantity: str) -> Reading | None:
        """The reading of that name, if it was sent."""
        return next((r for r in self.readings if r.source == source and r.quantity == quantity), None)


@dataclass(frozen=True)
class EnergyRun:
    """The energy phase of one case. Windows are (begin, end) in nanoseconds of the device's monotonic clock;
    `clock_bound_ns` is how far off the times of readings that the host took may be.
    """

    ended: Ended
    idle_before_ns: tuple[int, int] = (0, 0)
    work_ns: tuple[int, int] = (0, 0)
    idle_after_ns: tuple[int, int] = (0, 0)
    runs: int = 0
    readings: tuple[Reading, ...] = ()
    clock_bound_ns: int = 0


@dataclass(frozen=True)
class Echo:
    """One answer of the device's clock: its monotonic time less the host's, and how far off that may be."""

    offset_ns: int
    bound_ns: int


@dataclass(frozen=True)
class Output:
    """Values of one output that were kept for comparison."""

    name: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Rounding:
    """What rounding alone does to one output: the largest difference in stored values, and 1 - cosine."""

    max_abs: float
    turned: float


@dataclass(frozen=True)
class Device(DeviceInfo):
    """What the device said of itself at the start of the session, and the agent that said it."""

    runtimes: Sequence[str] = ()
    agent_build: str = ""
