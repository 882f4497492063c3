"""The meters' process: samples until stdin closes, then writes its readings and ends."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Sequence

from pocketbench_agent.framing import frame
from pocketbench_agent.meters import Meter, create
from pocketbench_agent.rpc import agent_pb2 as pb


def main(names: list[str]) -> int:
    """Run the named meters, each at its own interval."""
    meters = [create(name) for name in names]
    for meter in meters:
        meter.start()
    _sample(meters)
    for meter in meters:
        for reading in meter.stop():
            sys.stdout.buffer.write(frame(pb.Event(mono_ns=time.perf_counter_ns(), reading=reading)))
    return 0


def _sample(meters: Sequence[Meter]) -> None:
    """Everything at once first and last, so that a job shorter than an interval has a before and an after."""
    due = [0.0] * len(meters)
    while True:
        for position, meter in enumerate(meters):
            if time.perf_counter() >= due[position]:
                meter.sample(time.perf_counter_ns())
                due[position] = time.perf_counter() + meter.interval_s
        if select.select([sys.stdin], [], [], max(0.0, min(due) - time.perf_counter()))[0]:
            break
    for meter in meters:
        meter.sample(time.perf_counter_ns())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
