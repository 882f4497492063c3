"""LiteRT, ONNX Runtime and ncnn on this machine's GPU, without a host, a store or a network: workers alone.

python benchmarks/gpu.py [MODEL …]   (digits of examples/ by default; benchmarks/gpu.sh carries it to another machine)

For each model and delegate: the adapter, how many nodes it took, first and median run, how far its outputs are from one
CPU thread, and for LiteRT how soon its own call returned against the run that was waited for.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pocketbench.measurement import Output, Process
from pocketbench.models import ModelFile, open_model
from pocketbench.plan import Case, Plan, readers
from pocketbench.session import wire
from pocketbench.session.wire import JobFiles
from pocketbench.verdict import fidelity
from pocketbench_agent import program_cache
from pocketbench_agent.framing import frame, read_messages
from pocketbench_agent.rpc import agent_pb2 as pb

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
MODELS = ("digits-float.tflite", "digits-int8.tflite", "digits-float.onnx")
PLAN = Plan(processes=1, min_runs=50, min_time_s=0.5, max_time_s=5.0, warm_up_max_time_s=5.0)
DELEGATES = {"litert": "gpu", "onnxruntime": "webgpu", "ncnn": "vulkan"}
JOB_S = 120
EARLY = """
import sys, time
from pathlib import Path
import numpy as np
from pocketbench_agent.runtimes import LoadOptions
from pocketbench_agent.runtimes.litert_compiled import Compiled
runtime = Compiled()
facts = runtime.load([Path(sys.argv[1])], LoadOptions(threads=1, delegate="gpu"))
arrays = [np.ones(info.shape, info.dtype) for info in facts.inputs]
spans = []
for _ in range(50):
    runtime.bind(arrays)
    begin = time.perf_counter()
    runtime._model.run_by_index(runtime._index, *runtime._order)
    queued = time.perf_counter()
    runtime.read()
    spans.append([queued - begin, time.perf_counter() - queued])
print("%.3f ms until the call returned, %.3f ms more until its outputs were there" % tuple(1e3 * np.median(spans, 0)))
"""


def main(paths: list[Path]) -> None:
    """A line a model and delegate."""
    for path in paths:
        model = open_model(path)
        runtime = readers(model, [])[0]
        gpu = Case("local", model, runtime, DELEGATES[runtime.name])
        print(f"\n{path.name} {runtime}", flush=True)
        with TemporaryDirectory() as programs:
            for round_index, temperature in enumerate(("cold process", "second process")):
                measured = process(job(gpu, "latency", round_index), model, Path(programs))
                kept = program_cache.size_bytes(Path(programs))
                print(f"  {temperature}: {shown(measured)}; {kept} bytes of programs kept", flush=True)
        reference = outputs(job(gpu.on_cpu(), "reference", 0), model)
        ours = outputs(job(gpu, "reference", 0), model)
        for found in fidelity.compare(ours, reference, accelerated=True) if ours and reference else ():
            print(f"  output {found.output}: cosine {found.cosine}, off by up to {found.max_abs}", flush=True)
        if runtime.name == "litert":
            done = subprocess.run([sys.executable, "-c", EARLY, str(path)], capture_output=True, text=True, check=False)
            print(f"  {(done.stdout or done.stderr).strip().splitlines()[-1]}", flush=True)


def job(case: Case, phase: str, round_index: int) -> pb.Job:
    """A job for a worker of its own."""
    made = wire.job(case, PLAN, JobFiles(), phase, round_index)
    made.plan.keep_outputs = phase == "reference"
    return made


def events(asked: pb.Job, model: ModelFile, programs: Path | None = None) -> list[pb.Event]:
    """What a worker says to it, whose compiled programs go into that folder."""
    with TemporaryDirectory() as folder:
        for file in model.files:
            target = Path(folder) / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.path.resolve())
        worker = [sys.executable, "-m", "pocketbench_agent.worker", folder]
        env = {**os.environ, **program_cache.environment(programs), "TF_BUILD": "true"}
        try:
            done = subprocess.run(worker, input=frame(asked), capture_output=True, env=env, timeout=JOB_S, check=False)
        except subprocess.TimeoutExpired:
            return [pb.Event(ended=pb.Ended(how=pb.Ended.TIMEOUT, message=f"still running after {JOB_S} s"))]
    found = list(read_messages(io.BytesIO(done.stdout), pb.Event))
    if not found or not found[-1].HasField("ended"):
        tail = done.stderr.decode(errors="replace").strip()[-500:]
        found.append(pb.Event(ended=pb.Ended(how=pb.Ended.SIGNAL, message=f"code {done.returncode}: {tail}")))
    return found


def process(asked: pb.Job, model: ModelFile, programs: Path) -> Process:
    """What it measured."""
    return wire.process(events(asked, model, programs), 0)


def outputs(asked: pb.Job, model: ModelFile) -> list[Output]:
    """The outputs that it kept; none where it failed."""
    ended, kept = wire.outputs(events(asked, model))
    return kept if ended.how == "ok" else []


def shown(measured: Process) -> str:
    """In a line."""
    if measured.ended.how != "ok" or measured.placed is None or measured.p50_ns is None:
        return f"{measured.ended.how} in {measured.ended.stage}: {measured.ended.message}"
    placed = measured.placed
    waited = np.median(np.subtract(measured.probe_read_ns, measured.probe_reread_ns)) / 1e6
    return (
        f"{placed.delegated} of {placed.nodes} nodes on {placed.adapter or 'an adapter that it does not name'}; "
        f"load {(measured.load_ns or 0) / 1e6:.1f} ms, first {(measured.first_ns or 0) / 1e6:.2f} ms, "
        f"p50 {measured.p50_ns / 1e6:.3f} ms of {len(measured.run_ns)}, a read after a run waits {waited:.3f} ms"
    )


if __name__ == "__main__":
    main([Path(text) for text in sys.argv[1:]] or [DIGITS / name for name in MODELS])
