"""The agent installs and runs alone, on the oldest Python that it promises, without the host's dependencies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT

# What a host would do, in the agent's own environment: hello, lease, upload, start, watch, acknowledge.
PROGRAM = """
import hashlib, json, subprocess, sys, importlib.util
import grpc
from pocketbench_agent.rpc import agent_pb2 as pb, agent_pb2_grpc as rpc
foreign = [m for m in ("pocketbench", "torch", "pydantic", "click", "rich", "sqlalchemy", "paramiko")
           if importlib.util.find_spec(m)]
agent = subprocess.Popen([sys.executable, "-m", "pocketbench_agent", "--home", sys.argv[1], "--end-with-stdin"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
agent.stdin.write("secret\\n"); agent.stdin.flush()
told = json.loads(agent.stdout.readline())
stub = rpc.AgentStub(grpc.insecure_channel("127.0.0.1:%d" % told["port"]))
meta = (("token", "secret"),)
hello = stub.Hello(pb.HelloRequest(protocol_min=1, protocol_max=1), metadata=meta, wait_for_ready=True)
epoch = stub.Lease(pb.LeaseRequest(op=0, owner="x", ttl_s=60), metadata=meta).epoch
meta += (("epoch", str(epoch)),)
data = b"{}"
sha = hashlib.sha256(data).digest()
stub.PutBlob(iter([pb.Chunk(sha256=sha, offset=0, data=data, total=len(data))]), metadata=meta)
job = pb.Job(job_id="j", files=[pb.File(path="m.null", sha256=sha)], program=pb.Program(runtime="null"),
             plan=pb.Plan(min_runs=20, max_runs=20, max_time_s=1, warm_up_max_time_s=0.1), phase="latency")
stub.Start(job, metadata=meta)
events = list(stub.Watch(pb.JobRef(job_id="j", from_seq=1), metadata=meta))
stub.Acknowledge(pb.JobRef(job_id="j"), metadata=meta)
agent.stdin.close()
code = agent.wait(20)
timed = [len(e.samples.run_ns) for e in events if e.samples.phase == "timed"]
print(json.dumps({"foreign": foreign, "how": events[-1].ended.how, "timed": timed, "code": code,
                  "python": hello.device.python, "runtimes": list(hello.runtimes)}))
"""


def oldest_python() -> str:
    """Python 3.10 where it can be found, else the one that runs the tests."""
    candidates = [shutil.which("python3.10"), *Path.home().glob(".pyenv/versions/3.10.*/bin/python")]
    for candidate in filter(None, candidates):
        works = subprocess.run([str(candidate), "-c", "import venv, ensurepip"], capture_output=True, check=False)
        if works.returncode == 0:
            return str(candidate)
    return sys.executable


def test_it_installs_and_measures_alone(tmp_path: Path) -> None:
    """A fresh virtual environment with `pip install ./agent` and nothing else."""
    python = oldest_python()
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    inside = str(tmp_path / "venv" / "bin" / "python")
    source = tmp_path / "agent"
    shutil.copytree(ROOT / "agent", source, ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache"))
    command = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(source)]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode and "Could not find a version" in installed.stderr:
        pytest.skip(f"no package index here: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    done = subprocess.run(
        [inside, "-c", PROGRAM, str(tmp_path / "home")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["foreign"] == []
    assert (told["how"], told["timed"], told["code"]) == (0, [20], 0)
    assert told["runtimes"] == ["null"]
