"""What must not be trusted: names, models, and an agent that answers something else than the truth."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.conftest import OK, QUICK, Lab
from tests.integration.conftest import DIGITS, ROOT

SKIPPED = ("SKIPPED", "not_available")
HTML = "<script>alert(1)</script>"


def on_a(lab: Lab, *more: object) -> tuple[object, ...]:
    """A quick run on device `a` alone."""
    return ("--device", "a", "--model", lab.bench.null("m", sleep_ms=1), *QUICK, *more)


@pytest.mark.parametrize(
    "name",
    [
        "-rf",
        "--help",
        "$(touch pwned)",
        "a\nb",
        "\x1b[31mred",
        "..",
        "..m",
        " ",
        "m;id",
        "x" * 240,
        HTML[:8] + "b>",
        "&",
    ],
)
def test_names_of_models(lab: Lab, name: str) -> None:
    """Labels, whatever they hold."""
    lab.bench.null(name, sleep_ms=1)
    lab.check(lab.start("--device", "local", f"--model={lab.home / name}.null", *QUICK), 0, {name: OK})
    assert not list(lab.home.rglob("pwned"))


def test_a_model_behind_a_link(lab: Lab) -> None:
    """A symbolic link is followed, and its own name is the label; one that leads nowhere is found before."""
    (lab.home / "far").mkdir()
    lab.bench.null("far/m", sleep_ms=1)
    (lab.home / "near.null").symlink_to("far/m.null")
    (lab.home / "round.null").symlink_to("round.null")
    lab.check(lab.start("--device", "local", "--model", "near.null", *QUICK), 0, {"near": OK})
    lab.check(lab.start("--device", "local", "--model", "round.null", *QUICK), 2, {})
    lab.check(lab.start("--device", "local", "--model", "x" * 5000 + ".null", *QUICK), 2, {})


def test_a_model_with_another_kind_of_content(lab: Lab) -> None:
    """Pipes, sockets and devices of the system are no models: found before anything runs, and not read for ever."""
    os.mkfifo(lab.home / "pipe.null")
    (lab.home / "zero.null").symlink_to("/dev/zero")
    for name in ("pipe.null", "zero.null"):
        begin = time.monotonic()
        lab.check(lab.start("--device", "local", "--model", name, *QUICK), 2, {})
        assert time.monotonic() - begin < 30


def test_models_that_are_broken(lab: Lab) -> None:
    """Cut, turned and exchanged: each its own case, and the whole one beside them is measured."""
    wanted: dict[str, tuple[str, str | None]] = {"good": OK}
    lab.bench.null("good", sleep_ms=1)
    arguments: list[object] = ["--model", "good.null"]
    for suffix in ("tflite", "onnx"):
        whole = (DIGITS / f"digits-int8.{suffix}").read_bytes()
        turned = bytes(byte ^ 0xFF if 4 <= place < 200 else byte for place, byte in enumerate(whole))
        for name, data in (("cut", whole[:3000]), ("turned", turned), ("noise", os.urandom(9000))):
            (lab.home / f"{name}-{suffix}.{suffix}").write_bytes(data)
            arguments += ["--model", f"{name}-{suffix}.{suffix}"]
            wanted[f"{name}-{suffix}"] = ("FAILED", "load_failed")
    lab.check(lab.start("--device", "local", *arguments, *QUICK), 3, wanted)


def agent(lab: Lab, code: str) -> None:
    """Device `a`, whose agent runs that first."""
    lab.devices(a={"env": lab.lying(code)}, b={})


def worker(lab: Lab, code: str) -> None:
    """Device `a`, whose workers run that first."""
    lab.devices(a={"env": lab.lying(code, "pocketbench_agent.worker")}, b={})


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port with something else behind it."""
    stop = threading.Event()

    def accept() -> None:
        while not stop.is_set():
            try:
                link, _ = server.accept()
            except TimeoutError:
                continue
            with link:
                link.settimeout(1)
                try:
                    serve(link)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


SAYS = "import sys; sys.stdin.readline(); print({!r}, flush=True); sys.stdin.read(); sys.exit()"
HANDSHAKES = {
    "nothing": "import sys; sys.exit(1)",
    "no JSON": SAYS.format("Segmentation fault"),
    "another JSON": SAYS.format("[1, 2]"),
    "no port": SAYS.format('{"port": null}'),
    "a port that is none": SAYS.format('{"port": 99999}'),
    "an odd port": SAYS.format('{"port": "80"}'),
    "an error that is no text": SAYS.format('{"error": {"a": [1]}}'),
    "a line without an end": "import sys; sys.stdin.readline(); sys.stdout.write('x' * 50_000_000); sys.exit()",
    "bytes that are no text": "import os, sys\nsys.stdin.read(1); os.write(1, b'\\xff\\xfe\\x1b[31m\\n'); sys.exit()",
    "html": SAYS.format(f'{{"error": "{HTML}"}}'),
    "deep": SAYS.format("[" * 100_000),
}


@pytest.mark.parametrize("code", HANDSHAKES.values(), ids=HANDSHAKES.keys())
def test_a_handshake_that_is_none(lab: Lab, code: str) -> None:
    """SKIPPED, in a line, and no control character of it reaches the terminal."""
    agent(lab, code)
    ended = lab.check(lab.start(*on_a(lab)), 3, {"m": SKIPPED})
    assert len(ended.stderr) < 2000 and "\x1b" not in ended.stderr


def test_an_agent_behind_a_port_that_is_somebody_elses(lab: Lab) -> None:
    """A stale forward, say: what answers there does not know the token, or is no agent at all."""
    with listener(lambda link: link.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + link.recv(100))) as port:
        agent(lab, SAYS.format(f'{{"port": {port}, "build": "x"}}'))
        soon = "import pocketbench.session.session as session\nsession.CALL_TIMEOUT_S = 4.0\n"
        lab.bench.environment.update(lab.lying(soon, "pocketbench"))
        lab.check(lab.start(*on_a(lab)), 3, {"m": SKIPPED})


def test_an_agent_with_another_token(lab: Lab) -> None:
    """Neither its host nor anybody else is let in without the token of the session."""
    code = """
import pocketbench_agent.server as server
guard = server.Guard
server.Guard = lambda token: guard(token + "-another")
"""
    agent(lab, code)
    ended = lab.check(lab.start(*on_a(lab)), 3, {"m": SKIPPED})
    assert "does not accept this session's token" in ended.stderr


@pytest.mark.parametrize("versions", [(7, 9), (0, 0)])
def test_an_agent_of_another_protocol(lab: Lab, versions: tuple[int, int]) -> None:
    """Newer or older than any that this host speaks: SKIPPED, with both."""
    low, high = versions
    code = f"import pocketbench_agent as a\na.PROTOCOL_MIN, a.PROTOCOL_MAX = {low}, {high}"
    agent(lab, code)
    ended = lab.check(lab.start(*on_a(lab)), 3, {"m": SKIPPED})
    assert f"the agent speaks protocol {low} to {high}" in ended.stderr


# What a device may answer in place of the truth, as code that wraps what the real agent would have said.
LIES = {
    "an absurd device": """
import pocketbench_agent.device_info as d
from dataclasses import replace
real = d.device_info
d.device_info = lambda home: replace(real(home), model="<script>alert(1)</script>" * 40_000, soc="../../x",
    os="a\\x1b[31mb", cpu="x" * 1_000_000, cpus=4_000_000_000, free_bytes=2**63, boot_id="\\x00",
    fingerprint="'; drop table result; --")
""",
    "observations without sense": """
import pocketbench_agent.observe as o
from pocketbench_agent.rpc import agent_pb2 as pb
def lies(window, meters):
    return [pb.Reading(source="x" * 100_000, quantity=q, t_ns=[0, -(2**63), 2**62], value=[2**62, -(2**62), v])
            for q in ("temperature", "load_avg", "busy", "frequency", "cooling", "") for v in (-1, 2**62)]
o.observe = lies
""",
    "blobs that are more": """
import pocketbench_agent.cache as c
c.BlobCache.committed = lambda self, sha256: (2**62, False)
""",
    "more answers than questions": """
from pocketbench_agent.rpc import agent_pb2 as pb
import pocketbench_agent.server as s
s.Agent.HaveBlobs = lambda self, request, context: pb.BlobStates(blobs=[pb.BlobState(complete=True)] * 1000)
""",
    "a lease of nobody": """
from pocketbench_agent.rpc import agent_pb2 as pb
import pocketbench_agent.server as s
s.Agent.Lease = lambda self, r, c: pb.LeaseReply(epoch=0, holder="<b>\\x1b[31m" * 10_000, left_s=4_000_000_000)
""",
    "an answer that is too large": """
from pocketbench_agent.rpc import agent_pb2 as pb
import pocketbench_agent.server as s
s.Agent.Clock = s.Agent.Observe = lambda self, r, c: pb.Observation(boot_id="x" * 300_000_000)
""",
}


# What is only shown or read as a sensor is cut or dropped; what the session stands on ends it.
BELIEVED = ("an absurd device", "observations without sense")


@pytest.mark.parametrize("lie", LIES)
def test_an_agent_that_answers_anything(lab: Lab, lie: str) -> None:
    """The case ends with a status of its own, the one beside it is measured, and reports stay reports."""
    agent(lab, LIES[lie])
    running = lab.start("--device", "b", *on_a(lab))
    stdout, stderr = running.process.communicate(timeout=90)
    results = {one["device"]: one for one in json.loads(stdout)["results"]}
    assert "Traceback" not in stderr and "a defect of pocketbench" not in stderr, stderr
    busy = lie == "a lease of nobody"
    expected = OK if lie in BELIEVED else ("SKIPPED", "device_busy") if busy else ("LOST", "device_lost")
    assert (results["b"]["status"], ended(results["a"])) == ("OK", expected)
    assert running.process.returncode == (0 if expected == OK else 3)
    assert "\x1b" not in stderr and len(stderr) < 20_000 and len(stdout) < 200_000
    for form in ("table", "markdown"):
        told = lab.bench("history", "--format", form) if form == "table" else lab.bench("compare", *ids(results))
        assert "Traceback" not in told.stderr and "\x1b" not in told.stdout and len(told.stdout) < 20_000
    lab.nothing_is_left(leaves=("jobs", "lease"))


def ended(result: dict[str, Any]) -> tuple[str, str | None]:
    """Status, and the reason of what is not ranked."""
    return result["status"], next((one["code"] for one in result["reasons"] if one["severity"] == "invalid"), None)


def ids(results: dict[str, dict[str, str]]) -> list[str]:
    """Of two results."""
    return [results[name]["id"] for name in ("a", "b")]


# Events of a worker that does not tell the truth; each is sent in place of the timed samples.
EVENTS = {
    "times beyond all bounds": "samples=pb.Samples(phase='timed', run_ns=[2**64 - 1] * 50, io_ns=[2**64 - 1] * 50)",
    "fewer copies than runs": "samples=pb.Samples(phase='timed', run_ns=[10**6] * 50, io_ns=[1], at_ns=[3] * 9)",
    "no times": "samples=pb.Samples(phase='timed')",
    "millions of samples": "samples=pb.Samples(phase='timed', run_ns=[10**6] * 5_000_000, io_ns=[1] * 5_000_000)",
    "one in none": "samples=pb.Samples(phase='timed', run_ns=[10**6] * 50, io_ns=[1] * 50, every=2**32 - 1)",
    "shapes without end": "facts=pb.ModelFacts(outputs=[pb.TensorInfo(name='../../x', dtype='object', "
    "shape=[2**62] * 64)] * 1000, runtime_version='<script>' * 9000)",
    "scales of nothing": "facts=pb.ModelFacts(inputs=[pb.TensorInfo(name='x', dtype='float32', shape=[-1, -4], "
    "scale=[float('nan'), float('inf')], zero_point=[-2**63])])",
    "statistics of nothing": "statistics=pb.Statistics(phase='timed', runs=2**63, median_ns=float('nan'), "
    "min_ns=float('-inf'), mean_ns=-1.0)",
    "nodes beyond all": "placed=pb.Placed(known=True, nodes=1, delegated=2**32 - 1, partitions=2**32 - 1, "
    "on_cpu={'<b>' + 'x' * 1000 + str(i): 2**32 - 1 for i in range(2000)}, used='<script>alert(1)</script>')",
    "sensors that are wild": "reading=pb.Reading(source='thermal', quantity='temperature', unit='millicelsius', "
    "t_ns=[1], value=[1, 2, 2**62, -2**62])",
    "outputs that are none": "outputs=pb.OutputFacts(outputs=[pb.OutputFact(name='x' * 10**6, values=0, nan=2**63)])",
    "synchronised with nothing": "synchronisation=pb.Synchronisation(run_ns=[2**63], read_ns=[], reread_ns=[1, 2])",
    "a warm-up of ever": "warm_up=pb.WarmUp(runs=2**64 - 1, steady=True)",
    "an end that is none": "ended=pb.Ended(how=99, stage='<script>' * 9000, message='\\x1b[31m' * 9000, signal=-9)",
}


@pytest.mark.parametrize("lie", EVENTS)
def test_a_worker_that_says_anything(lab: Lab, lie: str) -> None:
    """The same for what it measured: the case fails with what it said, and no defect of ours."""
    event = EVENTS[lie]
    code = f"""
import pocketbench_agent.emitter as e
from pocketbench_agent.rpc import agent_pb2 as pb
real = e.Emitter.send
def send(self, **what):
    if "samples" in what and what["samples"].phase == "timed":
        real(self, {event})
        if {event.startswith(("samples", "statistics"))}:
            return
    real(self, **what)
e.Emitter.send = send
"""
    worker(lab, code)
    running = lab.start(*on_a(lab))
    stdout, stderr = running.process.communicate(timeout=90)
    (result,) = json.loads(stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["results"]
    assert "Traceback" not in stderr and "a defect of pocketbench" not in stderr, stderr
    assert ended(result) == (("INVALID", "too_few_samples") if lie == "no times" else ("FAILED", "run_failed"))
    assert running.process.returncode == 3 and result["latency_ms"] is None
    assert "\x1b" not in stderr and len(stderr) < 20_000
    lab.nothing_is_left()


def test_html_shows_what_a_device_says_as_text(lab: Lab) -> None:
    """In the page of a night: no tag of a device's, of a model's or of a message is one of ours."""
    lab.bench.null("m", sleep_ms=1, fail={"stage": "load", "message": HTML})
    (lab.home / "s.yaml").write_text(
        "suite: s\ndevices: [local]\nmeasure:\n  - models: [m.null]\n"
        "plan: {processes: 1, min_runs: 8, max_runs: 8, min_time_s: 0, max_time_s: 1, cooldown_s: 0}\n"
    )
    page = lab.home / "page.html"
    assert lab.bench("suite", "nightly", "s.yaml", "--html", page).code == 3
    text = page.read_text()
    assert HTML not in text and "&lt;script&gt;alert(1)" in text


def test_the_house_is_where_it_was() -> None:
    """No name and no path of a test has led out of its folder."""
    assert not list(ROOT.glob("pwned*")) and not list(ROOT.parent.glob("pwned*"))
