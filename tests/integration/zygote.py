"""`bench` as a process that is forked from one which has imported it already: a second less a command, of hundreds.

The command is the product's own main() with arguments, folder, environment and streams of its own, and ends as any
process does. What depends on how Python itself starts is not for this.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MODULES = ("run", "history", "compare", "rerun", "devices", "suite", "report", "export")
# What Python, its C library or gRPC reads as it starts: a command for which these differ has to start by itself.
AT_START = ("PYTHON", "LD_", "LC_", "LANG", "GRPC_", "MALLOC")


@dataclass(frozen=True)
class Done:
    """As subprocess has it."""

    returncode: int
    stdout: str
    stderr: str


def can_run(environment: Mapping[str, str], arguments: Sequence[str]) -> bool:
    """Would it be what a process of its own is?"""

    def read_at_start(all_of_it: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in all_of_it.items() if name.startswith(AT_START)}

    return "--debug" not in arguments and read_at_start(environment) == read_at_start(os.environ)


def run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float) -> Done:
    """A command to its end. subprocess.TimeoutExpired, after which it is gone."""
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        with theirs:
            _zygote().ask([theirs.fileno(), stdout.fileno(), stderr.fileno()])
        asked = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        ours.settimeout(timeout_s)
        with ours.makefile("rw") as lines:
            lines.write(json.dumps(asked) + "\n")
            lines.flush()
            pid = int(lines.readline())
            try:
                code = int(lines.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return Done(code, *texts)


class _Zygote:
    """The process, as long as this one lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            root = Path(__file__).parents[2]
            words = [sys.executable, "-m", __name__, str(number)]
            self._process = subprocess.Popen(words, pass_fds=[number], cwd=root)
        atexit.register(self._end)

    def ask(self, streams: Sequence[int]) -> None:
        """For one more command, which is told on the first of these; the others are its stdout and stderr."""
        with self._lock:
            socket.send_fds(self._control, [b"+"], streams)

    def _end(self) -> None:
        self._control.close()
        self._process.wait()


@cache
def _zygote() -> _Zygote:
    return _Zygote()


def _serve(control: socket.socket) -> None:
    """Returns in each command's own process, and in no other."""
    while True:
        asked, streams, _, _ = socket.recv_fds(control, 1, 3)
        if not asked:
            sys.exit(0)
        # In between stands a process that waits for the command and tells how it ended.
        if os.fork():
            for number in streams:
                os.close(number)
            continue
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with socket.socket(fileno=streams[0]) as told, told.makefile("rw") as lines:
            wanted = json.loads(lines.readline())
            command = os.fork()
            if command:
                lines.write(f"{command}\n")
                lines.flush()
                _, status = os.waitpid(command, 0)
                lines.write(f"{os.waitstatus_to_exitcode(status)}\n")
                lines.flush()
                os._exit(0)
        os.dup2(streams[1], 1)
        os.dup2(streams[2], 2)
        for number in streams[1:]:
            os.close(number)
        os.chdir(wanted["folder"])
        os.environ.clear()
        os.environ.update(wanted["environment"])
        sys.argv[1:] = wanted["arguments"]
        sys.path[0] = wanted["folder"]
        random.seed()
        return


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for name in MODULES:
        importlib.import_module(f"pocketbench.cli.{name}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from pocketbench.cli.main import main

    main()
