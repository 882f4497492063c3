"""Leases in the store: who may use a device, until when, with an epoch that fences whoever had it before."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import DeviceBusy, StoreError
from pocketbench.store import schema
from pocketbench.store.store import Store

TTL_S = 90


@dataclass(frozen=True)
class Lease:
    """A lease that was granted."""

    device: str
    owner: str
    epoch: int


def owner() -> str:
    """Who asks: user, host and process."""
    try:
        user = getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{here()} (process {os.getpid()})"


def here() -> str:
    """This machine: its name alone may be that of another one, of the same image, whose processes nobody here sees."""
    try:
        known = Path("/etc/machine-id").read_bytes()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}#{hashlib.sha256(known).hexdigest()[:6]}"


def take(store: Store, device: str, who: str) -> Lease:
    """Take a free, ended or orphaned lease; DeviceBusy says by whom and until when."""
    table, now = schema.lease, time.time()
    with store.database.writing() as connection:
        fresh = {"device": device, "owner": "", "epoch": 0, "expires_s": 0.0}
        connection.execute(store.database.insert(table).on_conflict_do_nothing(), [fresh])
        row = connection.execute(select(table).where(table.c.device == device)).one()
        holder = _holder(row)
        if holder is not None:
            raise DeviceBusy(f"{device}: in use by {holder}", row.owner)
        # One conditional statement decides, so that two takers cannot both win.
        granted = connection.execute(
            update(table)
            .where(table.c.device == device, table.c.epoch == row.epoch)
            .values(owner=who, epoch=row.epoch + 1, expires_s=now + TTL_S)
            .returning(table.c.epoch)
        ).scalar()
    if granted is None:
        raise DeviceBusy(f"{device}: somebody else took it just now")
    return Lease(device, who, int(granted))


def held(store: Store, device: str) -> str | None:
    """Who has the device and until when, or None."""
    table = schema.lease
    with store.database.writing() as connection:
        row = connection.execute(select(table).where(table.c.device == device)).one_or_none()
    return None if row is None else _holder(row)


def place(device: str, entry: DeviceEntry) -> str:
    """The name that a lease goes by: every machine has a `local`, and in a shared store they are different devices."""
    return f"{device}@{entry.lab_host or socket.gethostname()}" if entry.transport == "local" else device


def orphaned(who: str) -> bool:
    """Was the holder a process of this machine that is gone? (On Windows that cannot be asked harmlessly.)"""
    # From the right: a user of a domain has an @ of their own.
    _, _, place = who.rpartition("@")
    host, _, process = place.partition(" (process ")
    pid = process.removesuffix(")")
    if os.name == "nt" or host != here() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _holder(row: Any) -> str | None:
    """Of a lease that is in force and whose owner is not known to be gone."""
    if row.expires_s <= time.time() or orphaned(row.owner):
        return None
    until = datetime.fromtimestamp(row.expires_s).strftime("%H:%M:%S")
    return f"{row.owner} until {until} at least (it may renew)"


def renew(store: Store, lease: Lease) -> bool:
    """Prolong by 90 s; False where it is no longer ours."""
    table = schema.lease
    with store.database.writing() as connection:
        done = connection.execute(
            update(table)
            .where(table.c.device == lease.device, table.c.epoch == lease.epoch, table.c.owner == lease.owner)
            .values(expires_s=time.time() + TTL_S)
        )
    return done.rowcount == 1


def release(store: Store, lease: Lease) -> None:
    """Give it back, if it is still ours."""
    table = schema.lease
    with store.database.writing() as connection:
        connection.execute(
            update(table)
            .where(table.c.device == lease.device, table.c.epoch == lease.epoch, table.c.owner == lease.owner)
            .values(expires_s=0.0)
        )


@contextlib.contextmanager
def kept(store: Store, device: str, lost: Callable[[], None]) -> Iterator[Lease]:
    """A lease that is taken, renewed and given back; `lost` is called, from a thread, when it is no longer ours."""
    lease = take(store, device, owner())
    ended = threading.Event()

    def renewing() -> None:
        # A store that is away for a moment costs neither the work nor, soon enough renewed, the lease.
        while not ended.wait(TTL_S / 3):
            with contextlib.suppress(StoreError):
                if not renew(store, lease):
                    lost()
                    return

    threading.Thread(target=renewing, name=f"{device}-store-lease", daemon=True).start()
    try:
        yield lease
    finally:
        ended.set()
        with contextlib.suppress(StoreError):
            release(store, lease)
