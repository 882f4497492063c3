"""Phones over ADB: through a running adb server, else straight to the device, over TCP or (unverified) USB."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import DeviceLost, NotReachable
from pocketbench.transports import Completed, Sent, adb_services, unheard
from pocketbench.transports.adb_process import AdbProcess, ended
from pocketbench.transports.adb_services import Link, LinkError, LinkLost, LinkTimeout


class Adb:
    """A device by `serial` or `address`; `adb: server` or `adb: direct` in devices.yaml forces the way."""

    def __init__(self, name: str, entry: DeviceEntry) -> None:
        self._name = name
        self._entry = entry
        self._link: Link | None = None
        self._spawned: list[AdbProcess] = []

    def open(self) -> None:
        """Choose the way and connect. NotReachable, with the remedy; nothing is left open then."""
        link = self._choose()
        link.open()
        self._link = link

    def push(self, source: Path, target: str, sent: Sent = unheard) -> None:
        """Copy a file with its mode; folders on the way are made by the device."""
        with self._errors(f"copying {source.name}"):
            try:
                adb_services.push(self._live(), source, target, sent)
            except OSError as error:
                raise NotReachable(f"{self._name}: {source}: {error.strerror or error}") from error

    def run(self, command: Sequence[str], timeout_s: float) -> Completed:
        """A command without stdin; every word reaches it as it is."""
        return self._line(shlex.join(command), timeout_s)

    def spawn(self, command: Sequence[str], first_line: str) -> AdbProcess:
        """A process that ends with this connection."""
        with self._errors(f"starting {command[0]}"):
            process = AdbProcess(self._name, self._live(), self._line, command, first_line)
        self._spawned.append(process)
        return process

    def forward(self, port: int) -> str:
        """Through the shared connection, or by the server."""
        with self._errors(f"a forward to port {port}"):
            return self._live().forward(port)

    def close(self) -> None:
        """End what was spawned, then the link."""
        ended(self._spawned)
        self._spawned.clear()
        if self._link is not None:
            self._link.close()
            self._link = None

    def _choose(self) -> Link:
        # Imported here: each way has a library of its own.
        from pocketbench.transports import adb_server

        entry, way = self._entry, self._entry.adb
        if way is None:
            way = "server" if adb_server.server_runs() else "direct"
        elif way == "server" and not adb_server.server_runs():
            host, port = adb_server.server_address()
            raise NotReachable(
                f"{self._name}: no adb server runs at {host}:{port}; start one with {adb_server.start_command()}"
            )
        if way == "server":
            return adb_server.Server(self._name, entry.serial, self._address())
        from pocketbench.transports import adb_direct

        if entry.address is None:
            from pocketbench.transports import adb_usb

            def wire() -> adb_direct.Wire:
                return adb_usb.UsbWire(self._name, adb_usb.find(self._name, entry.serial))

            return adb_direct.Direct(self._name, f"USB {entry.serial or ''}".strip(), wire)
        return adb_direct.Direct(self._name, entry.address)

    def _address(self) -> str | None:
        """With its port, as a server names it."""
        from pocketbench.transports.adb_direct import split_address

        if self._entry.address is None:
            return None
        host, port = split_address(self._name, self._entry.address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _line(self, line: str, timeout_s: float) -> Completed:
        words = line if len(line) <= 60 else f"{line[:60]}…"
        with self._errors(words):
            return adb_services.run(self._live(), line, timeout_s)

    def _live(self) -> Link:
        if self._link is None:
            raise LinkLost("the link is not open")
        return self._link

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except LinkLost as error:
            raise DeviceLost(f"{self._name}: {doing}: {error}; is it still plugged in, on, and in reach?") from error
        except LinkTimeout as error:
            raise NotReachable(f"{self._name}: {doing}: {error}; is it awake and in reach?") from error
        except LinkError as error:
            raise NotReachable(f"{self._name}: {doing}: {error}") from error
