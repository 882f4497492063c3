"""A cable with Ethernet's packet size to a network namespace: loopback carries 64 KiB packets and hides what breaks.

The near end is in this process' own network, which takes root; `unshare --user --map-root-user --net` gives a test
run a network where it is that.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from tests.peers.rootfs import missing

MTU_BYTES = 1500
TIMEOUT_S = 10
FAR_NAME = "eth0"


@dataclass(frozen=True)
class Cable:
    """What is at the far end."""

    address: str
    """Its address there; whoever listens on it is reached from here."""
    near_address: str
    near_name: str
    """Its interface here: `ip link set NAME down` pulls the cable."""
    pid: int

    def command(self, words: Sequence[str]) -> list[str]:
        """What runs that command at the far end, with the same files and the same user."""
        return ["nsenter", f"--target={self.pid}", "--net", "--", *words]


@cache
def why_not() -> str | None:
    """Why there can be no cable here, in a line; None where there can."""
    lacking = missing(["ip"])
    if lacking or os.geteuid() != 0:
        return lacking or "a network cable takes root"
    try:
        with cable():
            return None
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"no network cable here: {error}"


@contextmanager
def cable() -> Iterator[Cable]:
    """Lay one; it goes with the far end's network. RuntimeError says what the system refused."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo READY; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    # Cables of other test runs are in the same network.
    near_name, network = f"peer{holder.pid}", f"10.{holder.pid >> 8 & 0xFF}.{holder.pid & 0xFF}"
    laid = Cable(f"{network}.2", f"{network}.1", near_name, holder.pid)
    try:
        if holder.stdout.readline() != b"READY\n":
            raise RuntimeError("unshare --net failed")
        _ip("link", "add", near_name, "mtu", str(MTU_BYTES), "type", "veth", *_far(holder.pid))
        try:
            _ip("address", "add", f"{laid.near_address}/24", "dev", near_name)
            _ip("link", "set", near_name, "up")
            for words in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"{laid.address}/24", "dev", FAR_NAME),
                ("link", "set", FAR_NAME, "up"),
            ):
                _run(laid.command(["ip", *words]))
            yield laid
        finally:
            # The kernel would remove it too, but some time after the last process there has gone.
            _ip("link", "delete", near_name)
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait(TIMEOUT_S)


def _far(pid: int) -> tuple[str, ...]:
    return ("peer", "name", FAR_NAME, "mtu", str(MTU_BYTES), "netns", str(pid))


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
