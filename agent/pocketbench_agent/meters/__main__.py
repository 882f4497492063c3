"""The meters' process: samples every second until stdin closes, then writes its readings and ends."""

from __future__ import annotations

import select
import sys
import time

from pocketbench_agent.framing import frame
from pocketbench_agent.meters import create
from pocketbench_agent.rpc import agent_pb2 as pb

INTERVAL_S = 1.0


def main(names: list[str]) -> int:
    """Run the named meters."""
    meters = [create(name) for name in names]
    for meter in meters:
        meter.start()
    while True:
        now = time.perf_counter_ns()
        for meter in meters:
            meter.sample(now)
        if select.select([sys.stdin], [], [], INTERVAL_S)[0]:
            break
    for meter in meters:
        for reading in meter.stop():
            sys.stdout.buffer.write(frame(pb.Event(mono_ns=time.perf_counter_ns(), reading=reading)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
