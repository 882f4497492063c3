"""A device whose host has gone: the agent goes on, and lets whoever comes next in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
import pytest

from pocketbench.deploy.agent import RunningAgent
from pocketbench.errors import DeviceBusy, DeviceLost
from pocketbench.session.session import Session
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.integration.agents import stub
from tests.integration.conftest import ROOT, wait_until
from tests.integration.test_agent import NONE, QUICK, null_case

TOKENS = ("first" * 8, "second" * 8)


class Detached:
    """An agent as a device runs it: it outlives the pipe that started it."""

    def __init__(self, home: Path, token: str, package: Path = ROOT / "agent") -> None:
        command = [sys.executable, "-m", "pocketbench_agent", "--home", str(home), "--idle", "20"]
        environment = {**os.environ, "PYTHONPATH": str(package)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(token + "\n")
        self.process.stdin.flush()
        self.told: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.running = RunningAgent(f"127.0.0.1:{self.told.get('port')}", token, "", None)  # type: ignore[arg-type]

    def hang_up(self) -> None:
        """What a link that goes does to it."""
        for pipe in (self.process.stdin, self.process.stdout):
            _pipe(pipe).close()
        os.kill(self.process.pid, signal.SIGHUP)

    def end(self) -> None:
        """Whatever state it is in."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            _pipe(pipe).close()


@contextmanager
def detached(home: Path, token: str, package: Path = ROOT / "agent") -> Iterator[Detached]:
    """One of those."""
    started = Detached(home, token, package)
    try:
        yield started
    finally:
        started.end()


def hello(running: RunningAgent, token: str) -> grpc.StatusCode | None:
    """None where the agent answers to that token."""
    with stub(running) as calls:
        try:
            calls.Hello(pb.HelloRequest(protocol_min=1, protocol_max=1), timeout=10, metadata=(("token", token),))
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code()
    return None


def test_the_second_agent_passes_on_the_first(tmp_path: Path) -> None:
    """Its token is good from then on, the first one still is, no other, and nothing of it is left on the disk."""
    with detached(tmp_path, TOKENS[0]) as first, detached(tmp_path, TOKENS[1]) as second:
        assert second.process.wait(10) == 0
        assert second.told == first.told
        assert [hello(first.running, token) for token in TOKENS] == [None, None]
        assert hello(first.running, "third") == grpc.StatusCode.UNAUTHENTICATED
        assert not list((tmp_path / "handover").iterdir())
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in files if any(token.encode() in path.read_bytes() for token in TOKENS)]
        one = Session("pi5", first.running, "ann")
        one.open()
        other = Session("pi5", second.running, "bob")
        with pytest.raises(DeviceBusy, match=r"pi5: in use by ann for \d+ s more"):
            other.open()
        other.open(gone=lambda holder: holder == "ann")
        with pytest.raises(DeviceLost, match="held by bob"):
            one.observe(0.0)
        other.close()
        assert wait_until(lambda: first.process.poll() == 0, 10), "the lease was given back: it ends"
        one.close()


def test_a_job_outlives_its_link_and_is_collected(tmp_path: Path) -> None:
    """Started by one host, collected by the next, with the same id; not run twice."""
    case = null_case(tmp_path, sleep_ms=400)
    plan = QUICK.__class__(**{**vars(QUICK), "min_runs": 8, "max_runs": 8, "max_time_s": 10.0})
    home = tmp_path / "home"
    with detached(home, TOKENS[0]) as first:
        one = Session("pi5", first.running, "ann")
        one.open()
        job = one._job(case, plan, NONE, "latency", 0)
        job.job_id = "run.case.0.1"
        one._stub.Start(job, timeout=5, metadata=one._metadata())
        one._closed.set()
        one._channel.close()
        first.hang_up()
        time.sleep(1)
        with detached(home, TOKENS[1]) as second:
            other = Session(
                "pi5",
                second.running,
                "bob",
            )
            other.open(gone=lambda holder: holder == "ann")
            assert other.keeps("run.case.0.1") and not other.keeps("run.case.1.1")
            begun = (home / "jobs" / "run.case.0.1" / "events").stat().st_ino
            found = other.measure(case, plan, NONE, 0, "run.case.0.1")
            assert (found.ended.how, len(found.run_ns)) == ("ok", 8)
            assert (home / "jobs" / "run.case.0.1" / "events").stat().st_ino == begun
            other.acknowledge("run.case.0.1")
            other.close()
        assert wait_until(lambda: first.process.poll() == 0, 10)


def test_an_agent_of_another_build_makes_room(tmp_path: Path) -> None:
    """An idle one at once; one with a lease keeps the home, and says whose it is."""
    newer = tmp_path / "newer"
    shutil.copytree(ROOT / "agent", newer, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    with (newer / "pocketbench_agent" / "errors.py").open("a") as file:
        file.write("# newer\n")
    home = tmp_path / "home"
    with detached(home, TOKENS[0]) as first:
        one = Session("pi5", first.running, "ann")
        one.open()
        with detached(home, TOKENS[1], newer) as second:
            assert (second.process.wait(15), second.told["busy"]) == (3, "ann")
            assert 80 < second.told["left_s"] <= 90
        # The host is gone without a word.
        one._closed.set()
        one._stub.Lease(pb.LeaseRequest(op=pb.LeaseRequest.RENEW, epoch=one._epoch, ttl_s=1), metadata=one._metadata())
        one._channel.close()
        time.sleep(1.5)
        with detached(home, TOKENS[1], newer) as second:
            assert second.told["build"] != first.told["build"]
            assert first.process.wait(5) == 0


def test_an_agent_that_stands_still_is_busy(tmp_path: Path) -> None:
    """Nobody can be let in by it."""
    with detached(tmp_path, TOKENS[0]) as first:
        os.kill(first.process.pid, signal.SIGSTOP)
        with detached(tmp_path, TOKENS[1]) as second:
            assert (second.process.wait(15), second.told) == (3, {"busy": "another agent"})
        assert not list((tmp_path / "handover").iterdir())


def test_a_home_is_its_users_alone(tmp_path: Path) -> None:
    """One that others could look into is closed; one of another user is refused, with what to do."""
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    with detached(home, TOKENS[0]):
        assert home.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(home, 12345, 12345)
        with detached(home, TOKENS[0]) as refused:
            assert refused.process.wait(10) == 2
            assert "belongs to another user: name another folder with 'workdir'" in refused.told["error"]


def test_a_released_agent_does_not_keep_its_host_waiting(tmp_path: Path) -> None:
    """It is gone in about a second."""
    with detached(tmp_path, TOKENS[0]) as first:
        one = Session("pi5", first.running, "ann")
        one.open()
        one.close()
        assert wait_until(lambda: first.process.poll() == 0, 2.5)


def test_the_log_stays_small(tmp_path: Path) -> None:
    """One megabyte, and the one before."""
    log = tmp_path / "agent.log"
    log.write_bytes(b"x" * 999_990)
    with detached(tmp_path, TOKENS[0]) as first:
        assert first.told["port"]

        def serves() -> bool:
            # There is none for the moment between the old one's renaming and the new one's first line.
            with contextlib.suppress(FileNotFoundError):
                return "serving" in log.read_text()
            return False

        assert wait_until(serves, 5)
    assert log.stat().st_size < 1000
    assert {p.name for p in tmp_path.glob("agent.log*")} == {"agent.log", "agent.log.1"}


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
