"""Devices at the far end of a link that can be spoilt: a real sshd and the ADB daemon, with our own agent there."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy.agent import start
from pocketbench.models import PlacedFile, place
from pocketbench.session.session import Session
from pocketbench.store.lease import owner
from pocketbench.transports import Transport, create
from tests.integration.adb_clients import Daemon
from tests.integration.conftest import ROOT
from tests.peers.faults import Faults, faults
from tests.peers.sshd import SSHD, Sshd, sshd

WAYS = ("ssh", "adb")
# Not root: allowed to be skipped. No sshd as root: not.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="sshd, or a network of its own, takes root")
BLOCK_BYTES = 1_000_000


@dataclass(frozen=True)
class Far:
    """A device."""

    entry: DeviceEntry
    folder: Path
    """Where its agent lives; the disk is the same as here."""

    @property
    def blobs(self) -> Path:
        """Of its agent."""
        return self.folder / "home" / "blobs"


@contextmanager
def far(way: str, folder: Path, *options: str) -> Iterator[tuple[Far, Faults]]:
    """A device and the knobs of its link. The options are the ADB daemon's."""
    folder.mkdir()
    if way == "ssh":
        with sshd(folder / "server") as server, faults(server.port) as knobs:
            yield Far(ssh_entry(server, knobs.port), folder), knobs
        return
    daemon = Daemon(folder / "root", *options)
    try:
        with faults(int(daemon.address.rpartition(":")[2])) as knobs:
            yield Far(adb_entry(f"127.0.0.1:{knobs.port}"), folder), knobs
    finally:
        daemon.end()


def ssh_entry(server: Sshd, port: int | None = None) -> DeviceEntry:
    """The server as a device, at its own port or that of a proxy."""
    host_key = server.host_key.with_suffix(".pub").read_text().strip()
    told = {"host": server.address, "port": port or server.port, "user": server.user, "key": str(server.key)}
    return DeviceEntry.model_validate({"transport": "ssh", **told, "host_key": host_key})


def adb_entry(address: str) -> DeviceEntry:
    """The daemon as a device, without a server in between."""
    return DeviceEntry.model_validate({"transport": "adb", "address": address, "adb": "direct"})


@contextmanager
def connected(to: Far) -> Iterator[Transport]:
    """Our transport to it."""
    transport = create("far", to.entry)
    transport.open()
    with closing(transport):
        yield transport


@contextmanager
def session(to: Far, transport: Transport) -> Iterator[Session]:
    """A session with an agent there, started or found; a lease that a broken link left behind is taken over."""
    path = os.pathsep.join(str(ROOT / name) for name in ("agent", "host"))
    python = ["env", f"PYTHONPATH={path}", sys.executable, "-m", "pocketbench_agent"]
    running = start("far", transport, [*python, "--home", str(to.folder / "home"), "--idle", "20"])
    opened = Session("far", running, owner())
    opened.open(gone=lambda holder: holder == owner())
    with closing(opened):
        yield opened


@contextmanager
def reached(to: Far) -> Iterator[Session]:
    """Both."""
    with connected(to) as transport, session(to, transport) as opened:
        yield opened


def random_file(path: Path, size: int) -> PlacedFile:
    """A file that no two tests share."""
    with path.open("wb") as file:
        for start_at in range(0, size, BLOCK_BYTES):
            file.write(os.urandom(min(BLOCK_BYTES, size - start_at)))
    return place(path, path.name, "a test")


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def timed(what: str, size: int) -> Iterator[None]:
    """Report the throughput; shown with -s."""
    begin = time.monotonic()
    yield
    print(
        f"{what}: {size / 1e6:.0f} MB in {time.monotonic() - begin:.1f} s, "
        f"{size / 1e6 / (time.monotonic() - begin):.1f} MB/s"
    )


def check_peers() -> None:
    """A machine with root and without sshd is not set up: that is no skip."""
    assert SSHD is not None, "no sshd here: make peers"
