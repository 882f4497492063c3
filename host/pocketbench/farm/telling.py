"""Progress of a share, told to whoever follows its run, through the store."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from dataclasses import replace
from types import TracebackType

from pocketbench.errors import StoreError
from pocketbench.store import lab
from pocketbench.store.store import Store

EVERY_S = 0.5
# Lines of one attempt; more than that nobody reads.
LINES = 500


class Telling:
    """What a lane reports to; a store that is away costs what is told, and nothing else."""

    def __init__(self, store: Store, run_id: str, share: lab.Share) -> None:
        self._store, self._run_id, self._share = store, run_id, share
        self._said: deque[str] = deque(maxlen=LINES)
        self._changed, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Telling:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._changed.set()
        self._thread.join(EVERY_S * 20)

    def begin(self, device: str, steps: int) -> None:
        """So many steps."""
        self._change(replace(self._share, steps=steps, at=0))

    def step(self, device: str, text: str) -> None:
        """The next one."""
        self._change(replace(self._share, at=self._share.at + 1, text=text))

    def done(self, device: str, text: str) -> None:
        """Through."""
        self._change(replace(self._share, at=self._share.steps, text=text))

    def say(self, text: str) -> None:
        """A line; the worker's log has it, too."""
        print(text, file=sys.stderr, flush=True)
        with self._lock:
            self._said.append(text)
        self._change(self._share)

    def end(self, why: str, code: str = "device_lost") -> None:
        """How it ended; empty: well."""
        self._change(replace(self._share, ended=why, code=code))

    def _change(self, share: lab.Share) -> None:
        with self._lock:
            self._share = replace(share, said=tuple(self._said))
        self._changed.set()

    def _write(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            over = self._over.is_set()
            with self._lock:
                share = self._share
            with contextlib.suppress(StoreError):
                lab.tell(self._store, self._run_id, share)
            if over:
                return
            self._over.wait(EVERY_S)
