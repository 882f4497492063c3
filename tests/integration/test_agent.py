"""The agent as a real process, spoken to in gRPC."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pocketbench.deploy.agent import RunningAgent
from pocketbench.errors import DeviceBusy, DeviceLost
from pocketbench.models import open_model, place
from pocketbench.plan import Case, Plan, RuntimeChoice
from pocketbench.session import wire
from pocketbench.session.wire import JobFiles
from pocketbench_agent.framing import read_messages
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.integration.agents import agent, session, stub
from tests.integration.conftest import ROOT, wait_until

QUICK = Plan(processes=1, min_time_s=0.05, max_time_s=0.2, warm_up_min_time_s=0.05)
NONE = JobFiles()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningAgent]:
    """An agent of its own."""
    with agent(tmp_path / "home") as started:
        yield started


def null_case(folder: Path, **told: object) -> Case:
    """A case of the null runtime."""
    path = folder / "m.null"
    path.write_text(json.dumps(told))
    return Case("local", open_model(path), RuntimeChoice("null"))


def every_call(calls: Any, metadata: tuple[tuple[str, str], ...]) -> list[tuple[str, grpc.StatusCode]]:
    """The status of each call of the service."""
    job = pb.Job(job_id="j")
    requests: dict[str, Any] = {
        "Hello": pb.HelloRequest(protocol_min=1, protocol_max=1),
        "Lease": pb.LeaseRequest(op=pb.LeaseRequest.TAKE, owner="x", ttl_s=1),
        "Clock": pb.ClockRequest(),
        "Observe": pb.ObserveRequest(),
        "HaveBlobs": pb.BlobList(),
        "PutBlob": iter([pb.Chunk(sha256=b"0" * 32)]),
        "Start": job,
        "Watch": pb.JobRef(job_id="j"),
        "Cancel": pb.JobRef(job_id="j"),
        "Acknowledge": pb.JobRef(job_id="j"),
        "Infer": iter([pb.InferRequest(job=job)]),
    }
    assert set(requests) == {method.name for method in pb.DESCRIPTOR.services_by_name["Agent"].methods}
    found = []
    for name, request in requests.items():
        try:
            answer = getattr(calls, name)(request, timeout=5, metadata=metadata)
            if hasattr(answer, "__next__"):
                list(answer)
            found.append((name, grpc.StatusCode.OK))
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            found.append((name, error.code()))
    return found


def test_nothing_answers_without_the_token(running: RunningAgent) -> None:
    """Every call, without a token and with a wrong one."""
    with stub(running) as calls:
        for metadata in ((), (("token", "0" * 64),)):
            assert {code for _, code in every_call(calls, metadata)} == {grpc.StatusCode.UNAUTHENTICATED}


def test_only_hello_clock_and_lease_work_without_a_lease(running: RunningAgent) -> None:
    """The token alone starts nothing."""
    with stub(running) as calls:
        found = dict(every_call(calls, (("token", running.token), ("epoch", "0"))))
    allowed = {name for name, code in found.items() if code == grpc.StatusCode.OK}
    assert allowed == {"Hello", "Clock", "Lease"}
    assert {code for name, code in found.items() if name not in allowed} == {grpc.StatusCode.PERMISSION_DENIED}


def test_it_listens_on_loopback_only_and_hides_its_token(running: RunningAgent, tmp_path: Path) -> None:
    """No other address accepts; neither argv, environment nor log holds the token."""
    port = int(running.address.rpartition(":")[2])
    listening = {
        line.split()[1].rpartition(":")[0]
        for table in ("tcp", "tcp6")
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    # 127.0.0.1, plain or as an IPv6 socket sees it, in the kernel's byte order.
    assert listening
    assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}
    with socket.create_connection(("127.0.0.1", port), 1):
        pass
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                assert running.token.encode() not in (process / name).read_bytes()
            except OSError:
                continue
    assert running.token not in (tmp_path / "home" / "agent.log").read_text()


def test_versions_are_negotiated(running: RunningAgent) -> None:
    """The highest common one; none in common is said in words."""
    metadata = (("token", running.token),)
    with stub(running) as calls:
        assert calls.Hello(pb.HelloRequest(protocol_min=1, protocol_max=7), metadata=metadata).protocol == 1
        with pytest.raises(grpc.RpcError, match="the agent speaks protocol 1 to 1, the host 2 to 7"):
            calls.Hello(pb.HelloRequest(protocol_min=2, protocol_max=7), metadata=metadata)


def test_a_second_owner_is_told_who_and_how_long(running: RunningAgent) -> None:
    """And the first one's calls go on."""
    with session(running, "ann@lab") as first:
        with pytest.raises(DeviceBusy, match=r"in use by ann@lab for (8\d|90) s more"), session(running, "bob"):
            pass
        assert first.observe(0.0).boot_id


def test_an_old_epoch_can_neither_start_nor_renew(running: RunningAgent, tmp_path: Path) -> None:
    """A host that wakes after its lease went to somebody else is fenced off."""
    case = null_case(tmp_path)
    with session(running, "old") as old:
        old._stub.Lease(pb.LeaseRequest(op=pb.LeaseRequest.RELEASE, epoch=old._epoch), metadata=old._metadata())
        with session(running, "new") as new:
            assert new._epoch > old._epoch
            with pytest.raises(DeviceLost, match="held by new"):
                old.measure(case, QUICK, NONE, 0, "measured")
            renewed = old._stub.Lease(
                pb.LeaseRequest(op=pb.LeaseRequest.RENEW, epoch=old._epoch, ttl_s=90), metadata=old._metadata()
            )
            assert renewed.epoch == 0
            assert new.measure(case, QUICK, NONE, 0, "measured").ended.how == "ok"


def test_epochs_grow_across_restarts(tmp_path: Path) -> None:
    """A restarted agent never gives an epoch that it gave before."""
    epochs = []
    for _ in range(3):
        with agent(tmp_path / "home") as running, session(running) as opened:
            epochs.append(opened._epoch)
    assert epochs == sorted(set(epochs))


def test_one_agent_a_home(running: RunningAgent, tmp_path: Path) -> None:
    """A second one says who has it, in its handshake."""
    with session(running, "ann@lab"), pytest.raises(DeviceBusy, match="in use by ann@lab"), agent(tmp_path / "home"):
        pass


def test_an_upload_goes_on_where_it_stopped(running: RunningAgent, tmp_path: Path) -> None:
    """After a break at 60 % only the rest is sent, and a second put sends nothing."""
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(10_000_000))
    file = place(path, "big.bin", "--model")
    sha256 = bytes.fromhex(file.sha256)
    with session(running) as opened:

        def broken() -> Iterator[pb.Chunk]:
            data = path.read_bytes()
            for offset in range(0, 6_000_000, 1_000_000):
                chunk = data[offset : offset + 1_000_000]
                yield pb.Chunk(sha256=sha256, offset=offset, data=chunk, total=file.bytes)
            part = tmp_path / "home" / "blobs" / f"{file.sha256}.part"
            wait_until(lambda: part.exists() and part.stat().st_size > 0, 10)
            raise RuntimeError("the link is cut")

        with pytest.raises(grpc.RpcError):
            opened._stub.PutBlob(broken(), metadata=opened._metadata())
        states = opened._stub.HaveBlobs(pb.BlobList(sha256=[sha256]), metadata=opened._metadata())
        committed = states.blobs[0].committed
        assert 0 < committed <= 6_000_000
        assert not states.blobs[0].complete
        assert opened.put([file]) == file.bytes - committed
        assert opened.put([file]) == 0
    blob = tmp_path / "home" / "blobs" / file.sha256
    assert hashlib.sha256(blob.read_bytes()).digest() == sha256
    with session(running) as again:
        assert again.put([file]) == 0


def test_a_flipped_byte_is_refused(running: RunningAgent, tmp_path: Path) -> None:
    """What arrives with another hash is dropped and said so."""
    path = tmp_path / "m.bin"
    path.write_bytes(b"a" * 1000)
    file = place(path, "m.bin", "--model")
    path.write_bytes(b"a" * 999 + b"b")
    with session(running) as opened, pytest.raises(DeviceLost, match="another sha256"):
        opened.put([file])
    assert not list((tmp_path / "home" / "blobs").iterdir())


def test_a_job_is_started_once_and_its_events_replayed(running: RunningAgent, tmp_path: Path) -> None:
    """Same id, same job; Watch from any number gives the same events; acknowledging deletes them."""
    case = null_case(tmp_path)
    with session(running) as opened:
        job = opened._job(case, QUICK, NONE, "latency", 0)
        job.job_id = "job-1"
        states = [opened._stub.Start(job, metadata=opened._metadata()) for _ in range(3)]
        assert {state.job_id for state in states} == {"job-1"}
        events = list(opened._stub.Watch(pb.JobRef(job_id="job-1", from_seq=1), metadata=opened._metadata()))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].ended.how == pb.Ended.OK
        later = list(opened._stub.Watch(pb.JobRef(job_id="job-1", from_seq=5), metadata=opened._metadata()))
        assert later == events[4:]
        reference = pb.JobRef(job_id="job-1")
        opened._stub.Acknowledge(reference, metadata=opened._metadata())
        assert list(opened._stub.Watch(reference, metadata=opened._metadata())) == []
    assert not list((tmp_path / "home" / "jobs").iterdir())


def test_a_job_outlives_its_link(running: RunningAgent, tmp_path: Path) -> None:
    """Started, the link dropped, a new session collects everything."""
    case = null_case(tmp_path, sleep_ms=5)
    with session(running) as first:
        job = first._job(case, QUICK, NONE, "latency", 0)
        job.job_id = "long"
        first._stub.Start(job, metadata=first._metadata())
    time.sleep(0.2)
    with session(running) as second:
        hello = second._stub.Hello(pb.HelloRequest(protocol_min=1, protocol_max=1), metadata=second._metadata())
        assert [state.job_id for state in hello.unacknowledged] == ["long"]
        events = list(second._stub.Watch(pb.JobRef(job_id="long", from_seq=1), metadata=second._metadata()))
        process = wire.process(events, 0)
    assert process.ended.how == "ok"
    assert len(process.run_ns) >= 20


def test_a_killed_agent_leaves_its_jobs_to_the_next(tmp_path: Path) -> None:
    """A finished job is still there; the one that ran says that the agent ended."""
    home = tmp_path / "home"
    with agent(home) as running, session(running) as opened:
        done = opened._job(null_case(tmp_path), QUICK, NONE, "latency", 0)
        done.job_id = "done"
        opened._stub.Start(done, metadata=opened._metadata())
        list(opened._stub.Watch(pb.JobRef(job_id="done"), metadata=opened._metadata()))
        cut = opened._job(null_case(tmp_path, sleep_ms=1000), QUICK, NONE, "latency", 0)
        cut.job_id = "cut"
        opened._stub.Start(cut, metadata=opened._metadata())
        time.sleep(1.0)
        process: Any = running.process
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait()
    with agent(home) as running, session(running) as opened:
        ends = {}
        for name in ("done", "cut"):
            events = list(opened._stub.Watch(pb.JobRef(job_id=name, from_seq=1), metadata=opened._metadata()))
            ends[name] = wire.process(events, 0).ended
    assert ends["done"].how == "ok"
    assert (ends["cut"].how, ends["cut"].stage) == ("no_output", "agent")


def test_deadline_and_cancel(running: RunningAgent, tmp_path: Path) -> None:
    """A worker that hangs is killed at its deadline; a cancelled one at once; the agent goes on."""
    hang = null_case(tmp_path, fail={"stage": "load", "how": "hang"})
    with session(running) as opened:
        job = opened._job(hang, QUICK, NONE, "latency", 0)
        job.job_id, job.deadline_s = "hangs", 1
        ended = wire.process(opened._run(job), 0).ended
        assert (ended.how, ended.stage, ended.message) == ("timeout", "load", "still in stage load after 1 s")
        job.job_id, job.deadline_s = "cancelled", 600
        opened._stub.Start(job, metadata=opened._metadata())
        opened._stub.Cancel(pb.JobRef(job_id="cancelled"), metadata=opened._metadata())
        events = list(opened._stub.Watch(pb.JobRef(job_id="cancelled"), metadata=opened._metadata()))
        assert events[-1].ended.how == pb.Ended.CANCELLED
        assert opened.measure(null_case(tmp_path), QUICK, NONE, 0, "measured").ended.how == "ok"


def test_paths_of_a_job_cannot_escape(running: RunningAgent, tmp_path: Path) -> None:
    """Names from the wire are plain relative paths, or the job is refused."""
    with session(running) as opened:
        for path in ("../x", "/etc/passwd", "a/../../x", ""):
            job = opened._job(null_case(tmp_path), QUICK, NONE, "latency", 0)
            job.files[0].path = path
            job.job_id = "escape"
            with pytest.raises(grpc.RpcError, match="not a plain relative path"):
                opened._stub.Start(job, metadata=opened._metadata())
        job.job_id = "../../evil"
        with pytest.raises(grpc.RpcError, match="job id"):
            opened._stub.Start(job, metadata=opened._metadata())


def test_scoring_through_the_agent(running: RunningAgent, tmp_path: Path) -> None:
    """Arrays in, arrays out; a model that dies in the middle ends the stream with its reason."""
    import numpy as np

    from pocketbench.measurement import WorkerEnded

    with session(running) as opened:
        with opened.scoring(null_case(tmp_path), QUICK, NONE) as scorer:
            for value in range(20):
                array = np.full((1, 4), value, np.float32)
                assert np.array_equal(scorer.call([array])[0], array)
        dies = null_case(tmp_path, fail={"stage": "run", "how": 11, "after": 3})
        with opened.scoring(dies, QUICK, NONE) as scorer, pytest.raises(WorkerEnded, match="SIGSEGV"):
            for _ in range(20):
                scorer.call([np.zeros((1, 4), np.float32)])


def test_an_idle_agent_ends_itself(tmp_path: Path) -> None:
    """Without calls and jobs it is gone after its idle time."""
    with agent(tmp_path / "home", "--idle", "1") as running:
        process: Any = running.process
        with session(running):
            time.sleep(2.5)
        assert process._process.poll() is None or wait_until(lambda: True, 0)
        assert wait_until(lambda: process._process.poll() is not None, 10)


def test_it_runs_where_the_host_is_not_installed(tmp_path: Path) -> None:
    """The agent's folder alone on the path: no host package, no click, no torch, no pydantic is imported."""
    program = (
        "import sys, runpy\n"
        "sys.argv = ['pocketbench_agent', '--home', sys.argv[1], '--idle', '0']\n"
        "try:\n    runpy.run_module('pocketbench_agent', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "bad = {'pocketbench', 'click', 'torch', 'pydantic', 'sqlalchemy', 'rich'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "home")],
        input="token\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "agent")},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["port"] > 0


def test_events_on_disk_are_the_wire_format(running: RunningAgent, tmp_path: Path) -> None:
    """The file that is replayed is length-delimited Events, so that any tool can read it."""
    with session(running) as opened:
        job = opened._job(null_case(tmp_path), QUICK, NONE, "latency", 0)
        job.job_id = "kept"
        opened._stub.Start(job, metadata=opened._metadata())
        list(opened._stub.Watch(pb.JobRef(job_id="kept"), metadata=opened._metadata()))
        with (tmp_path / "home" / "jobs" / "kept" / "events").open("rb") as file:
            kinds = [event.WhichOneof("what") for event in read_messages(file, pb.Event)]
    assert kinds[0] == "phase"
    assert kinds[-1] == "ended"
