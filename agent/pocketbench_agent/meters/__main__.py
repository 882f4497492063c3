"""The meters' process: `begin NAME …` on stdin starts sampling, `end` writes what was read, the end of stdin ends it.

What was read is Events with readings, then one with `ended`, length-delimited protobuf on stdout.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Sequence

from pocketbench_agent.framing import frame
from pocketbench_agent.meters import Meter, create
from pocketbench_agent.rpc import agent_pb2 as pb


def main() -> int:
    """Until stdin ends."""
    # Unbuffered: `select` must see every line that has not been read.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        while line := stdin.readline():
            words = line.decode().split()
            if words[:1] == ["begin"]:
                meters = [create(name) for name in words[1:]]
                for meter in meters:
                    meter.start()
                _sample(meters)
                _write(meters)
    return 0


def _sample(meters: Sequence[Meter]) -> None:
    """Everything at once first and last, so that a job shorter than an interval has a before and an after."""
    due = [0.0] * len(meters)
    while True:
        for position, meter in enumerate(meters):
            if time.perf_counter() >= due[position]:
                meter.sample(time.perf_counter_ns())
                due[position] = time.perf_counter() + meter.interval_s
        if select.select([0], [], [], max(0.0, min(due) - time.perf_counter()))[0]:
            break
    for meter in meters:
        meter.sample(time.perf_counter_ns())


def _write(meters: Sequence[Meter]) -> None:
    out = sys.stdout.buffer
    for meter in meters:
        for reading in meter.stop():
            out.write(frame(pb.Event(mono_ns=time.perf_counter_ns(), reading=reading)))
    out.write(frame(pb.Event(mono_ns=time.perf_counter_ns(), ended=pb.Ended(how=pb.Ended.OK))))
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
