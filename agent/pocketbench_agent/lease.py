"""The lease: the right to use this device, with an epoch that fences whoever held it before."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """The lease as it stands; epoch 0 and no owner where it was refused or released."""

    epoch: int
    owner: str
    left_s: int


class Lease:
    """One lease, its last epoch on disk so that a restarted agent never gives an old one again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._epoch = _stored_epoch(path)
        self._owner = ""
        self._until = 0.0
        # The host said goodbye: there is nobody to wait for.
        self.released = False

    def take(self, owner: str, epoch: int, ttl_s: int) -> Held:
        """Take a free or ended lease; `epoch` is the store's, and the agent goes at least one up. Refused: epoch 0."""
        with self._lock:
            left = self._until - time.monotonic()
            if left > 0:
                return Held(0, self._owner, round(left))
            self._epoch = max(self._epoch + 1, epoch)
            self.released = False
            self._owner, self._until = owner, time.monotonic() + ttl_s
            self._path.write_text(json.dumps({"epoch": self._epoch, "owner": owner}))
            return Held(self._epoch, owner, ttl_s)

    def renew(self, epoch: int, ttl_s: int) -> Held:
        """Prolong; refused (epoch 0) where another epoch or none is in force."""
        with self._lock:
            if epoch != self._epoch or self._until <= time.monotonic():
                return Held(0, self._owner, max(0, round(self._until - time.monotonic())))
            self._until = time.monotonic() + ttl_s
            return Held(epoch, self._owner, ttl_s)

    def release(self, epoch: int) -> Held:
        """Give it back, if it is that one."""
        with self._lock:
            if epoch == self._epoch:
                self._until = 0.0
                self.released = True
            return Held(0, "", 0)

    def in_force(self) -> bool:
        """Does anybody hold it?"""
        with self._lock:
            return self._until > time.monotonic()

    def valid(self, epoch: int) -> bool:
        """Is this epoch the one in force?"""
        with self._lock:
            return epoch == self._epoch and self._until > time.monotonic()

    def refusal(self) -> str:
        """Why a call was refused, for the host."""
        with self._lock:
            left = round(self._until - time.monotonic())
            holder = f"held by {self._owner} for {left} s more" if left > 0 else "free: take it first"
            return f"the lease of this call is not in force; it is {holder}"


def _stored_epoch(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
