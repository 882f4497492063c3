"""What a spawned process says: lines of stdout as they come, the last lines of stderr."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable

from pocketbench.errors import NotReachable

LOG_LINES = 40


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

    def lines_from(self, stream: Iterable[str]) -> None:
        """All of stdout."""
        for text in stream:
            self.line(text)
        self.end()

    def log_from(self, stream: Iterable[str]) -> None:
        """All of stderr."""
        for text in stream:
            self.log(text)
