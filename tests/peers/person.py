"""What the peers that a person starts have in common."""

from __future__ import annotations

import signal
import sys
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def until_told() -> None:
    """From here on Ctrl-C, SIGTERM and a hang-up are ordinary ends: what was opened is closed, once."""

    def end(number: int, frame: FrameType | None) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(0)

    for number in ENDING:
        signal.signal(number, end)
