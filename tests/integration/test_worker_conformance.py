"""What any worker must do, checked on the Python worker, the one of vendors' tools, and a ten-line one.

A worker reads one Job and writes Events, length-delimited protobuf on stdin and stdout, and ends. The agent
runs it, so the last tests run each through the agent's own job queue.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketbench.models import place
from pocketbench.session import wire
from pocketbench_agent import spawn
from pocketbench_agent.cache import BlobCache
from pocketbench_agent.framing import frame, read_messages
from pocketbench_agent.jobs import Jobs
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.integration.conftest import ROOT, wait_until
from tests.peers import native_tool

WORKERS = {
    "python": [sys.executable, "-m", "pocketbench_agent.worker"],
    "native": [sys.executable, "-m", "pocketbench_agent.native.worker"],
    "tiny": [sys.executable, str(ROOT / "tests" / "peers" / "tiny_worker.py")],
}


@pytest.fixture(params=WORKERS, ids=str)
def command(request: pytest.FixtureRequest) -> list[str]:
    """Each worker in turn."""
    return WORKERS[request.param]


@pytest.fixture
def job(tmp_path: Path) -> pb.Job:
    """A job that any worker can do: the null model, two dozen runs, and a tool (a stand-in) where one is asked for."""
    data = ROOT / "tests" / "data" / "native"
    recorded, results = data / "onnxruntime_perf_test-1.20-qnn.txt", data / "onnxruntime_perf_test-1.20-results.csv"
    tool = native_tool.write(tmp_path / "bin" / "onnxruntime_perf_test", recorded, results=results)
    (tmp_path / "model.null").write_text("{}")
    file = place(tmp_path / "model.null", "model.null", "--model")
    return pb.Job(
        job_id="conformance",
        files=[pb.File(path=file.name, sha256=bytes.fromhex(file.sha256))],
        program=pb.Program(runtime="null", delegate="cpu", tool=pb.Tool(name="onnxruntime_perf_test", path=str(tool))),
        placement=pb.Placement(threads=1),
        plan=pb.Plan(min_runs=24, max_runs=24, max_time_s=1, warm_up_min_runs=1, warm_up_max_time_s=0.1),
        deadline_s=60,
        phase="latency",
    )


def talk(command: list[str], data: bytes, folder: Path) -> tuple[int, list[pb.Event]]:
    """Give a worker its stdin; its exit code and events."""
    done = subprocess.run(
        command,
        input=data,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "agent")},
        timeout=60,
        check=False,
    )
    import io

    return done.returncode, list(read_messages(io.BytesIO(done.stdout), pb.Event))


def test_one_job_many_events_one_end(command: list[str], job: pb.Job, tmp_path: Path) -> None:
    """Exit code 0; stages begin in time's order; facts, samples with both spans; Ended last and once."""
    code, events = talk(command, frame(job), tmp_path)
    assert code == 0
    assert [event.HasField("ended") for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].ended.how == pb.Ended.OK
    times = [event.mono_ns for event in events]
    assert times == sorted(times)
    assert all(event.seq == 0 for event in events), "numbers are the agent's to give"
    process = wire.process(events, 0)
    assert len(process.run_ns) == 24
    assert len(process.io_ns) in (0, 24), "a worker that cannot tell says nothing"
    assert process.run_ns.min() > 0
    assert process.facts is not None
    assert process.load_ns is not None


def test_a_stdin_that_holds_no_job(command: list[str], tmp_path: Path) -> None:
    """An empty stdin: it ends by itself, and never says that all went well."""
    code, events = talk(command, b"", tmp_path)
    assert code != 0 or events[-1].ended.how == pb.Ended.ERROR


def test_through_the_agent(command: list[str], job: pb.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent numbers the events, keeps them, and gives them again."""
    monkeypatch.setattr(spawn, "WORKER", tuple(command))
    cache = BlobCache(tmp_path / "blobs")
    data = (tmp_path / "model.null").read_bytes()
    cache.put(job.files[0].sha256, 0, len(data), iter([data]))
    jobs = Jobs(tmp_path, cache)
    jobs.start(job)
    events = list(jobs.watch(job.job_id, 1))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert wire.process(events, 0).ended.how == "ok"
    assert list(jobs.watch(job.job_id, 3)) == events[2:]
    assert wait_until(lambda: not jobs.busy(), 5)
    jobs.close()


@pytest.mark.parametrize(
    ("program", "how", "says"),
    [
        ("import os; os.kill(os.getpid(), 11)", pb.Ended.SIGNAL, "SIGSEGV"),
        ("pass", pb.Ended.NO_OUTPUT, "code 0 and no result"),
        ("import sys; sys.exit(7)", pb.Ended.NO_OUTPUT, "code 7"),
        ("import sys; sys.stdout.write('hello, world of text')", pb.Ended.NO_OUTPUT, "frame"),
        ("import sys; sys.stdout.buffer.write(b'\\xff' * 64)", pb.Ended.NO_OUTPUT, "length"),
        ("import sys; sys.stdout.buffer.write(b'\\x7f\\x01')", pb.Ended.NO_OUTPUT, "before the end of a frame"),
        ("import time; time.sleep(60)", pb.Ended.TIMEOUT, "after 2 s"),
    ],
    ids=["crash", "silence", "exit code", "text", "absurd length", "cut frame", "hang"],
)
def test_what_a_bad_worker_does_is_an_event(
    program: str, how: pb.Ended.How.ValueType, says: str, job: pb.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it writes or does not write, the agent lives and says what happened."""
    monkeypatch.setattr(spawn, "WORKER", (sys.executable, "-c", program))
    cache = BlobCache(tmp_path / "blobs")
    data = (tmp_path / "model.null").read_bytes()
    cache.put(job.files[0].sha256, 0, len(data), iter([data]))
    jobs = Jobs(tmp_path, cache)
    job.deadline_s = 2 if how == pb.Ended.TIMEOUT else 60
    jobs.start(job)
    ended = list(jobs.watch(job.job_id, 1))[-1].ended
    assert (ended.how, says in ended.message) == (how, True), ended
    jobs.close()
