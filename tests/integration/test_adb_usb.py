"""ADB over USB, as far as it goes without USB: the real daemon behind a pipe that takes and gives transfers."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import DeviceLost, NotReachable
from pocketbench.transports import adb_usb
from pocketbench.transports.adb import Adb
from tests.integration.adb_clients import Daemon, daemon
from tests.integration.adb_fixtures import MB, device, echo, environment, opened, servers, user
from tests.integration.conftest import wait_until

HEADER = struct.Struct("<4sIIIII")


class USBErrorTimeout(Exception):
    """Named as libusb's."""


class USBErrorBusy(Exception):
    """Named as libusb's."""


class ReadFailed(Exception):
    """As adb-shell wraps them."""

    usb_error = USBErrorTimeout()


class Cable:
    """A phone's two endpoints. What is written has to be whole transfers: a header, then the data that it announces."""

    def __init__(self, to: Daemon) -> None:
        self._to = to
        self._link: socket.socket | None = None
        self._announced = 0

    def connect(self, transport_timeout_s: float | None) -> None:
        host, _, port = self._to.address.rpartition(":")
        self._link = socket.create_connection((host, int(port)), 5)

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        assert self._link is not None
        if self._announced:
            assert len(data) == self._announced
            self._announced = 0
        else:
            assert len(data) == HEADER.size
            self._announced = HEADER.unpack(data)[3]
        self._link.sendall(data)
        return len(data)

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        if self._link is None:
            raise OSError("closed")
        self._link.settimeout(transport_timeout_s)
        try:
            data = self._link.recv(numbytes)
        except TimeoutError:
            raise ReadFailed from None
        if not data:
            raise OSError("unplugged")
        return data

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


@pytest.fixture
def phone(device: Daemon, monkeypatch: pytest.MonkeyPatch) -> Adb:
    """On that cable; no adb server runs."""
    monkeypatch.setattr(adb_usb, "find", lambda name, serial: Cable(device))
    return Adb("phone", DeviceEntry(transport="adb", serial="R1"))


def test_commands_files_and_streams(phone: Adb, device: Daemon, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5 * MB))
    with opened(phone) as transport:
        done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], 10)
        assert (done.code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
        transport.push(source, "usb/copy")
        copy = device.root / "usb" / "copy"
        assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
        with echo() as port, ThreadPoolExecutor(8) as pool:
            host, _, local = transport.forward(port).rpartition(":")
            with socket.create_connection((host, int(local)), 10) as link:
                link.sendall(b"x" * 300_000)
                received = b""
                while len(received) < 300_000:
                    received += link.recv(65536)
            assert received == b"x" * 300_000
            outputs = pool.map(lambda index: transport.run(["echo", str(index)], 10).stdout, range(24))
            assert list(outputs) == [f"{index}\n".encode() for index in range(24)]


def test_a_cable_that_is_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tmp_path / "root") as one:
        monkeypatch.setattr(adb_usb, "find", lambda name, serial: Cable(one))
        with opened(Adb("phone", DeviceEntry(transport="adb", serial="R1"))) as transport:
            assert transport.run(["echo", "in"], 10).stdout == b"in\n"
            one.process.kill()

            def lost() -> bool:
                try:
                    transport.run(["true"], 2)
                except DeviceLost:
                    return True
                return False

            assert wait_until(lost, 10)


def test_what_owns_the_phone_is_said(monkeypatch: pytest.MonkeyPatch, device: Daemon) -> None:
    class Owned(Cable):
        def connect(self, transport_timeout_s: float | None) -> None:
            raise USBErrorBusy

    monkeypatch.setattr(adb_usb, "find", lambda name, serial: Owned(device))
    with pytest.raises(NotReachable, match=r"phone: USB: another program owns the phone, most likely an adb server"):
        Adb("phone", DeviceEntry(transport="adb", serial="R1")).open()


def test_without_usb_support_a_server_is_named() -> None:
    """In an environment without libusb, or without a phone."""
    with pytest.raises(NotReachable, match=r"phone: (a device on USB needs an adb server|no R1 is seen on USB|USB: )"):
        Adb("phone", DeviceEntry(transport="adb", serial="R1")).open()
