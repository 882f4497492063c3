"""The smallest worker: reads one Job, writes Events, ends. It "measures" what it is told to in the job's options."""

import sys

from pocketbench_agent.framing import frame, read_message
from pocketbench_agent.rpc import agent_pb2 as pb

job = read_message(sys.stdin.buffer, pb.Job)
runs = job.plan.min_runs if job else 0
for event in (
    pb.Event(mono_ns=1, phase=pb.Phase(name="load", begin=True)),
    pb.Event(mono_ns=2, phase=pb.Phase(name="inputs", begin=True)),
    pb.Event(mono_ns=3, facts=pb.ModelFacts(runtime_version="tiny", inputs_from="seed")),
    pb.Event(mono_ns=4, samples=pb.Samples(phase="timed", run_ns=[1_000_000] * runs, io_ns=[10] * runs, every=1)),
    pb.Event(mono_ns=5, ended=pb.Ended(how=pb.Ended.OK) if job else pb.Ended(how=pb.Ended.ERROR, stage="start")),
):
    sys.stdout.buffer.write(frame(event))
