"""What sampling costs the measured worker: meters on against off, in blocks that alternate.

A loop over a model of about a microsecond (a copy and a small matrix product) runs in this process; beside it the
meters' process, as the agent starts it, samples a simulated sysfs (zones, cooling devices, policies, a battery, ODPM
rails), those of the latency and of the energy phase at once, in every third block. A block's values are p50 and p99 of
its runs; neighbouring blocks give one ratio each; the limits are those of benchmarks/overhead.py, trimmed by 20 %.

Bounds: the meters' process takes less than 1 % of a core, and neither p50 nor p99 moves by more than 2 %.
On a machine whose cores others use, p99 is theirs: an A/A column (off against off) says how far it moves by itself.
Linux only.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from conditions import conditions  # type: ignore[import-not-found]
from overhead import TRIM, _limits  # type: ignore[import-not-found]

from pocketbench.session.wire import HEAT, POWER
from pocketbench_agent import device_info, loop
from pocketbench_agent.sampler import Sampler

BOUND_RATIO, BOUND_CORE = 1.02, 0.01
ARMS = ("off", "on", "off again")


def main() -> int:
    """Print everything; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=120, help="blocks of each arm")
    parser.add_argument("--block-s", type=float, default=0.5, help="seconds of one block")
    arguments = parser.parse_args()
    print(conditions(("numpy",)))
    with tempfile.TemporaryDirectory() as folder:
        os.environ[device_info.ROOT_VARIABLE] = folder
        _tree(Path(folder))
        missed = _measure(arguments.rounds, arguments.block_s)
    print("\n".join(f"MISSED: {line}" for line in missed) or "PASS: every bound holds")
    return 1 if missed else 0


def _measure(rounds: int, block_s: float) -> list[str]:
    small = np.zeros((1, 64), np.float32)
    target = np.empty_like(small)
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    moves = loop.Moves(lambda: np.copyto(target, small), lambda: np.dot(target, weights), lambda: None)
    sampler = Sampler()
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    cpu_s = wall_s = 0.0
    gc.collect()
    gc.freeze()
    gc.disable()
    loop.lasting(moves, 2_000_000_000)
    for _ in range(rounds):
        for arm in ARMS:
            if arm == "on":
                sampler.begin([*HEAT, *POWER])
                assert sampler._process is not None
                time.sleep(0.3)
                before, begin = _cpu_s(sampler._process.pid), time.perf_counter()
            run_ns = np.array(loop.lasting(moves, round(block_s * 1e9)).samples.run_ns)
            if arm == "on":
                assert sampler._process is not None
                cpu_s += _cpu_s(sampler._process.pid) - before
                wall_s += time.perf_counter() - begin
                readings = sum(1 for _ in sampler.end())
            found[arm].append((float(np.percentile(run_ns, 50)), float(np.percentile(run_ns, 99))))
    sampler.close()
    share = cpu_s / wall_s
    print(
        f"\n{readings} readings; the meters' process took {100 * share:.2f} % of a core, bound {100 * BOUND_CORE:.0f} %"
    )
    missed = [] if share < BOUND_CORE else [f"{100 * share:.2f} % of a core"]
    for position, name in enumerate(("p50", "p99")):
        off, on, again = ([values[position] for values in found[arm]] for arm in ARMS)
        ratio, lower, upper = _ratio(off, on)
        same = "{:.4f} [{:.4f}, {:.4f}]".format(*_ratio(off, again))
        middle = float(np.median(off)) / 1e3
        print(f"{name}: off {middle:.2f} us, on/off {ratio:.4f} [{lower:.4f}, {upper:.4f}], A/A {same}")
        if upper > BOUND_RATIO:
            missed.append(
                f"{name}: {ratio:.4f} [{lower:.4f}, {upper:.4f}]: {'exceeded' if lower > BOUND_RATIO else 'not shown'}"
            )
    return missed


def _ratio(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    logs = [math.log(b / a) for a, b in zip(before, after, strict=True)]
    value, lower, upper = map(math.exp, _limits(logs, TRIM))
    return value, lower, upper


def _cpu_s(pid: int) -> float:
    fields = [(task / "schedstat").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(f[0]) for f in fields) / 1e9


def _tree(root: Path) -> None:
    """A phone's worth of sensors."""
    files: dict[str, object] = {}
    for k in range(8):
        files[f"sys/class/thermal/thermal_zone{k}/type"] = f"zone{k}"
        files[f"sys/class/thermal/thermal_zone{k}/temp"] = 40000 + k
        files[f"sys/class/thermal/cooling_device{k}/type"] = "cpufreq"
        files[f"sys/class/thermal/cooling_device{k}/cur_state"] = 0
    for k in (0, 4, 7):
        policy = f"sys/devices/system/cpu/cpufreq/policy{k}"
        files[f"{policy}/scaling_cur_freq"] = files[f"{policy}/scaling_max_freq"] = 1_800_000
        files[f"{policy}/stats/time_in_state"] = "\n".join(f"{100_000 * j} {j}" for j in range(1, 16))
    for name, text in (
        ("type", "Battery"),
        ("status", "Discharging"),
        ("current_now", -300_000),
        ("voltage_now", 4 * 10**6),
    ):
        files[f"sys/class/power_supply/battery/{name}"] = text
    files["sys/class/power_supply/battery/charge_counter"] = 3_000_000
    for device in (0, 1):
        lines = [f"CH{k}(T=1000)[RAIL{device}{k}], {k}" for k in range(8)]
        files[f"sys/bus/iio/devices/iio:device{device}/energy_value"] = "\n".join(["t=1000", *lines])
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")


if __name__ == "__main__":
    sys.exit(main())
