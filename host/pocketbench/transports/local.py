"""The local device: the same agent process, over loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import NotReachable
from pocketbench.transports import Completed, Sent, unheard
from pocketbench.transports.output import Output

END_WAIT_S = 5.0


class Local:
    """This machine."""

    def __init__(self, name: str, entry: DeviceEntry) -> None:
        self._name, self._env = name, {**os.environ, **entry.env}
        self._spawned: list[LocalProcess] = []

    def open(self) -> None:
        """Nothing to connect to."""

    def push(self, source: Path, target: str, sent: Sent = unheard) -> None:
        """A copy."""
        shutil.copyfile(source, target)

    def run(self, command: Sequence[str], timeout_s: float) -> Completed:
        """A child process; NotReachable when it does not end in time."""
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotReachable(f"{self._name}: {error}") from error
        return Completed(done.returncode, done.stdout, done.stderr)

    def spawn(self, command: Sequence[str], first_line: str) -> LocalProcess:
        """A child process in a session of its own: Ctrl-C at the terminal is the host's to handle."""
        try:
            process = LocalProcess(self._name, command, first_line, self._env)
        except OSError as error:
            raise NotReachable(f"{self._name}: cannot start the agent: {error}") from error
        self._spawned.append(process)
        return process

    def forward(self, port: int) -> str:
        """Loopback is here already."""
        return f"127.0.0.1:{port}"

    def close(self) -> None:
        """End what was spawned."""
        for process in self._spawned:
            process.end()


class LocalProcess:
    """A child whose stdin stays open as long as the host lives: the agent ends when it closes."""

    def __init__(self, name: str, command: Sequence[str], first_line: str, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=env,
            # Not the user's folder: with -m Python would look for modules there first.
            cwd=sys.prefix,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        # One that has ended already says why on its stderr.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(first_line + "\n")
            self._process.stdin.flush()
        self._output = Output(name)
        self.read_line, self.log_tail = self._output.read_line, self._output.log_tail
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_log)]
        for reader in self._readers:
            reader.start()

    def end(self) -> None:
        """Close stdin, then terminate, then kill."""
        self._output.unheard()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        for then in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(END_WAIT_S)
                break
            except subprocess.TimeoutExpired:
                then()
        self._process.wait()
        for reader in self._readers:
            reader.join(1.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            self._output.lines_from(stream)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            self._output.log_from(stream)
