"""What every worker of ours does: reads one Job, writes Events, and ends with the one that says how it went."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from pocketbench_agent import limits
from pocketbench_agent.errors import LinkGone, NotAvailable, ProgramEnded, StageError
from pocketbench_agent.framing import FramingError, frame, read_message
from pocketbench_agent.rpc import agent_pb2 as pb


class Emitter:
    """Writes events; remembers the stage for whoever has to say where it went wrong."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.stage = "start"

    def send(self, **what: Any) -> None:
        """One event, now."""
        self._stream.write(frame(pb.Event(mono_ns=time.perf_counter_ns(), **what)))
        self._stream.flush()

    def begin(self, stage: str) -> None:
        """A stage starts; it lasts until the next begins."""
        self.stage = stage
        self.send(phase=pb.Phase(name=stage, begin=True))

    def reading(self, source: str, quantity: str, unit: str, *values: tuple[int, int | None]) -> None:
        """A reading of (time, value) pairs; a None value makes it a missing one."""
        missing = any(value is None for _, value in values)
        self.send(
            reading=pb.Reading(
                source=source,
                quantity=quantity,
                unit=unit,
                t_ns=[] if missing else [t for t, _ in values],
                value=[] if missing else [v for _, v in values if v is not None],
                missing="not offered by this system" if missing else "",
            )
        )


def serve(run: Callable[[pb.Job, BinaryIO, Emitter], None]) -> int:
    """Run the one job on stdin by `run`. The exit code is 0 whenever an Ended event could be written."""
    stdin, stdout = sys.stdin.buffer, _private_stdout()
    if len(sys.argv) > 1:
        os.chdir(sys.argv[1])
    emitter = Emitter(stdout)
    limits.apply()
    try:
        job = read_message(stdin, pb.Job)
        if job is None:
            return 2
        run(job, stdin, emitter)
        ended = pb.Ended(how=pb.Ended.OK)
    except NotAvailable as error:
        ended = pb.Ended(how=pb.Ended.UNAVAILABLE, stage=emitter.stage, message=str(error))
    except ProgramEnded as error:
        how = pb.Ended.SIGNAL if error.signal else pb.Ended.NO_OUTPUT
        ended = pb.Ended(how=how, stage=emitter.stage, signal=error.signal, message=str(error))
    except (StageError, FramingError) as error:
        ended = pb.Ended(how=pb.Ended.ERROR, stage=emitter.stage, message=str(error))
    except LinkGone as error:
        # No doing of the model's: the host starts it again.
        ended = pb.Ended(how=pb.Ended.ERROR, stage="agent", message=str(error))
    except MemoryError:
        ended = pb.Ended(how=pb.Ended.ERROR, stage=emitter.stage, message="out of memory")
    except Exception as error:  # whatever a runtime throws is the job's end, not the agent's
        message = f"{type(error).__name__}: {error}"
        ended = pb.Ended(how=pb.Ended.ERROR, stage=emitter.stage, message=message)
    emitter.send(ended=ended)
    return 0


def _private_stdout() -> BinaryIO:
    """The event stream, moved out of the reach of runtimes, whose prints go to stderr instead."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb")
