"""A case's files on a driven device: sets by their contents, each sent once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from pocketbench.config.native_tools import FOLDER
from pocketbench.driven.scripts import MISSING, ROOM
from pocketbench.errors import DeviceLost, NotReachable
from pocketbench.fleet.progress import megabytes, sending
from pocketbench.models import PlacedFile, printable
from pocketbench.session.session import NoSpaceOnDevice
from pocketbench.transports import Transport
from pocketbench_agent.device_info import df_free_bytes
from pocketbench_agent.driven import FILES, set_name

LOOK_S = 120.0
# What a tool writes, and compiles, beside its files.
MARGIN_BYTES = 20 * 1000 * 1000


class Files:
    """Of one device while it is opened."""

    def __init__(self, device: str, transport: Transport, workdir: str, say: Callable[[str], None]) -> None:
        self._device, self._transport, self._workdir, self._say = device, transport, workdir, say
        self._there: set[str] = set()

    def put(self, files: Sequence[PlacedFile]) -> None:
        """Have a set of files there, whole, where the agent looks for it. NoSpaceOnDevice, DeviceLost."""
        if files:
            try:
                self._put(files)
            except NotReachable as error:
                # It was reached: its link broke, or hangs.
                raise DeviceLost(str(error)) from error

    def _put(self, files: Sequence[PlacedFile]) -> None:
        name = set_name((PurePosixPath(file.name).as_posix(), bytes.fromhex(file.sha256)) for file in files)
        if name in self._there:
            return
        folder = f"{self._workdir}/{FILES}/{name}"
        if missing := self._missing(folder, files):
            self._make_room(name, sum(file.bytes for file in missing))
            for file in missing:
                doing = f"{self._device}: sending {printable(file.name)}"
                self._say(f"{doing} ({megabytes(file.bytes)}, once)")
                target = f"{folder}/{PurePosixPath(file.name).as_posix()}"
                self._transport.push(file.path, target, sending(self._say, doing, file.bytes))
            if still := self._missing(folder, files):
                raise NoSpaceOnDevice(f"{self._device}: {printable(still[0].name)} arrived damaged; run this again")
        tools = [file for file in files if PurePosixPath(file.name).parts[0] == FOLDER]
        if tools:
            self._shell('chmod 700 "$@"', *(f"{folder}/{PurePosixPath(file.name).as_posix()}" for file in tools))
        self._there.add(name)

    def _missing(self, folder: str, files: Sequence[PlacedFile]) -> list[PlacedFile]:
        words = [word for f in files for word in (PurePosixPath(f.name).as_posix(), f.sha256, str(f.bytes))]
        told = self._shell(MISSING, folder, *words).split()
        return [file for file in files if file.sha256 in told]

    def _make_room(self, name: str, wanted_bytes: int) -> None:
        """Sets that this run has not used go where space is short."""
        free = df_free_bytes(self._shell('df -Pk "$1" | tail -n 1', self._workdir))
        if free is None or free >= wanted_bytes + MARGIN_BYTES:
            return
        free = df_free_bytes(self._shell(ROOM, self._workdir, name, *sorted(self._there)))
        if free is not None and free < wanted_bytes + MARGIN_BYTES:
            raise NoSpaceOnDevice(
                f"{self._device}: {free / 1e6:.0f} MB are free in {self._workdir}, "
                f"{(wanted_bytes + MARGIN_BYTES) / 1e6:.0f} are needed; make room there, or name another folder with "
                "'workdir' in devices.yaml"
            )

    def _shell(self, script: str, *words: str) -> str:
        done = self._transport.run(["sh", "-c", script, "sh", *words], LOOK_S)
        if done.code:
            said = (done.stderr.decode(errors="replace").strip().splitlines() or [f"code {done.code}"])[-1]
            raise NoSpaceOnDevice(f"{self._device}: files cannot be put into {self._workdir}: {printable(said[:200])}")
        return done.stdout.decode(errors="replace")
