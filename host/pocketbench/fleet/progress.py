"""Progress on stderr: a bar with time left at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_EVERY_S = 15.0
SENDING_EVERY_S = 5.0


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
    """To be called with the bytes sent so far: says now and then how far it is, and for how long it will go on."""
    begun = told = time.monotonic()

    def sent(so_far: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= SENDING_EVERY_S and 0 < so_far < total:
            told = now
            left = duration((now - begun) / so_far * (total - so_far))
            say(f"{doing}: {so_far / 1e6:.1f} of {megabytes(total)}, about {left} left")

    return sent


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
