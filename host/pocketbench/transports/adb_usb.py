"""ADB over USB without a server: adb-shell's USB transport below the same handshake and the same streams.

Unverified: nobody has seen it on hardware yet. What is tested is the protocol, over a pipe that has USB's shape.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Any, Protocol

from pocketbench.errors import NotReachable
from pocketbench.transports import adb_server
from pocketbench.transports.adb_direct import Wire
from pocketbench.transports.adb_mux import HEADER

IDLE_S = 1.0
SEND_S = 60.0
READ_BYTES = 64 * 1024


class Bulk(Protocol):
    """What is used of adb_shell.transport.usb_transport.UsbTransport."""

    def connect(self, transport_timeout_s: float | None) -> None:
        """Open the device and claim its ADB interface."""

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """One transfer from the device, at most so long."""

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """One transfer to the device."""

    def close(self) -> None:
        """Release the interface."""


class UsbWire(Wire):
    """A phone on USB below the handshake; afterwards two threads carry packets between it and a socket."""

    def __init__(self, name: str, bulk: Bulk) -> None:
        super().__init__(("usb", 0))
        self._name, self._bulk = name, bulk
        self._ended = threading.Event()

    def connect(self, transport_timeout_s: float | None) -> None:
        """NotReachable, with the remedy: usually an adb server or the rights."""
        # The handshake closes before it connects.
        self._ended.clear()
        try:
            self._bulk.connect(transport_timeout_s)
        except Exception as error:
            raise NotReachable(f"{self._name}: USB: {explain(error)}", "no permissions") from error

    def close(self) -> None:
        """Also what has not been opened yet."""
        self._ended.set()
        with contextlib.suppress(Exception):
            self._bulk.close()

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """One transfer."""
        data = self._bulk.bulk_read(numbytes, transport_timeout_s)
        self._received += data
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """One transfer."""
        return self._bulk.bulk_write(data, transport_timeout_s)

    def take(self) -> socket.socket:
        """A socket that stands for the device from here on; closing it lets the device go."""
        near, far = socket.socketpair()
        for carry in (self._to_device, self._from_device):
            threading.Thread(target=carry, args=(far,), name=f"{self._name}-usb", daemon=True).start()
        return near

    def _to_device(self, link: socket.socket) -> None:
        """A packet's header and its data are a transfer each."""
        try:
            with link.makefile("rb") as source:
                while header := source.read(HEADER.size):
                    length = HEADER.unpack(header)[3]
                    data = source.read(length) if length else b""
                    for part in filter(None, (header, data)):
                        self._bulk.bulk_write(part, SEND_S)
        except Exception:
            # Whatever the library raises, the streams above see it as the link's end.
            pass
        finally:
            self._end(link)

    def _from_device(self, link: socket.socket) -> None:
        try:
            while not self._ended.is_set():
                header = self._transfer(HEADER.size)
                link.sendall(header)
                left = HEADER.unpack(header)[3] if header else 0
                while left:
                    data = self._transfer(min(left, READ_BYTES))
                    link.sendall(data)
                    left -= len(data)
        except (OSError, struct.error):
            pass
        finally:
            self._end(link)

    def _transfer(self, numbytes: int) -> bytes:
        """The next one, whenever it comes; OSError when there will be no more."""
        while not self._ended.is_set():
            try:
                data = self._bulk.bulk_read(numbytes, IDLE_S)
            except Exception as error:
                if type(getattr(error, "usb_error", None)).__name__ == "USBErrorTimeout":
                    continue
                raise OSError(str(error)) from error
            if data:
                return data
        raise OSError("closed")

    def _end(self, link: socket.socket) -> None:
        self.close()
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
        link.close()


def find(name: str, serial: str | None) -> Bulk:
    """The phone with that serial, or the only one. NotReachable says what is missing."""
    try:
        from adb_shell.exceptions import UsbDeviceNotFoundError
        from adb_shell.transport.usb_transport import UsbTransport
    except (ImportError, OSError) as error:
        raise NotReachable(
            f"{name}: a device on USB needs an adb server ({adb_server.start_command()}), or, unverified as yet, "
            f"pip install 'pocketbench[usb]' ({error})"
        ) from error
    try:
        found: Any = UsbTransport.find_adb(serial=serial)
    except UsbDeviceNotFoundError as error:
        raise NotReachable(
            f"{name}: no {serial or 'phone'} is seen on USB: plug it in with USB debugging on, or give its 'address: "
            "host:port' in devices.yaml"
        ) from error
    except Exception as error:
        raise NotReachable(f"{name}: USB: {explain(error)}", "no permissions") from error
    bulk: Bulk = found
    return bulk


def explain(error: BaseException) -> str:
    """What an error of libusb means here, and what to do about it."""
    kind = type(error).__name__
    if kind == "USBErrorBusy":
        return "another program owns the phone, most likely an adb server: leave it running and use it (adb: server)"
    if kind == "USBErrorAccess":
        return f"this computer may not use the port: install the udev rules, or use {adb_server.start_command()}"
    return f"{kind}: {error}; {adb_server.start_command()} is the way that is known to work"
