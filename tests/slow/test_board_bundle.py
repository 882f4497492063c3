"""The emulated board without Python through the command line: the bundle serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import Bench
from tests.peers import board as boards
from tests.peers.board import Board
from tests.slow.emulated import (
    BUNDLE_MISSING,
    ONNX,
    TFLITE,
    measured,
    nothing_is_sent_again,
    on_board,
    register,
    sent,
)

MISSING = boards.why_not() or BUNDLE_MISSING
pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    """One that has none."""
    with boards.board(python=False) as started:
        yield started


def test_no_python_at_all(board: Board, ready: Bench) -> None:
    """The bundle serves, without being asked for."""
    register(ready, board)
    first = measured(ready, "board", TFLITE, ONNX)
    assert sent(first) == ["the bundle", "the agent"]
    assert on_board(ready, "command -v python3") == ""
    nothing_is_sent_again(ready, TFLITE)
