"""What the fleet does when a lane has a defect."""

from __future__ import annotations

from typing import Any

from pocketbench.fleet import fleet


class Broken:
    """A lane that raises, and the progress that it reports to."""

    device = "pi5"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.progress: Any = self

    def say(self, text: str) -> None:
        self.said.append(text)

    def run(self) -> None:
        raise ValueError("x\x1b")


def test_a_lane_that_raises_says_so_at_once() -> None:
    """The others may go on for an hour."""
    lane, errors = Broken(), list[BaseException]()
    fleet._guarded(lane, errors)  # type: ignore[arg-type]
    assert lane.said == ["pi5: ended by ValueError: x\\x1b"]
    assert len(errors) == 1
