"""A process behind ADB that lives as long as its stream."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Sequence

from pocketbench.errors import DeviceError
from pocketbench.transports import Completed
from pocketbench.transports.adb_services import (
    CLOSE_STDIN,
    EXIT,
    STALL_S,
    STDERR,
    STDIN,
    STDOUT,
    Frames,
    Link,
    LinkError,
    LinkLost,
)
from pocketbench.transports.output import MAX_LINE, Output

END_WAIT_S = 5.0
SIGNAL_S = 10.0
# The shell says its process id first, then becomes the command.
MARK = "pocketbench-pid"


class AdbProcess:
    """The device ends it (SIGHUP, stdin closed) when the stream or the link ends."""

    def __init__(
        self, name: str, link: Link, run: Callable[[str, float], Completed], command: Sequence[str], first_line: str
    ) -> None:
        self._run = run
        self._pid = 0
        self._output = Output(name)
        self.read_line, self.log_tail = self._output.read_line, self._output.log_tail
        self._exited = threading.Event()
        line = f"echo {MARK} $$; exec {shlex.join(command)}"
        self._stream = link.stream(f"shell,v2,raw:{line}", STALL_S)
        self._frames = Frames(self._stream)
        try:
            # A command that has ended already says why on its stderr.
            with contextlib.suppress(LinkLost):
                self._frames.write(STDIN, first_line.encode() + b"\n", STALL_S)
        except LinkError:
            self._stream.close()
            raise
        self._reader = threading.Thread(target=self._read, name=f"{name}-adb-process", daemon=True)
        self._reader.start()

    def end(self) -> None:
        """Close stdin, then terminate, then kill; where the link is gone the device has done it."""
        self._output.unheard()
        with contextlib.suppress(LinkError):
            self._frames.write(CLOSE_STDIN, b"", END_WAIT_S)
        for signal in ("TERM", "KILL"):
            if self._exited.wait(END_WAIT_S) or not self._pid:
                break
            # While the stream has told no exit, nobody else can have this process id.
            with contextlib.suppress(DeviceError):
                self._run(f"kill -s {signal} -- -{self._pid} || kill -s {signal} {self._pid}", SIGNAL_S)
        self._exited.wait(END_WAIT_S)
        self._stream.close()
        self._reader.join(END_WAIT_S)

    def _read(self) -> None:
        rest = {STDOUT: b"", STDERR: b""}
        try:
            while True:
                frame = self._frames.read(None)
                if frame is None:
                    self._output.log("its stream ended before it did: the device or the link is gone")
                    break
                identity, data = frame
                if identity == EXIT:
                    break
                if identity in rest:
                    *lines, rest[identity] = (rest[identity] + data).split(b"\n")
                    lines = [line + b"\n" for line in lines]
                    if len(rest[identity]) > MAX_LINE:
                        lines, rest[identity] = [*lines, rest[identity]], b""
                    for line in lines:
                        self._take(identity, line)
        except LinkError as error:
            self._output.log(str(error))
        for identity, data in rest.items():
            if data:
                self._take(identity, data)
        self._exited.set()
        self._output.end()

    def _take(self, identity: int, data: bytes) -> None:
        line = data.decode(errors="replace")
        if identity == STDERR:
            self._output.log(line)
        elif not self._pid:
            word, _, number = line.strip().partition(" ")
            if word == MARK and number.isdecimal():
                self._pid = int(number)
            else:
                self._output.log(line)
        else:
            self._output.line(line)


def ended(processes: Sequence[AdbProcess]) -> None:
    """End several at once: each may need its time."""
    threads = [threading.Thread(target=process.end, daemon=True) for process in processes]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 3 * (END_WAIT_S + SIGNAL_S)
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
