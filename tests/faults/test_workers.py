"""Models and runtimes that die, hang, lie and eat: the case ends with its reason, and nothing else does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from datetime import datetime

import pytest

from tests.faults.conftest import LONG, OK, QUICK, Lab, wait_until
from tests.integration.conftest import ROOT

CC = shutil.which("cc") or shutil.which("gcc")
# A deadline that a test can wait for.
SOON = """
from pocketbench.plan import Plan
Plan.deadline_s = property(lambda self: 4)
"""


def test_a_worker_that_is_killed(pair: Lab) -> None:
    """As the kernel does it for want of memory, after some samples; the other device measures on."""
    models = ("--model", pair.bench.null("m", sleep_ms=10))
    running = pair.start("--device", "a", "--device", "b", *models, *LONG)
    assert wait_until(lambda: bool(pair.workers("a")) and pair.processes() >= 2, 60)
    os.kill(pair.workers("a")[0], signal.SIGKILL)
    ended = pair.check(running, 3, {"a/m": ("CRASHED", "worker_died"), "b/m": OK}, beside="b")
    assert "the worker died of SIGKILL in stage" in ended.stderr


@pytest.mark.parametrize(("stage", "told"), [("load", {}), ("run", {"after": 5})])
def test_a_worker_with_a_fault_of_its_own(pair: Lab, stage: str, told: dict[str, int]) -> None:
    """SIGSEGV where the delegate is made, and in the middle of the runs."""
    bad = pair.bench.null("bad", sleep_ms=1, fail={"stage": stage, "how": signal.SIGSEGV, **told})
    running = pair.start("--device", "local", "--model", bad, "--model", pair.bench.null("good", sleep_ms=1), *QUICK)
    pair.check(running, 3, {"bad": ("CRASHED", "worker_died"), "good": OK})


@pytest.mark.parametrize("stage", ["load", "run"])
def test_a_worker_that_hangs(pair: Lab, stage: str) -> None:
    """Ended at its deadline; the other device does not wait for it."""
    hangs = pair.bench.null("m", fail={"stage": stage, "how": "hang", "after": 2})
    good = pair.bench.null("g", sleep_ms=10)
    pair.bench.environment.update(pair.lying(SOON, "pocketbench"))
    models = ("--device", "a", "--device", "b", "--model", hangs, "--model", good)
    running = pair.start(*models, *QUICK)
    hung = ("TIMEOUT", "timed_out")
    pair.check(running, 3, {"a/m": hung, "b/m": hung, "a/g": OK, "b/g": OK})


def test_a_worker_that_is_stopped(pair: Lab) -> None:
    """SIGSTOP: nobody inside of it can end it."""
    pair.bench.environment.update(pair.lying(SOON, "pocketbench"))
    running = pair.start("--device", "a", "--device", "b", "--model", pair.bench.null("m", sleep_ms=10), *LONG)
    assert wait_until(lambda: bool(pair.workers("a")) and pair.processes() >= 2, 60)
    os.kill(pair.workers("a")[0], signal.SIGSTOP)
    pair.check(running, 3, {"a/m": ("TIMEOUT", "timed_out"), "b/m": OK}, beside="b")


def test_a_worker_that_takes_all_memory(lab: Lab) -> None:
    """Of what it may have: the allocation fails, and that is said."""
    greedy = """
import pocketbench_agent.runtimes.null as null
import numpy, resource
def load(self, files, options, load=null.Null.load):
    if b"greedy" in files[0].read_bytes():
        resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
        self.kept = [numpy.ones(50_000_000) for _ in range(100)]
    return load(self, files, options)
null.Null.load = load
"""
    lab.devices(a={"env": lab.lying(greedy, "pocketbench_agent.worker")})
    greedy_model = lab.bench.null("greedy", fail={"message": "greedy"})
    models = ("--model", greedy_model, "--model", lab.bench.null("good", sleep_ms=1))
    lab.check(lab.start("--device", "a", *models, *QUICK), 3, {"greedy": ("FAILED", "load_failed"), "good": OK})


def test_a_worker_that_floods_its_streams(lab: Lab) -> None:
    """Prints of a runtime go nowhere, however many; the last lines of its log are kept, each cut."""
    loud = """
import pocketbench_agent.runtimes.null as null
import os
def load(self, files, options, load=null.Null.load):
    for stream in (1, 2):
        for _ in range(300):
            os.write(stream, b"x" * 100_000)
        os.write(stream, b"\\n\\x1b[31m\\xff\\xfe\\n")
    return load(self, files, options)
null.Null.load = load
"""
    lab.devices(a={"env": lab.lying(loud, "pocketbench_agent.worker")})
    ended = lab.check(lab.start("--device", "a", "--model", lab.bench.null("m", sleep_ms=1), *QUICK), 0, {"m": OK})
    assert len(ended.stderr) < 10_000


def test_a_worker_that_writes_without_end(lab: Lab) -> None:
    """A file has an end, and a crash writes no memory to the device's disk."""
    writing = f"""
import pocketbench_agent.runtimes.null as null
import resource
def load(self, files, options, load=null.Null.load):
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    with open({str(lab.home / "endless")!r}, "wb") as file:
        file.truncate(5 * 2**30)
    return load(self, files, options)
null.Null.load = load
"""
    lab.devices(a={"env": lab.lying(writing, "pocketbench_agent.worker")})
    model = lab.bench.null("m", sleep_ms=1)
    ended = lab.check(lab.start("--device", "a", "--model", model, *QUICK), 3, {"m": ("FAILED", "load_failed")})
    assert "File too large" in ended.stderr


def test_a_worker_that_leaves_children(lab: Lab) -> None:
    """What a runtime started ends with it."""
    forking = """
import pocketbench_agent.runtimes.null as null
import subprocess
def load(self, files, options, load=null.Null.load):
    subprocess.Popen(["sleep", "1000"])
    return load(self, files, options)
null.Null.load = load
"""
    lab.devices(a={"env": lab.lying(forking, "pocketbench_agent.worker")})
    lab.check(lab.start("--device", "a", "--model", lab.bench.null("m", sleep_ms=1), *QUICK), 0, {"m": OK})


def test_an_agent_that_is_killed(pair: Lab) -> None:
    """Started again, once, and the case it ran is measured anew: attempt 2."""
    running = pair.start("--device", "a", "--device", "b", "--model", pair.bench.null("m", sleep_ms=10), *LONG)
    assert wait_until(lambda: bool(pair.workers("a")) and pair.processes() >= 2, 60)
    os.kill(pair.agents("a")[0], signal.SIGKILL)
    ended = pair.check(running, 0, {"a/m": OK, "b/m": OK}, beside="b")
    assert {result["device"]: result["attempt"] for result in ended.results} == {"a": 2, "b": 1}


def test_an_agent_that_dies_again_and_again(pair: Lab) -> None:
    """Not started for ever: the case is lost, and the other device never waited."""
    mortal = """
import os, threading
import pocketbench_agent.jobs as jobs
start = jobs.Jobs.start
def dying(self, job):
    if job.phase == "latency":
        threading.Timer(0.05, os._exit, (1,)).start()
    return start(self, job)
jobs.Jobs.start = dying
"""
    pair.devices(a={"env": pair.lying(mortal)}, b={})
    running = pair.start("--device", "a", "--device", "b", "--model", pair.bench.null("m", sleep_ms=10), *LONG)
    pair.check(running, 3, {"a/m": ("LOST", "device_lost"), "b/m": OK}, beside="b", leaves=("jobs",))


def test_outputs_that_are_no_numbers(lab: Lab) -> None:
    """INVALID, and the JSON has no NaN for a value."""
    nan = lab.bench.null("nan", output="nan", sleep_ms=1)
    running = lab.start("--device", "local", "--model", nan, "--model", lab.bench.null("good", sleep_ms=1), *QUICK)
    ended = lab.check(running, 3, {"nan": ("INVALID", "output_nan"), "good": OK})
    assert ": NaN" not in ended.stdout


def test_a_blob_that_was_altered(lab: Lab) -> None:
    """Of the same length, between two runs: it is not measured, but sent once more."""
    model = lab.bench.null("m", sleep_ms=1)
    lab.devices(a={})
    arguments = ("--device", "a", "--model", model, *QUICK)
    lab.check(lab.start(*arguments), 0, {"m": OK})
    (blob,) = (lab.home / "devices" / "a" / "home" / "blobs").iterdir()
    good = blob.read_bytes()
    blob.write_bytes(good.replace(b"1", b"7"))
    ended = lab.check(lab.start(*arguments), 0, {"m": OK})
    assert blob.read_bytes() == good
    assert ended.results[0]["latency_ms"]["p50"] < 5


def test_a_model_that_changes_while_it_is_measured(lab: Lab) -> None:
    """What was asked for is on the device already; on the host it may go."""
    model = lab.bench.null("m", sleep_ms=5)
    running = lab.start("--device", "local", "--model", model, *LONG)
    lab.in_the_middle()
    model.unlink()
    lab.check(running, 0, {"m": OK})


@pytest.mark.skipif(CC is None, reason="no C compiler here: clocks that lie were not tried")
@pytest.mark.parametrize("shift_s", [-3600, 3600])
def test_a_clock_that_is_an_hour_off(lab: Lab, shift_s: int) -> None:
    """The device's: durations are right, and a result's time is the host's."""
    library, source = lab.home / "liblying.so", ROOT / "tests" / "peers" / "lying_clocks.c"
    subprocess.run([str(CC), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    lab.devices(a={"env": {"LD_PRELOAD": str(library), "LIE": f"shift={shift_s}"}})
    ended = lab.check(lab.start("--device", "a", "--model", lab.bench.null("m", sleep_ms=5), *QUICK), 0, {"m": OK})
    assert 5 <= ended.results[0]["latency_ms"]["p50"] < 50
    assert ended.doc["created"][:13] in {time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() - s)) for s in (0, 60)}
    log = (lab.home / "devices" / "a" / "home" / "agent.log").read_text()
    hour = datetime.fromisoformat(log[:19]).timestamp() - time.time()
    assert abs(hour - shift_s) < 600, "the lie was not told"
