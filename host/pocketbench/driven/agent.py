"""The agent of a driven device: a process of this host, with a home of its own for each device."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import probe
from pocketbench.deploy.agent import RunningAgent, local_command, start
from pocketbench.driven.bridge import Bridge
from pocketbench.driven.files import Files
from pocketbench.driven.mirror import Mirror
from pocketbench.driven.scripts import ASK, LEAVE, TIDY
from pocketbench.errors import DeviceBusy, DeviceError, NotReachable
from pocketbench.models import PlacedFile, printable
from pocketbench.store import lease as leases
from pocketbench.transports import Transport
from pocketbench.transports.local import Local
from pocketbench_agent.device_info import ROOT_VARIABLE, df_free_bytes
from pocketbench_agent.driven import VARIABLE

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What the device answered before anything there was touched; `epoch` is the last that an agent there has given."""

    workdir: str
    epoch: int


def folder_of(device: str) -> Path:
    """Its folder here, with the agent's home: names are labels, and may be anything."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", device)[:60]
    return Path(platformdirs.user_cache_dir("pocketbench")) / "driven" / f"{plain}-{_hash(device)}"


def launch(device: str, transport: Transport, entry: DeviceEntry, say: Say) -> RunningAgent:
    """Start it, the device's shell at its command. NotReachable, or DeviceBusy where somebody else has the device."""
    asked = ask(device, transport, entry)
    done = transport.run(["sh", "-c", TIDY, "sh", asked.workdir], probe.TIMEOUT_S)
    if done.code:
        raise NotReachable(
            f"{device}: {printable(asked.workdir)} cannot be tidied: name another with 'workdir' in devices.yaml"
        )
    folder = folder_of(device)
    root, link = folder / "device", folder / "link.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(root, ignore_errors=True)
    except OSError as error:
        raise NotReachable(f"{device}: {folder} cannot be used: {error.strerror}") from error
    local = Local(device, DeviceEntry(transport="local", env={ROOT_VARIABLE: str(root), VARIABLE: str(link)}))
    mirror = Mirror(root)
    bridge = Bridge(device, transport, asked.workdir, mirror, local.close)

    def leave() -> None:
        link.unlink(missing_ok=True)
        if not bridge.gone:
            free = json.dumps({"epoch": asked.epoch, "owner": "", "until_unix_s": 0})
            transport.run(["sh", "-c", LEAVE, "sh", asked.workdir, free], probe.TIMEOUT_S)

    process = Driven(local, bridge, leave)
    try:
        held = f'{{"epoch": {asked.epoch}, "owner": {json.dumps(_owner(device))}, "until_unix_s": '
        bridge.open([entry.env.get(ROOT_VARIABLE, ""), asked.workdir, held])
        environment = {name: value for name, value in entry.env.items() if name != ROOT_VARIABLE}
        link.unlink(missing_ok=True)
        # Before there is anything in it: the token is for this user alone.
        link.touch(0o600)
        link.write_text(json.dumps(bridge.link(environment)))
        running = start(device, local, local_command(folder / "home"))
    except BaseException as error:
        process.end()
        if isinstance(error, OSError):
            raise NotReachable(f"{device}: {folder} cannot be written: {error.strerror}") from error
        raise
    files = Files(device, transport, asked.workdir, say)

    def place(sets: Sequence[Sequence[PlacedFile]]) -> None:
        for one in sets:
            files.put(one)

    return RunningAgent(running.address, running.token, running.build, process, place)


def ask(device: str, transport: Transport, entry: DeviceEntry) -> Asked:
    """Where its work folder is, and that nobody else has it. NotReachable or DeviceBusy."""
    done = transport.run(["sh", "-c", ASK.format(given=shlex.quote(entry.workdir or ""))], probe.TIMEOUT_S)
    told = probe.facts(done)
    if told.get("system") != "Linux":
        said = printable((done.stderr or done.stdout).decode(errors="replace").strip()[:200])
        raise NotReachable(f"{device}: is no Linux that answers (it said {said!r})")
    workdir = told.get("workdir", "")
    if df_free_bytes(told.get("free", "")) is None:
        raise NotReachable(
            f"{device}: {printable(workdir) or 'its work folder'} cannot be made there: name another with 'workdir' in "
            "devices.yaml"
        )
    epoch, owner = _lease(told.get("lease", ""))
    holder = probe.holder(told.get("lease", ""), told.get("now", ""))
    if holder and owner != _owner(device) and not leases.orphaned(owner):
        raise DeviceBusy(f"{device}: in use by {holder}", owner)
    return Asked(workdir, epoch)


class Driven:
    """The agent as a process, with what it needs of the device; all of that ends with it."""

    def __init__(self, local: Local, bridge: Bridge, leave: Callable[[], None]) -> None:
        self._local, self._bridge, self._leave = local, bridge, leave
        self._ended = threading.Lock()

    def read_line(self, timeout_s: float) -> str:
        """Its handshake has been read."""
        return ""

    def log_tail(self) -> str:
        """Nothing more is to be said."""
        return ""

    def end(self) -> None:
        """First the agent, whose tool ends with it, then what watches the device; the second time nothing."""
        if not self._ended.acquire(blocking=False):
            return
        self._local.close()
        self._bridge.close()
        with contextlib.suppress(DeviceError, OSError):
            self._leave()


def _owner(device: str) -> str:
    """Who has it: two devices of one host may be the same one by two names."""
    return f"{device} of {leases.owner()}"


def _lease(text: str) -> tuple[int, str]:
    """(epoch, owner) of a lease's file; 0 and nobody where there is none."""
    try:
        told = json.loads(text)
        return int(told["epoch"]), str(told["owner"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0, ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
