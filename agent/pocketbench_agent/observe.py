"""What the device is like just now: heat, load, ceilings of the clocks. The gate before each process looks here."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pocketbench_agent import device_info, driven, meters
from pocketbench_agent.meters import cpufreq, thermal
from pocketbench_agent.rpc import agent_pb2 as pb

# What the host has of a device that it drives is a second old, and is renewed each second.
DRIVEN_WINDOW_S = 1.5


def observe(window_s: float, more: Sequence[str] = ()) -> list[pb.Reading]:
    """One reading of everything, and of the meters named beside; busy time is taken over the window, in thousandths
    of one core.
    """
    if driven.link() is not None and window_s:
        window_s = max(window_s, DRIVEN_WINDOW_S)
    before = device_info.cpu_times()
    if before is not None:
        time.sleep(window_s)
    after = device_info.cpu_times()
    now = time.perf_counter_ns()
    readings = [*thermal.read_once(now), *cpufreq.read_once(now)]
    for name in more:
        if name in meters.METERS:
            readings += meters.read_once(name, now)
    if before is None or after is None or after[2] == before[2]:
        readings.append(pb.Reading(source="system", quantity="busy", unit="milli-core", missing="no /proc/stat"))
    else:
        share = (after[0] - before[0]) / (after[2] - before[2])
        busy = round(1000 * share * (device_info.cpu_count() or 1))
        readings.append(pb.Reading(source="system", quantity="busy", unit="milli-core", t_ns=[now], value=[busy]))
    load = device_info.load_average()
    if load is not None:
        readings.append(
            pb.Reading(source="system", quantity="load_avg", unit="milli", t_ns=[now], value=[round(load * 1000)])
        )
    else:
        readings.append(pb.Reading(source="system", quantity="load_avg", unit="milli", missing="not offered"))
    return readings
