"""A simulated sysfs whose true energy is known: `python -m tests.peers.sensors ROOT SPEC.json TRUTH.json JOBS`.

A process beside the agent. Files follow the kernel's ABI text; what a device really draws is a formula of this process
alone: idle power, more while a worker is in its stage `work` (seen in the job's events below JOBS), a ramp on top. When
the energy phase is over, TRUTH gets joules and seconds of its windows, and the runs.

SPEC: {"idle_w", "work_w", "ramp_w_per_s", "jitter": share, "charging": bool, "sensors": [{"kind": …}]}. Every sensor
may have "late_s": how long its files stand still at most (a random share of it each time).
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pocketbench_agent.framing import FramingError, read_messages
from pocketbench_agent.rpc import agent_pb2 as pb

TICK_S = 0.004
S = 1e9
Spec = Mapping[str, Any]


class Device:
    """Joules drawn so far, exact for power that is linear in time between two moments."""

    def __init__(self, spec: Spec) -> None:
        self._spec, self._begin_ns = spec, time.perf_counter_ns()
        self._since_ns, self._joules, self._working = self._begin_ns, 0.0, False

    def watts(self, ns: int) -> float:
        """Just then."""
        base = self._spec["work_w"] if self._working else self._spec["idle_w"]
        return float(base + self._spec.get("ramp_w_per_s", 0.0) * (ns - self._begin_ns) / S)

    def joules(self, ns: int) -> float:
        """Up to then."""
        return self._joules + (self.watts(self._since_ns) + self.watts(ns)) / 2 * (ns - self._since_ns) / S

    def switch(self, working: bool, ns: int) -> None:
        """The load begins or ends."""
        self._joules, self._since_ns, self._working = self.joules(ns), ns, working


def write(path: Path, text: object) -> None:
    """Whole or not at all, as a read of sysfs is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(f"{text}\n")
    fresh.replace(path)


def rapl(root: Path, spec: Spec) -> Callable[[int, float, float], None]:
    """A package that wraps, with a core zone inside it that must not be counted again."""
    zone = root / "sys/class/powercap/intel-rapl:0"
    span, start = int(spec.get("span_uj", 262_143_328_850)), int(spec.get("start_uj", 0))
    write(zone / "name", "package-0")
    write(zone / "max_energy_range_uj", span)
    core = root / "sys/class/powercap/intel-rapl:0:0"
    write(core / "name", "core")
    write(core / "max_energy_range_uj", span)

    def update(ns: int, joules: float, watts: float) -> None:
        write(core / "energy_uj", round(joules * 0.7e6) % (span + 1))
        if spec.get("zeros") and random.random() < spec["zeros"]:
            write(zone / "energy_uj", 0)
        elif random.random() < spec.get("jumps", 0.0):
            write(zone / "energy_uj", random.randrange(span))
        elif watts > spec.get("words_above_w", 0.0) and random.random() < spec.get("words", 0.0):
            write(zone / "energy_uj", "busy")
        elif spec.get("backwards"):
            write(zone / "energy_uj", span // 2 - round(joules * 1e6))
        else:
            write(zone / "energy_uj", (start + round(joules * 1e6)) % (span + 1))

    return update


def odpm(root: Path, spec: Spec) -> Callable[[int, float, float], None]:
    """Two devices with two rails each, whose own times lie up to an update back."""
    shares = {"VSYS_PWR_MODEM": 0.1, "S2M_VDD_CPUCL2": 0.5, "S3M_VDD_CPUCL1": 0.3, "L9S_NEVER": 0.0}
    ahead_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.perf_counter_ns()

    def update(ns: int, joules: float, watts: float) -> None:
        t_ms = (ns + ahead_ns) // 1_000_000
        names = list(shares)
        for device, rails in enumerate((names[:2], names[2:])):
            lines = [f"CH{k}(T={t_ms})[{rail}], {round(shares[rail] * joules * 1e6)}" for k, rail in enumerate(rails)]
            write(root / f"sys/bus/iio/devices/iio:device{device}/energy_value", "\n".join([f"t={t_ms}", *lines]))

    return update


def ina3221(root: Path, spec: Spec) -> Callable[[int, float, float], None]:
    """A Jetson's input rail, two rails that it feeds, shunt voltages that are no rails; off below "off_below_w"."""
    chip = root / "sys/class/hwmon/hwmon3"
    write(chip / "name", "ina3221")
    rails = {1: ("VDD_IN", 1.0), 2: ("VDD_CPU_GPU_CV", 0.6), 3: ("VDD_SOC", 0.3)}
    for channel, (label, _) in rails.items():
        write(chip / f"in{channel}_label", label)
        write(chip / f"in{channel}_input", 5000)
        write(chip / f"in{channel + 3}_input", 1234)

    def update(ns: int, joules: float, watts: float) -> None:
        off = watts < spec.get("off_below_w", 0.0)
        for channel, (_, share) in rails.items():
            write(chip / f"curr{channel}_input", 0 if off else round(share * watts / 5.0 * 1e3))

    return update


def battery(root: Path, spec: Spec) -> Callable[[int, float, float], None]:
    """Sign, unit, counter step and gaps as told; a USB supply beside it whose current is the bus's."""
    folder = root / "sys/class/power_supply/battery"
    volts, per_a = spec.get("volts", 3.85), {"ua": 1e6, "ma": 1e3, "ca": 1e4}[spec.get("unit", "ua")]
    usb = root / "sys/class/power_supply/usb"
    write(folder / "type", "Battery")
    write(usb / "type", "USB")
    write(usb / "current_now", 500_000)
    write(usb / "online", int(spec.get("charging", False)))
    write(folder / "status", "Charging" if spec.get("charging") else "Discharging")
    write(folder / "voltage_now", round(volts * 1e6))

    def update(ns: int, joules: float, watts: float) -> None:
        if "step_uah" in spec:
            used_uah, step = joules / volts / 3.6e-3, spec["step_uah"]
            write(folder / "charge_counter", round(3_000_000 - used_uah // step * step))
        if spec.get("current", True):
            blind = random.random() < spec.get("zeros", 0.0)
            write(folder / "current_now", 0 if blind else round(spec.get("sign", -1) * watts / volts * per_a))

    return update


SENSORS = {"rapl": rapl, "odpm": odpm, "ina3221": ina3221, "battery": battery}


class Phases:
    """Watches the events of the energy job, as they are on the agent's disk."""

    def __init__(self, jobs: Path) -> None:
        self._jobs, self._size = jobs, -1
        self.begun: dict[str, int] = {}
        self.runs = 0

    def look(self) -> None:
        """Anything new?"""
        for path in self._jobs.glob("*.energy.*/events"):
            try:
                if path.stat().st_size != self._size:
                    self._size = path.stat().st_size
                    with path.open("rb") as file:
                        self._read(list(read_messages(file, pb.Event)))
            except (OSError, FramingError):
                continue

    def _read(self, events: list[pb.Event]) -> None:
        self.begun = {e.phase.name: e.mono_ns for e in events if e.HasField("phase")}
        self.runs = sum(e.samples.total for e in events if e.samples.phase == "work")


def main(root: Path, spec: Spec, truth: Path, jobs: Path) -> None:
    """Until killed."""
    random.seed(spec.get("seed", 1))
    device, phases = Device(spec), Phases(jobs)
    sensors = [(SENSORS[one["kind"]](root, one), one) for one in spec["sensors"]]
    due = [0.0] * len(sensors)
    energy_at: dict[str, float] = {}
    while True:
        phases.look()
        for name in ("idle_before", "work", "idle_after", "report"):
            if name in phases.begun and name not in energy_at:
                at_ns = phases.begun[name]
                energy_at[name] = device.joules(at_ns)
                if name in ("work", "idle_after"):
                    device.switch(name == "work", at_ns)
        if len(energy_at) == 4 and phases.runs and not truth.exists():
            names = list(energy_at)
            windows = {
                a: [energy_at[b] - energy_at[a], (phases.begun[b] - phases.begun[a]) / S] for a, b in pairwise(names)
            }
            write(truth, json.dumps({"runs": phases.runs, **windows}))
        now = time.perf_counter_ns()
        for k, (update, one) in enumerate(sensors):
            if now / S >= due[k]:
                due[k] = now / S + one.get("late_s", 0.05) * random.uniform(0.5, 1.0)
                watts = device.watts(now) * (1 + spec.get("jitter", 0.0) * random.uniform(-1, 1))
                update(now, device.joules(now), watts)
        (root / "ready").touch()
        time.sleep(TICK_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]), Path(sys.argv[4]))
