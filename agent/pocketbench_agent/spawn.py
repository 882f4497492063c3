"""A worker process with its deadline: what it writes, and how it ended when it does not say so itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from pocketbench_agent import device_info, driven, program_cache
from pocketbench_agent.framing import FramingError, read_messages
from pocketbench_agent.job_files import runtime_folder
from pocketbench_agent.rpc import agent_pb2 as pb

LOG_TAIL_LINES = 40
KILL_WAIT_S = 5.0
WORKER = (sys.executable, "-m", "pocketbench_agent.worker")
NATIVE_WORKER = (sys.executable, "-m", "pocketbench_agent.native.worker")


class Worker:
    """A worker process with its deadline. Iterate over `events`, then ask how it `ended`."""

    def __init__(self, job: pb.Job, folder: Path, home: Path) -> None:
        self.job_id = job.job_id
        self._stage = "start"
        self._ended: pb.Ended | None = None
        self._broken = ""
        self._oom_before = device_info.oom_kills()
        # With -m Python looks into the working directory first, and the job's folder holds names that the model
        # chose: an external data file called numpy.py must stay data.
        neutral = home / "empty"
        neutral.mkdir(exist_ok=True)
        # On a device that is driven from here a worker of ours would measure this host.
        native = job.program.runtime == "native" or driven.link() is not None
        self._process = subprocess.Popen(
            [*(NATIVE_WORKER if native else WORKER), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=neutral,
            env=_environment(job, home),
            start_new_session=True,
        )
        self._log: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._reader = threading.Thread(target=self._read_log, name="worker-log", daemon=True)
        self._reader.start()
        self._timed_out = False
        self._deadline_s = job.deadline_s or 600
        self._timer = threading.Timer(self._deadline_s, self._time_out)
        self._timer.daemon = True
        self._timer.start()

    def write(self, data: bytes) -> None:
        """Send bytes to the worker; silently dropped where it is gone already, for `ended` will say so."""
        try:
            _pipe(self._process.stdin).write(data)
            _pipe(self._process.stdin).flush()
        except (BrokenPipeError, ValueError):
            return

    def close_stdin(self) -> None:
        """No more will come."""
        try:
            _pipe(self._process.stdin).close()
        except BrokenPipeError:
            return

    def events(self) -> Iterator[pb.Event]:
        """The worker's events up to, not including, its last."""
        try:
            for event in read_messages(_pipe(self._process.stdout), pb.Event):  # type: ignore[arg-type]
                if event.HasField("phase") and event.phase.begin:
                    self._stage = event.phase.name
                if event.HasField("ended"):
                    self._ended = event.ended
                    return
                yield event
        except FramingError as error:
            self._broken = str(error)

    def ended(self) -> pb.Ended:
        """How it went: its own word, else what its exit code says."""
        try:
            code = self._process.wait(KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._timer.cancel()
        self._reader.join(1.0)
        if self._ended is not None and not self._timed_out:
            ended = self._ended
            if ended.how not in pb.Ended.How.values():
                ended.how = pb.Ended.ERROR
        elif self._timed_out:
            message = f"still in stage {self._stage} after {self._deadline_s} s"
            ended = pb.Ended(how=pb.Ended.TIMEOUT, message=message)
        elif code < 0:
            ended = pb.Ended(how=pb.Ended.SIGNAL, signal=-code, message=self._signal_message(-code))
        else:
            message = f"the worker ended with code {code} and no result"
            ended = pb.Ended(how=pb.Ended.NO_OUTPUT, message=f"{message}: {self._broken}" if self._broken else message)
        ended.stage = ended.stage or self._stage
        if ended.how != pb.Ended.OK:
            ended.log_tail.extend(self._log)
        return ended

    def kill(self) -> None:
        """End the worker and all that it started."""
        self._timer.cancel()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

    def close(self) -> None:
        """End it, wait for it, and give its pipes back."""
        self.kill()
        self._process.wait()
        self._reader.join(KILL_WAIT_S)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()

    def _read_log(self) -> None:
        for line in _pipe(self._process.stderr):
            self._log.append(line.decode(errors="replace").rstrip()[:500])

    def _signal_message(self, number: int) -> str:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        message = f"the worker died of {name} in stage {self._stage}"
        oom = device_info.oom_kills()
        if number == signal.SIGKILL and oom is not None and self._oom_before is not None and oom > self._oom_before:
            message += "; the kernel killed a process for want of memory in that time"
        return message


def _environment(job: pb.Job, home: Path) -> Mapping[str, str]:
    """The worker's environment: C locale for parsers, no BLAS threads that the case did not ask for."""
    here = str(Path(__file__).resolve().parents[1])
    folders = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    if job.program.runtime_archive.path:
        folders.insert(0, str(runtime_folder(job.program.runtime_archive, home)))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        "LC_ALL": "C.UTF-8",
        **program_cache.environment(program_cache.folder(job, home)),
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # ONNX Runtime 1.32 sends usage data, with a thread and a database for it, unless it believes to be under test.
        "TF_BUILD": "true",
    }


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
