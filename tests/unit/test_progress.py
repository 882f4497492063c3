"""Progress where stderr is no terminal: a few plain lines."""

from __future__ import annotations

import io
import threading
import time
from types import SimpleNamespace

import pytest

from pocketbench.fleet import progress
from pocketbench.fleet.progress import Lines


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


def test_a_line_at_most_every_fifteen_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with Lines(stream) as lines:
        lines.begin("pi5", 5)
        lines.step("pi5", "round 1")
        clock.now += 15
        lines.step("pi5", "round 2")
        clock.now += 14.9
        lines.step("pi5", "round 3")
        clock.now += 0.1
        lines.step("pi5", "round 4")
        lines.done("pi5", "done, 1 of 1 cases")
    assert stream.getvalue().splitlines() == [
        "pi5: round 2 (1 of 5 steps, about 60 s left)",
        "pi5: round 4 (3 of 5 steps, about 20 s left)",
        "pi5: done, 1 of 1 cases",
    ]


def test_devices_share_the_interval_but_not_their_steps(clock: Clock) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.begin("a", 2)
    lines.begin("b", 100)
    clock.now += 20
    lines.step("a", "one")
    lines.step("b", "one")
    clock.now += 20
    lines.step("b", "two")
    assert stream.getvalue().splitlines() == [
        "a: one (0 of 2 steps)",
        "b: two (1 of 100 steps, about 66 min left)",
    ]


def test_nothing_coloured_or_animated() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.say("stopping")
    lines.done("never begun", "done")
    assert stream.getvalue() == "stopping\nnever begun: done\n"


def test_lines_of_several_lanes_stay_whole() -> None:
    stream = io.StringIO()
    lines = Lines(stream)

    def say(letter: str) -> None:
        for _ in range(50):
            lines.say(letter * 40)

    threads = [threading.Thread(target=say, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stream.getvalue().splitlines()
    assert len(found) == 200
    assert {line for line in found} == {c * 40 for c in "abcd"}


def test_lines_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(progress.create(), Lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_long_work_says_how_far_it_is_and_how_long_it_will_go_on(clock: Clock) -> None:
    said: list[str] = []
    done = progress.working(said.append, "calibration: sample", 40)
    for count in range(41):
        done(count)
        clock.now += 3.0
    assert said[0] == "calibration: sample 4 of 40, about 2 min left"
    assert said[-1] == "calibration: sample 36 of 40, about 12 s left"


def test_where_nobody_knows_how_much_there_is_no_time_left_is_made_up(clock: Clock) -> None:
    said: list[str] = []
    done = progress.working(said.append, "accuracy: inference", None)
    for count in (1, 50, 90):
        clock.now += 7.0
        done(count)
    assert said == ["accuracy: inference 50 so far"]


def test_a_call_that_does_not_tell_is_alive_as_long_as_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WORKING_EVERY_S", 0.01)
    said: list[str] = []
    told = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        told.set()

    with progress.alive(say, "net: fp32 for tflite"):
        assert told.wait(10)
    count = len(said)
    assert said[0] == "net: fp32 for tflite: 0 s so far"
    time.sleep(0.05)
    assert len(said) == count


def test_what_is_sent_says_how_far_it_is(clock: Clock) -> None:
    """Nothing where it is quick; every five seconds with the time left where it is not."""
    said: list[str] = []
    sent = progress.sending(said.append, "phone: sending the bundle", 36_000_000)
    for so_far in range(0, 36_000_001, 1_000_000):
        sent(so_far)
        clock.now += 1.0
    assert said[0] == "phone: sending the bundle: 5.0 of 36 MB, about 31 s left"
    assert len(said) == 7
