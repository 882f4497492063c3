"""What the product's loop adds to a bare loop, and what the harness costs around it.

Loop: one fresh process a model loads it once through the product's runtime. Then arms alternate in short blocks, their
order shuffled anew in every round: `product` (`pocketbench_agent.loop.timed` over the runtime, as the worker calls
it), `bare` (benchmarks/bare.py: the same loaded interpreter or session through the runtime's own API, inputs set, run
timed, outputs copied, as a careful user script does) and, as information in every third round, `only` (nothing but
runs). Garbage collection is off for all. A block's value is the median of its run times; a round gives one pair.
The limits are one-sided 95 % t limits of the mean over pairs, trimmed by 20 % at both ends (Yuen 1974): time that a
neighbour steals comes in bursts, which hit one block of a pair, either one. The plain t limit is printed beside it.
Bound, for a model of 1 ms or more: upper limit of the ratio product / bare (log ratios) at most 1.01; for a faster
one: upper limit of the added median time at most 3 microseconds.

Beside it: the floor (run and io span of the null runtime through the real worker program), what an idle agent with an
open session costs (resident memory, CPU time), and `bench --help` against a Python that does nothing, alternating;
bound: the difference of the medians is at most 0.15 s.

A pass means that every bound holds. A miss by a limit whose interval still holds the bound says "not shown": more
blocks or a quieter machine may decide it. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from conditions import conditions  # type: ignore[import-not-found]

from pocketbench.stats import t_quantile

VERSIONS = ("ai-edge-litert", "onnxruntime", "numpy")
ROOT = Path(__file__).resolve().parents[1]
MORE = (
    "tflite/hello_world_int8.tflite",
    "onnx/mnist.onnx",
    "tflite/mobilenet_v1_0.5_160_quant.tflite",
    "tflite/mobilenet_v2_1.0_224_quant.tflite",
    "tflite/yolov5n-int8.tflite",
    "onnx/yolov5n-fp16.onnx",
)
SHAPES = {"hello_world_int8": {"dense_input": (1, 1)}}
ARMS = ("bare", "product", "only")
AT_LEAST = 3
ONLY_EVERY = 3
TRIM = 0.2
BOUND_RATIO, SLOW_NS = 1.01, 1_000_000
BOUND_ADDED_US = 3.0
BOUND_HELP_S = 0.15


def main() -> int:
    """Print everything; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "models", help="folder of more models")
    parser.add_argument("--blocks", type=int, default=300, help="blocks of each arm, 30 or more for a verdict")
    parser.add_argument("--block-s", type=float, default=0.03, help="least seconds of one block")
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_blocks(arguments.one, arguments.blocks, arguments.block_s)))
        return 0
    print(conditions(VERSIONS))
    digits = sorted(p for p in (ROOT / "examples" / "digits").glob("digits-*") if p.suffix in (".tflite", ".onnx"))
    found = [*digits, *(p for p in (arguments.models / name for name in MORE) if p.is_file())]
    missed: list[str] = []
    print(f"\nloop: {arguments.blocks} blocks of {arguments.block_s} s or more of each arm, medians in microseconds")
    heads = "".join(f"{arm:>10s}" for arm in ARMS)
    print(f"{'model':34s}{heads}   product/bare [95 % limits] plain t  added us (upper)  only/bare    runs")
    for path in (p for p in found if arguments.only in p.name):
        command = [sys.executable, __file__, "--one", str(path), f"--blocks={arguments.blocks}"]
        command.append(f"--block-s={arguments.block_s}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missed.append(f"{path.name}: could not be measured: {done.stderr.strip().splitlines()[-1:]}")
            continue
        missed += _judge(path.name, json.loads(done.stdout))
    if not arguments.only:
        print(_floor())
        print(_idle())
        missed += _help()
    print(f"\n{conditions(VERSIONS)}")
    print("\n".join(f"MISSED: {line}" for line in missed) or "PASS: every bound holds")
    return 1 if missed else 0


def _blocks(path: Path, blocks: int, block_s: float) -> dict[str, Any]:
    """The three arms in this process; nanoseconds, one median a block."""
    import bare  # type: ignore[import-not-found]

    from pocketbench_agent import inputs, loop
    from pocketbench_agent.runtimes import LoadOptions, create

    name = "litert" if path.suffix == ".tflite" else "onnxruntime"
    runtime: Any = create(name)
    facts = runtime.load([path], LoadOptions(threads=1, shapes=SHAPES.get(path.stem, {})))
    arrays = inputs.seeded(facts.inputs, 1)
    moves = loop.Moves(lambda: runtime.bind(arrays), runtime.run, runtime.read)
    if name == "litert":
        whole, run_only = bare.litert(runtime._interpreter, arrays)
    else:
        whole, run_only = bare.onnxruntime(runtime._session, runtime._binding, runtime._in, runtime._out, arrays)
    most = 10_000

    def product(seconds: float, at_least: int) -> Sequence[int]:
        return loop.timed(moves, loop.Limits(at_least, most, round(seconds * 1e9), 60_000_000_000)).run_ns

    arms = dict(zip(ARMS, (whole, product, run_only), strict=True))
    gc.collect()
    gc.freeze()
    gc.disable()
    warm = loop.warm_up(moves, 3, 500_000_000, 5_000_000_000)
    # Room for twice the runs of a block: clearing much more memory before each block would cool the caches.
    most = max(AT_LEAST, round(2e9 * block_s / min(warm.samples.run_ns)))
    medians: dict[str, list[float]] = {arm: [] for arm in ARMS}
    counts: dict[str, int] = dict.fromkeys(ARMS, 0)
    for index in range(blocks):
        chosen = ARMS[: 2 if index % ONLY_EVERY else 3]
        for arm in random.sample(chosen, len(chosen)):
            times = arms[arm](block_s, AT_LEAST)
            medians[arm].append(median(times))
            counts[arm] += len(times)
    return {"medians": medians, "counts": counts}


def _judge(name: str, found: dict[str, Any]) -> list[str]:
    """One line, and what it missed."""
    bare, product, only = (found["medians"][arm] for arm in ARMS)
    logs = [math.log(p / b) for b, p in zip(bare, product, strict=True)]
    ratio, lower, upper = map(math.exp, _limits(logs, TRIM))
    added, added_lower, added_upper = (
        v / 1e3 for v in _limits([p - b for b, p in zip(bare, product, strict=True)], TRIM)
    )
    alone = median(o / b for b, o in zip(bare[::ONLY_EVERY], only, strict=True))
    middle = "".join(f"{median(values) / 1e3:10.2f}" for values in (bare, product, only))
    print(
        f"{name:34s}{middle}   {ratio:.4f} [{lower:.4f}, {upper:.4f}] {math.exp(_limits(logs, 0.0)[2]):7.4f}"
        f"  {added:+9.2f} ({added_upper:+.2f})  {alone:9.3f}{found['counts']['product']:8d}",
        flush=True,
    )
    if median(bare) >= SLOW_NS:
        if upper <= BOUND_RATIO:
            return []
        word = "not shown" if lower <= BOUND_RATIO else "exceeded"
        return [f"{name}: ratio {ratio:.4f} [{lower:.4f}, {upper:.4f}], bound {BOUND_RATIO}: {word}"]
    if added_upper <= BOUND_ADDED_US:
        return []
    word = "not shown" if added_lower <= BOUND_ADDED_US else "exceeded"
    return [f"{name}: adds {added:.2f} us, at most {added_upper:.2f}, bound {BOUND_ADDED_US}: {word}"]


def _limits(values: Sequence[float], trim: float) -> tuple[float, float, float]:
    """Trimmed mean with its one-sided 95 % limits; a trim of 0 is the plain t."""
    ordered, n = sorted(values), len(values)
    cut = math.floor(trim * n)
    kept = ordered[cut : n - cut]
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = stdev(winsorized) * math.sqrt((n - 1) / (len(kept) * (len(kept) - 1)))
    half = t_quantile(0.95, len(kept) - 1) * error
    return fmean(kept), fmean(kept) - half, fmean(kept) + half


def _floor() -> str:
    """Run and io span of the null runtime, through the worker program as the agent starts it."""
    from pocketbench_agent.framing import frame, read_messages
    from pocketbench_agent.rpc import agent_pb2 as pb
    from pocketbench_agent.spawn import WORKER

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.null"
        model.write_text("{}")
        plan = pb.Plan(min_runs=10_000, max_runs=10_000, max_time_s=10, warm_up_min_time_s=0.5, warm_up_max_time_s=5)
        job = pb.Job(files=[pb.File(path=str(model))], program=pb.Program(runtime="null", seed=1), plan=plan)
        process = subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin and process.stdout
        process.stdin.write(frame(job))
        process.stdin.close()
        events = list(read_messages(process.stdout, pb.Event))  # type: ignore[arg-type]
        process.wait()
    samples = next(e.samples for e in events if e.HasField("samples") and e.samples.phase == "timed")
    run, io = median(samples.run_ns), median(samples.io_ns)
    return f"\nfloor (null runtime, {len(samples.run_ns)} runs): run {run:.0f} ns, io {io:.0f} ns, medians"


def _idle(seconds: float = 5.0) -> str:
    """What the agent costs while a session is open and nothing runs."""
    from pocketbench.config.devices import DeviceEntry
    from pocketbench.deploy import agent as deploy
    from pocketbench.session.session import Session
    from pocketbench.transports.local import Local, LocalProcess

    with tempfile.TemporaryDirectory() as home:
        transport = Local("local", DeviceEntry(transport="local"))
        try:
            agent = deploy.start("local", transport, deploy.local_command(Path(home)))
            assert isinstance(agent.process, LocalProcess)
            proc = Path(f"/proc/{agent.process._process.pid}")
            session = Session("local", agent, "overhead benchmark")
            session.open()
            time.sleep(1.0)
            before, switches = _thread_ns(proc)
            time.sleep(seconds)
            after, switched = _thread_ns(proc)
            status = (proc / "status").read_text().splitlines()
            rss = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
            session.close()
        finally:
            transport.close()
    used = (after - before) / 1e6
    return (
        f"idle agent, {seconds:.0f} s with an open session: {rss / 1e6:.1f} MB resident, {used:.2f} ms of CPU time "
        f"({used / seconds / 10:.3f} % of a core), {(switched - switches) / seconds:.0f} wake-ups a second"
    )


def _thread_ns(proc: Path) -> tuple[int, int]:
    """CPU time, in nanoseconds, and time slices of all threads (schedstat, fields 1 and 3)."""
    fields = [(task / "schedstat").read_text().split() for task in (proc / "task").iterdir()]
    return sum(int(f[0]) for f in fields), sum(int(f[2]) for f in fields)


def _help(runs: int = 20) -> list[str]:
    """`bench --help` against bare Python, alternating."""
    programs = {"python": ["pass"], "help": ["from pocketbench.cli.main import main; main()", "--help"]}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        subprocess.run([sys.executable, "-c", *program], stdout=subprocess.DEVNULL, check=True)
    for _ in range(runs):
        for name in random.sample(list(programs), len(programs)):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", *programs[name]], stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - begin)
    bare, ours = median(seconds["python"]), median(seconds["help"])
    print(f"bench --help, {runs} runs each: {ours:.3f} s, bare Python {bare:.3f} s, medians; {ours - bare:+.3f} s")
    return [f"bench --help: {ours - bare:.3f} s, bound {BOUND_HELP_S} s"] if ours - bare > BOUND_HELP_S else []


if __name__ == "__main__":
    sys.exit(main())
