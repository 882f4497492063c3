"""The emulated board through the command line: its own Python, ours beside it, and two other devices in one table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import SHARED, Bench
from tests.peers import board as boards
from tests.peers import phone as phones
from tests.peers.board import Board
from tests.slow.emulated import (
    BUNDLE_MISSING,
    ONNX,
    SHORT,
    TFLITE,
    WORKDIR,
    emulated,
    faithful,
    measured,
    needs_models,
    nothing_is_sent_again,
    on_board,
    register,
    sent,
)

MISSING = boards.why_not() or phones.why_not() or BUNDLE_MISSING
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    """With Debian's Python 3.11."""
    with boards.board() as started:
        yield started


def test_its_own_python(board: Board, ready: Bench) -> None:
    """The agent and what it needs travel, Python does not."""
    register(ready, board)
    first = measured(ready, "board", TFLITE, ONNX)
    assert sent(first) == ["the agent's packages", "the agent"]
    assert {r["environment"]["python"] for r in first.results} == {"3.11.2"}
    nothing_is_sent_again(ready, TFLITE)
    assert on_board(ready, f"ls {WORKDIR}/pythons/*/bin/python3 2>/dev/null") == ""


def test_the_bundle_though_it_has_python(board: Board, ready: Bench) -> None:
    """`python: bundle`."""
    register(ready, board, ", python: bundle")
    first = measured(ready, "board", TFLITE)
    # The agent itself is the same with either Python.
    assert sent(first)[0] == "the bundle"
    assert len(on_board(ready, f"ls {WORKDIR}/pythons/*/bin/python3").split()) == 1


@needs_models
def test_three_devices_in_one_table(board: Board, ready: Bench, tmp_path: Path) -> None:
    """A phone, a board and this machine: every row is OK, two are emulated, and all compute the same."""
    with phones.phone(log=tmp_path / "log") as phone:
        register(ready, board, "", f"  phone: {{transport: adb, address: '{phone.address}', adb: direct}}")
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
