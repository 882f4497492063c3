"""Getting an agent to run on a device, and the handshake that says it does."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import DeviceBusy, NotReachable
from pocketbench.models import PlacedFile, printable
from pocketbench.transports import Spawned, Transport

HANDSHAKE_TIMEOUT_S = 60.0
# Of what the other side said in its place.
MAX_SHOWN = 300


@dataclass(frozen=True)
class RunningAgent:
    """An agent that answered: where it listens, and the token that it wants."""

    address: str
    token: str = field(repr=False)
    build: str
    process: Spawned
    # Of an agent that is not on its device: has sets of files put there. The errors are DeviceErrors.
    place: Callable[[Sequence[Sequence[PlacedFile]]], None] | None = None
    # As its command line names it; empty where none runs on the device.
    home: str = ""


def local_home(entry: DeviceEntry | None = None) -> Path:
    """Where the local agent keeps blobs and jobs."""
    import platformdirs

    if entry is not None and entry.workdir:
        return Path(entry.workdir).expanduser() / "home"
    return Path(platformdirs.user_cache_dir("pocketbench")) / "agent"


def local_command(home: Path) -> Sequence[str]:
    """The agent of this machine: it ends with the host, so that no orphan disturbs the next measurement."""
    return [sys.executable, "-m", "pocketbench_agent", "--home", str(home), "--end-with-stdin"]


def command(device: str, transport: Transport, entry: DeviceEntry, say: Callable[[str], None]) -> Sequence[str]:
    """What starts the agent of a device; it is put there first where it is not, and `say` is told so."""
    if entry.transport == "local":
        return local_command(local_home(entry))
    from pocketbench.deploy.remote import command_for

    return command_for(device, transport, entry, say)


def launch(device: str, transport: Transport, entry: DeviceEntry, say: Callable[[str], None]) -> RunningAgent:
    """Start the agent of a device, put there first where it is not. NotReachable, or DeviceBusy."""
    if entry.driven:
        from pocketbench.driven import agent as driven

        return driven.launch(device, transport, entry, say)
    return start(device, transport, command(device, transport, entry, say))


def start(device: str, transport: Transport, command: Sequence[str]) -> RunningAgent:
    """Spawn the agent and read its handshake. NotReachable, or DeviceBusy where another agent has the home."""
    token = secrets.token_hex(32)
    process = transport.spawn(command, token)
    line = process.read_line(HANDSHAKE_TIMEOUT_S).strip()
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        process.end()
        told_last = (process.log_tail().splitlines() or [line or "it said nothing"])[-1]
        raise NotReachable(f"{device}: the agent did not start: {_shown(told_last)}")
    if "busy" in told:
        process.end()
        left = f" for {told['left_s']} s more (it may renew)" if isinstance(told.get("left_s"), int) else ""
        raise DeviceBusy(f"{device}: in use by {_shown(told['busy'])}{left}", str(told["busy"]))
    port = told.get("port")
    if not isinstance(port, int) or not 0 < port < 65536:
        process.end()
        raise NotReachable(f"{device}: the agent did not start: {_shown(told.get('error', 'it named no port'))}")
    home = dict(pairwise(command)).get("--home", "")
    return RunningAgent(transport.forward(port), token, str(told.get("build", "")), process, home=home)


def _shown(told: object) -> str:
    return printable(str(told)[:MAX_SHOWN])
