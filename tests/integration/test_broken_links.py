"""Links that break, hosts that die and devices that start anew, over a real SSH server: nothing is measured twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import TIMEOUT_S, Bench, wait_until, workers
from tests.peers.faults import Faults, faults
from tests.peers.sshd import SSHD, sshd

pytestmark = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="needs root and Debian's openssh-server: apt-get install openssh-server"
)
# Three processes of about two seconds.
PLAN = ("--processes", "3", "--min-runs", "8", "--min-time", "1.2", "--cooldown", "0", "--format", "json")


@pytest.fixture
def link(tmp_path: Path, bench: Bench) -> Iterator[Faults]:
    """The device `board`, behind a proxy that can spoil its link."""
    with sshd(tmp_path / "server") as server, faults(server.port) as proxy:
        host_key = server.host_key.with_suffix(".pub").read_text().strip()
        (tmp_path / "devices.yaml").write_text(
            f"devices:\n  board:\n    transport: ssh\n    host: 127.0.0.1\n    port: {proxy.port}\n"
            f"    user: {server.user}\n    key: {server.key}\n    host_key: {host_key}\n"
            f"    workdir: {tmp_path / 'board'}\n    python: {shutil.which('python3', path='/usr/bin')}\n"
            f"    env: {{HOME: {tmp_path}, POCKETBENCH_ROOT: {tmp_path / 'root'}}}\n"
        )
        boot(bench, "first")
        yield proxy


def boot(bench: Bench, name: str) -> None:
    """What the device says of its boot."""
    path = bench.home / "root" / "proc" / "sys" / "kernel" / "random" / "boot_id"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)


def log(bench: Bench) -> str:
    """The agent's."""
    path = bench.home / "board" / "home" / "agent.log"
    return path.read_text() if path.exists() else ""


def begun(bench: Bench) -> Counter[str]:
    """How often each timed job was begun."""
    return Counter(re.findall(r"job (\S+\.\d+\.\d+) begins", log(bench)))


def in_the_middle(bench: Bench, ended: int = 1) -> bool:
    """So many timed jobs have ended, and another runs."""
    done = len(re.findall(r"job \S+\.\d+\.\d+ ended", log(bench)))
    return done >= ended and sum(begun(bench).values()) > done and bool(workers(bench))


def collected(bench: Bench, process: subprocess.Popen[str]) -> str:
    """The run ended well, and each of its jobs was run once."""
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)["results"][0]
    assert (result["status"], result["attempt"], result["latency_ms"]["processes"]) == ("OK", 1, 3)
    assert set(begun(bench).values()) == {1} and len(begun(bench)) == 3
    return stderr


def test_a_link_that_is_cut(bench: Bench, link: Faults) -> None:
    """Again and again, in the middle of a job: it goes on, and is collected over a new link."""
    process = bench.start("--device", "board", "--model", bench.null(sleep_ms=10), *PLAN)
    for ended in range(3):
        assert wait_until(lambda ended=ended: in_the_middle(bench, ended), 90), log(bench)  # type: ignore[misc]
        link.cut()
    collected(bench, process)


def test_a_host_that_is_killed_and_resumed(bench: Bench, link: Faults) -> None:
    """At once, while the device still works for the dead one."""
    arguments = ("--device", "board", "--model", bench.null(sleep_ms=10), *PLAN)
    process = bench.start(*arguments)
    assert wait_until(lambda: in_the_middle(bench), 90), log(bench)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    collected(bench, bench.start(*arguments, "--resume"))


def test_a_device_that_was_started_anew(bench: Bench, link: Faults) -> None:
    """Its case is lost, and says why; --resume runs what is missing."""
    arguments = ("--device", "board", "--device", "local", "--model", bench.null(sleep_ms=10), *PLAN)
    process = bench.start(*arguments)
    assert wait_until(lambda: in_the_middle(bench), 90), log(bench)
    boot(bench, "second")
    for pid in bench.agents():
        if str(bench.home / "board") in (Path("/proc") / str(pid) / "cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    link.cut()
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    results = {result["device"]: result for result in json.loads(stdout)["results"]}
    assert (process.returncode, results["board"]["status"], results["local"]["status"]) == (3, "LOST", "OK"), stderr
    assert "was started anew while it was measured" in results["board"]["reasons"][0]["message"]
    assert "1 case(s) lost, or never reached: the same command with --resume measures them" in stderr
    kept = results["local"]["id"]
    stdout, stderr = bench.start(*arguments, "--resume").communicate(timeout=TIMEOUT_S)
    results = {result["device"]: result for result in json.loads(stdout)["results"]}
    assert {result["status"] for result in results.values()} == {"OK"}, stderr
    assert results["local"]["id"] == kept, "what is measured is not measured again"
    assert bench(*arguments, "--resume").code == 2, "there is nothing left to resume"


def test_ctrl_c_while_a_device_is_waited_for(bench: Bench, link: Faults) -> None:
    """It answers no more, and nobody waits until that is certain: what was measured is kept."""
    process = bench.start("--device", "board", "--model", bench.null(sleep_ms=10), *PLAN)
    assert wait_until(lambda: in_the_middle(bench), 90), log(bench)
    link.hole = True
    link.cut()
    assert process.stderr is not None
    for line in process.stderr:
        if "waiting for it" in line:
            break
    time.sleep(1.0)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, time.monotonic() - begin < 4.0) == (130, True), stderr
    assert "the same command with --resume goes on" in stderr
    link.hole = False
    collected(bench, bench.start("--device", "board", "--model", bench.null(sleep_ms=10), *PLAN, "--resume"))
