"""What the peers that a person starts have in common."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, TypeVar

from tests.peers.rootfs import Missing


class Waiting(Protocol):
    """A peer that runs."""

    def wait(self) -> None:
        """Until it has ended."""


Peer = TypeVar("Peer", bound=Waiting)
ROOT = Path(__file__).resolve().parents[2]
YAML_LINES = 3
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def until_told() -> None:
    """From here on Ctrl-C, SIGTERM and a hang-up are ordinary ends: what was opened is closed, once."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(0)

    for number in ENDING:
        signal.signal(number, end)


def offer(what: str, reason: str | None, peer: AbstractContextManager[Peer], entry: Callable[[Peer], str]) -> NoReturn:
    """Run it until it or the person has enough: its devices.yaml on stdout once it is up, all else on stderr."""
    if reason is not None:
        sys.exit(f"No {what}: {reason}")
    try:
        with peer as started:
            print(f"---\ndevices:\n  {what}: {{{entry(started)}}}", flush=True)
            started.wait()
    except (Missing, RuntimeError) as error:
        sys.exit(f"No {what}: {error}")
    sys.exit(f"The {what} has died.")


@contextmanager
def as_a_person(module: str, folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start one as a person does, with its files in the folder: the process, and what it said once it was up."""
    command = [sys.executable, "-m", module, *options]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True) as started:
        assert started.stdout is not None
        try:
            yield started, "".join(started.stdout.readline() for _ in range(YAML_LINES))
        finally:
            started.kill()
