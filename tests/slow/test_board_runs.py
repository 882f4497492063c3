"""The emulated board through the command line: with Python, without, and beside two other devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pocketbench.config.devices import load
from pocketbench.transports.ssh import Ssh
from tests.integration.conftest import SHARED, Bench
from tests.peers import board as boards
from tests.peers import phone as phones
from tests.peers.board import Board
from tests.slow.emulated import BUNDLE_MISSING, SENDING, SHORT, emulated, faithful, measured, needs_models

MISSING = boards.why_not() or phones.why_not() or BUNDLE_MISSING
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(600)]
# What takes one minute takes several where others use the machine.
TIMEOUT_S = 540
WORKDIR = "/root/.cache/pocketbench"


@pytest.fixture(scope="module")
def with_python() -> Iterator[Board]:
    """A board with Debian's Python 3.11."""
    with boards.board() as started:
        yield started


@pytest.fixture(scope="module")
def without_python() -> Iterator[Board]:
    """A board without any."""
    with boards.board(python=False) as started:
        yield started


@pytest.fixture
def ready(bench: Bench, cache: Path) -> Bench:
    """A bench with the suite's cache."""
    bench.environment["XDG_CACHE_HOME"] = str(cache)
    bench.timeout_s = TIMEOUT_S
    return bench


def register(bench: Bench, to: Board, more: str = "", *lines: str) -> None:
    """Write devices.yaml."""
    where = f"host: 127.0.0.1, port: {to.port}, user: {to.user}, key: {to.key}"
    entry = f'  board: {{transport: ssh, {where}, host_key: "{to.host_key}"{more}}}'
    (bench.home / "devices.yaml").write_text("\n".join(["devices:", entry, *lines, ""]))


def on_board(bench: Bench, script: str) -> str:
    """What a shell there says."""
    ssh = Ssh("board", load(bench.home / "devices.yaml")["board"])
    ssh.open()
    with closing(ssh):
        return ssh.run(["sh", "-c", script], 60).stdout.decode()


def kept(bench: Bench) -> str:
    """What lies in the board's work folder for good, with its times."""
    folders = " ".join(f"{WORKDIR}/{name}" for name in ("pythons", "agents", "home/runtimes", "home/blobs"))
    return on_board(bench, f"ls -l --full-time {folders} 2>/dev/null")


def nothing_is_sent_again(bench: Bench) -> None:
    """A second run finds what the first one left."""
    left = kept(bench)
    assert "blobs" in left
    second = measured(bench, "board")
    assert "sending" not in second.stderr
    assert kept(bench) == left


def test_its_own_python(with_python: Board, ready: Bench) -> None:
    """The agent travels, Python does not."""
    register(ready, with_python)
    first = measured(ready, "board")
    assert SENDING.findall(first.stderr) == ["the agent"]
    assert {r["environment"]["python"] for r in first.results} == {"3.11.2"}
    nothing_is_sent_again(ready)
    assert on_board(ready, f"ls {WORKDIR}/pythons") == ""


def test_the_bundle_though_it_has_python(with_python: Board, ready: Bench) -> None:
    """`python: bundle`."""
    register(ready, with_python, ", python: bundle")
    first = measured(ready, "board")
    assert SENDING.findall(first.stderr) == ["the bundle", "the agent"]
    assert len(on_board(ready, f"ls {WORKDIR}/pythons").split()) == 1


@needs_models
def test_three_devices_in_one_table(with_python: Board, ready: Bench, tmp_path: Path) -> None:
    """A phone, a board and this machine: every row is OK, two are emulated, and all compute the same."""
    with phones.phone(log=tmp_path / "log") as phone:
        register(ready, with_python, "", f"  phone: {{transport: adb, address: '{phone.address}', adb: direct}}")
        devices = ("--device", "phone", "--device", "board", "--device", "local")
        command = (*devices, "--model", SHARED / "tflite" / "mobilenet_v1_0.25_128_quant.tflite", *SHORT)
        done = ready(*command, "--output", ready.home / "table.txt")
        assert done.code == 0, done.stderr
    assert (tmp_path / "log").read_text() == ""
    table = (ready.home / "table.txt").read_text()
    rows = re.findall(r"^ *\d+ +(phone|board|local)\b.* (\w+) ", table, re.MULTILINE)
    assert rows == [(name, "OK") for name in ("phone", "board", "local")], table
    assert "(emulated)" in re.search(r"^notes: .*$", table, re.MULTILINE)[0]  # type: ignore[index]
    for result in ready("history", "--format", "json").doc:
        (faithful if result["device"] == "local" else emulated)(result)


def test_no_python_at_all(without_python: Board, ready: Bench) -> None:
    """The bundle serves, without being asked for."""
    register(ready, without_python)
    first = measured(ready, "board")
    assert SENDING.findall(first.stderr) == ["the bundle", "the agent"]
    assert on_board(ready, "command -v python3") == ""
    nothing_is_sent_again(ready)
