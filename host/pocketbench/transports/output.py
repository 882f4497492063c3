"""What a spawned process says: lines of stdout as they come, the last lines of stderr."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from pocketbench.errors import NotReachable

LOG_LINES = 40
# What is longer is no line of ours: it is cut into several.
MAX_LINE = 65_536


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
        self._lines: queue.Queue[str] = queue.Queue()
        self._log: deque[str] = deque(maxlen=LOG_LINES)

    def read_line(self, timeout_s: float) -> str:
        """The next line of stdout, empty at its end; NotReachable after the timeout."""
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise NotReachable(f"{self._device}: the agent said nothing for {timeout_s:.0f} s") from None

    def log_tail(self) -> str:
        """The last lines of stderr."""
        return "\n".join(self._log)

    def line(self, text: str) -> None:
        """A line of stdout came."""
        self._lines.put(text.strip())

    def log(self, text: str) -> None:
        """A line of stderr came."""
        self._log.append(text.rstrip())

    def end(self) -> None:
        """stdout is at its end."""
        self._lines.put("")

    def lines_from(self, stream: Readable) -> None:
        """All of stdout."""
        for text in lines(stream):
            self.line(text)
        self.end()

    def log_from(self, stream: Readable) -> None:
        """All of stderr."""
        for text in lines(stream):
            self.log(text)
