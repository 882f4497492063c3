"""Progress on stderr: a bar with time left at a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_EVERY_S = 15.0
SENDING_EVERY_S = 5.0
WORKING_EVERY_S = 10.0


class Progress(Protocol):
    """What a lane reports to."""

    def begin(self, device: str, steps: int) -> None:
        """A device has so many steps before it."""

    def step(self, device: str, text: str) -> None:
        """One step begins."""

    def done(self, device: str, text: str) -> None:
        """The device is through."""

    def say(self, text: str) -> None:
        """A line for the user."""


class Lines:
    """Where stderr is no terminal: a line now and then, nothing animated."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._lanes: dict[str, list[float]] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()

    def begin(self, device: str, steps: int) -> None:
        """Remember when and how many."""
        self._lanes[device] = [time.monotonic(), float(steps), 0.0]

    def step(self, device: str, text: str) -> None:
        """Say where it stands, at most every 15 s."""
        with self._lock:
            begun, steps, finished = self._lanes[device]
            now = time.monotonic()
            if now - self._last >= LINE_EVERY_S:
                self._last = now
                left = f", about {duration((now - begun) / finished * (steps - finished))} left" if finished else ""
                self._print(f"{device}: {text} ({finished:.0f} of {steps:.0f} steps{left})")
            self._lanes[device][2] = finished + 1

    def done(self, device: str, text: str) -> None:
        """Say that it is through."""
        self.say(f"{device}: {text}")

    def say(self, text: str) -> None:
        """A line."""
        with self._lock:
            self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Bars:
    """At a terminal: one bar a device."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.fields[device]}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, device: str, steps: int) -> None:
        """A new bar."""
        self._tasks[device] = (self._bars.add_task("", total=steps, device=device), 0)

    def step(self, device: str, text: str) -> None:
        """The step before is finished, this one begins."""
        task, started = self._tasks[device]
        self._bars.update(task, description=_escaped(text), completed=started)
        self._tasks[device] = (task, started + 1)

    def done(self, device: str, text: str) -> None:
        """The bar is full."""
        if device in self._tasks:
            task, _ = self._tasks[device]
            total = next(t.total for t in self._bars.tasks if t.id == task)
            self._bars.update(task, description=_escaped(text), completed=total)
        else:
            self.say(f"{device}: {text}")

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)


def create() -> Lines | Bars:
    """Bars at a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()


def sending(say: Callable[[str], None], doing: str, total: int) -> Callable[[int], None]:
    """To be called with the bytes sent so far."""
    return _left(say, f"{doing}:", total, SENDING_EVERY_S, lambda so_far: f"{so_far / 1e6:.1f} of {megabytes(total)}")


def working(say: Callable[[str], None], doing: str, total: int | None) -> Callable[[int], None]:
    """To be called with how many of `total` are done; None where nobody knows how many there will be."""
    of = f" of {total}" if total is not None else " so far"
    return _left(say, doing, total, WORKING_EVERY_S, lambda so_far: f"{so_far}{of}")


def _left(
    say: Callable[[str], None], doing: str, total: int | None, every_s: float, how_far: Callable[[int], str]
) -> Callable[[int], None]:
    """Says now and then how far it is, and for how long it will go on."""
    begun = told = time.monotonic()

    def done(so_far: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < every_s or so_far <= 0 or (total is not None and so_far >= total):
            return
        told = now
        left = "" if total is None else f", about {duration((now - begun) / so_far * (total - so_far))} left"
        say(f"{doing} {how_far(so_far)}{left}")

    return done


@contextlib.contextmanager
def alive(say: Callable[[str], None], doing: str) -> Iterator[None]:
    """Around one long call into a library that does not tell how far it is: says now and then that it goes on."""
    ended, begun = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(WORKING_EVERY_S):
            say(f"{doing}: {duration(time.monotonic() - begun)} so far")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def megabytes(size: int) -> str:
    """For people: 36 MB, 0.1 MB."""
    return f"{size / 1e6:.0f} MB" if size >= 10_000_000 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """For people: 12 s, 3 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
