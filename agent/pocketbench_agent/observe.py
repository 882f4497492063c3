"""What the device is like just now: heat, load, ceilings of the clocks. The gate before each process looks here."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from pocketbench_agent import device_info, meters
from pocketbench_agent.meters import cpufreq, thermal
from pocketbench_agent.rpc import agent_pb2 as pb


def observe(window_s: float, more: Sequence[str] = ()) -> list[pb.Reading]:
    """One reading of everything, and of the meters named beside; busy time is taken over the window, in thousandths
    of one core.
    """
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
        busy = round(1000 * share * (os.cpu_count() or 1))
        readings.append(pb.Reading(source="system", quantity="busy", unit="milli-core", t_ns=[now], value=[busy]))
    try:
        load = round(os.getloadavg()[0] * 1000)
        readings.append(pb.Reading(source="system", quantity="load_avg", unit="milli", t_ns=[now], value=[load]))
    except OSError:
        readings.append(pb.Reading(source="system", quantity="load_avg", unit="milli", missing="not offered"))
    return readings
