"""The lease: the right to use this device, with an epoch that fences whoever held it before."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """The lease as it stands; epoch 0 and no owner where it was refused or released."""

    epoch: int
    owner: str
    left_s: int


class Lease:
    """One lease, its last epoch on disk so that a restarted agent never gives an old one again.

    While `busy` says that a job is waiting or running the lease renews itself: the device is not free, whether or
    not the link to its host is there. The file also says by whom it is held and until when, for whoever asks the
    device without asking its agent.
    """

    def __init__(self, path: Path, busy: Callable[[], bool] = lambda: False) -> None:
        self._path, self._busy = path, busy
        self._lock = threading.Lock()
        self._epoch = _stored_epoch(path)
        self._owner = ""
        self._ttl_s = 0
        self._until = 0.0
        self._told_until = 0.0
        # The host said goodbye: there is nobody to wait for.
        self.released = False

    def take(self, owner: str, epoch: int, ttl_s: int, instead_of: str = "") -> Held:
        """Take a free or ended lease, or that of `instead_of`, who is known to be gone. Refused: epoch 0.

        `epoch` is the store's, and the agent goes at least one up.
        """
        with self._lock:
            left = self._left()
            if left > 0 and not (instead_of and instead_of == self._owner):
                return Held(0, self._owner, round(left))
            self._epoch = max(self._epoch + 1, epoch)
            self.released = False
            self._owner, self._ttl_s = owner, ttl_s
            self._until = time.monotonic() + ttl_s
            self._tell()
            return Held(self._epoch, owner, ttl_s)

    def renew(self, epoch: int, ttl_s: int) -> Held:
        """Prolong; refused (epoch 0) where another epoch or none is in force."""
        with self._lock:
            left = self._left()
            if epoch != self._epoch or left <= 0:
                return Held(0, self._owner, max(0, round(left)))
            self._prolong(ttl_s)
            return Held(epoch, self._owner, ttl_s)

    def release(self, epoch: int) -> Held:
        """Give it back, if it is that one."""
        with self._lock:
            if epoch == self._epoch:
                self._until, self._ttl_s, self._owner = 0.0, 0, ""
                self.released = True
                self._tell()
            return Held(0, "", 0)

    def in_force(self) -> bool:
        """Does anybody hold it?"""
        with self._lock:
            return self._left() > 0

    def valid(self, epoch: int) -> bool:
        """Is this epoch the one in force?"""
        with self._lock:
            return self._left() > 0 and epoch == self._epoch

    def refusal(self) -> str:
        """Why a call was refused, for the host."""
        with self._lock:
            left = round(self._left())
            holder = f"held by {self._owner} for {left} s more" if left > 0 else "free: take it first"
            return f"the lease of this call is not in force; it is {holder}"

    def _left(self) -> float:
        """Seconds; asked at least once a second by the agent, so that a job's end is noticed."""
        if self._ttl_s and self._busy():
            self._prolong(self._ttl_s)
        return self._until - time.monotonic()

    def _prolong(self, ttl_s: int) -> None:
        self._until = time.monotonic() + ttl_s
        if self._until - self._told_until > ttl_s / 3:
            self._tell()

    def _tell(self) -> None:
        left_s = max(0.0, self._until - time.monotonic())
        told = {"epoch": self._epoch, "owner": self._owner, "until_unix_s": round(time.time() + left_s)}
        # A full disk must not cost the session; the epoch is at stake only if the agent dies as well.
        try:
            partial = self._path.with_suffix(".new")
            partial.write_text(json.dumps(told))
            partial.replace(self._path)
        except OSError:
            return
        self._told_until = self._until


def _stored_epoch(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
