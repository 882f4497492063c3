"""The meters' process, one for all jobs of an agent: it starts with the first that wants it, so that no job pays."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from pocketbench_agent.framing import FramingError, read_message
from pocketbench_agent.meters import METERS
from pocketbench_agent.rpc import agent_pb2 as pb

ANSWER_S = 10.0
COMMAND = (sys.executable, "-m", "pocketbench_agent.meters")


class Sampler:
    """`begin` before a job, `end` after it. A process that died or hangs costs its readings, and is started anew."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._sampling = False

    def begin(self, names: Sequence[str]) -> None:
        """Sample those meters from now on; names that this agent does not have are left out."""
        known = [name for name in names if name in METERS]
        if known:
            self._sampling = self._tell(f"begin {' '.join(known)}\n")

    def end(self) -> Iterator[pb.Event]:
        """What was read since; nothing where the process died or hangs."""
        if not self._sampling:
            return
        self._sampling = False
        process = self._process
        assert process is not None and process.stdout is not None
        if not self._tell("end\n", restart=False):
            self._drop()
            return
        timer = threading.Timer(ANSWER_S, process.kill)
        timer.start()
        whole = False
        try:
            while (event := read_message(process.stdout, pb.Event)) is not None:  # type: ignore[arg-type]
                if event.HasField("ended"):
                    whole = True
                    return
                yield event
        except FramingError:
            return
        finally:
            timer.cancel()
            if not whole:
                self._drop()

    def close(self) -> None:
        """The process ends with its stdin."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate()

    def _drop(self) -> None:
        """Let go of a process that died, or whose answer nobody can rely on any more; the next job has a new one."""
        if self._process is not None:
            self._process.kill()
        self.close()

    def _tell(self, line: str, restart: bool = True) -> bool:
        """Was it told?"""
        if restart and (self._process is None or self._process.poll() is not None):
            self.close()
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        process = self._process
        assert process is not None and process.stdin is not None
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
        except OSError:
            return False
        return True
