"""What a spawned process says: lines of stdout as they come, the last lines of stderr."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from pocketbench.errors import NotReachable

LOG_LINES = 40
# What is longer is no line of ours: it is cut into several.
MAX_LINE = 65_536
# Nobody has read them yet: the process is not heard any further until somebody has.
MAX_UNREAD = 1_000
LOOK_S = 0.2


class Readable(Protocol):
    """A stream of a process, or of paramiko."""

    def readline(self, size: int, /) -> str | bytes:
        """The next line, or so much of it."""


def lines(stream: Readable) -> Iterator[str]:
    """All of its lines, the longest cut: whoever writes without an end fills no memory here."""
    while text := stream.readline(MAX_LINE):
        yield text.decode(errors="replace") if isinstance(text, bytes) else text


class Output:
    """Filled by a transport's reader threads, read by whoever spawned."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lines: queue.Queue[str] = queue.Queue(MAX_UNREAD)
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._unheard = threading.Event()

    def read_line(self, timeout_s: float) -> str:
        """The next line of stdout with its line feed, empty at its end; NotReachable after the timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self._lines.get(timeout=max(0.0, min(LOOK_S, deadline - time.monotonic())))
            except queue.Empty:
                if self._unheard.is_set():
                    return ""
                if time.monotonic() >= deadline:
                    raise NotReachable(f"{self._device}: the agent said nothing for {timeout_s:.0f} s") from None

    def unheard(self) -> None:
        """Nobody will read any more: what finds no place is dropped."""
        self._unheard.set()

    def log_tail(self) -> str:
        """The last lines of stderr."""
        return "\n".join(self._log)

    def line(self, text: str) -> None:
        """A line of stdout came."""
        self._put(text)

    def log(self, text: str) -> None:
        """A line of stderr came."""
        self._log.append(text.rstrip())

    def end(self) -> None:
        """stdout is at its end."""
        self._put("")

    def _put(self, text: str) -> None:
        while True:
            try:
                self._lines.put(text, timeout=LOOK_S)
                return
            except queue.Full:
                if self._unheard.is_set():
                    return

    def lines_from(self, stream: Readable) -> None:
        """All of stdout."""
        for text in lines(stream):
            self.line(text)
        self.end()

    def log_from(self, stream: Readable) -> None:
        """All of stderr."""
        for text in lines(stream):
            self.log(text)
