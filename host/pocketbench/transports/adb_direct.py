"""ADB without a server: adb-shell's handshake and keys, with our own socket below and our own streams above.

adb-shell 0.4.4's TCP transport ignores a short send, leaves Nagle on and spins at the end of a stream, and its
device class does one thing at a time; hence only its handshake is used here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from adb_shell.transport.base_transport import BaseTransport

from pocketbench.errors import NotReachable
from pocketbench.transports.adb_mux import HEADER, VERSION_NO_CHECKSUM, Mux
from pocketbench.transports.adb_services import ByteStream, LinkLost
from pocketbench.transports.tunnel import Stream, Tunnel

PORT = 5555
CONNECT_S = 10.0
HANDSHAKE_S = 10.0
# As long as a person with the phone at hand needs to tap "Allow"; a list of devices waits no longer than that.
ALLOW_S = 12.0
FEATURES = b"shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"
OPEN_S = 10.0
STALL_S = 60.0
UNAUTHORIZED = "unlock the device, tap Allow where it asks about this computer's key, then run this again"
_making_key = threading.Lock()


class Direct:
    """A device over TCP at that address, or over what `usb` gives when it is opened."""

    def __init__(self, name: str, address: str, usb: Callable[[], Wire] | None = None) -> None:
        self._name = name
        self._address = address
        self._usb = usb
        self._mux: Mux | None = None
        self._forwards: list[Tunnel] = []

    def open(self) -> None:
        """Connect and authenticate. NotReachable, with what to do."""
        wire = self._usb() if self._usb else Wire(split_address(self._name, self._address))
        try:
            self._mux = self._handshake(wire)
        except BaseException:
            wire.close()
            raise

    def stream(self, service: str, timeout_s: float) -> ByteStream:
        """A stream of the shared connection."""
        return self._live().open(service, timeout_s)

    def forward(self, port: int) -> str:
        """A loopback listener whose connections become streams."""
        mux = self._live()

        def dial() -> Stream:
            stream = mux.open(f"tcp:{port}", OPEN_S)
            return Stream(lambda: stream.read(None), lambda data: stream.write(data, STALL_S), stream.close)

        self._forwards.append(Tunnel(dial, f"{self._name}-adb"))
        return self._forwards[-1].address

    def close(self) -> None:
        """End the listeners and the connection."""
        for forward in self._forwards:
            forward.close()
        self._forwards.clear()
        if self._mux is not None:
            self._mux.close()
            self._mux = None

    def _live(self) -> Mux:
        if self._mux is None:
            raise LinkLost("the link is not open")
        return self._mux

    def _handshake(self, wire: Wire) -> Mux:
        from adb_shell import constants, exceptions
        from adb_shell.adb_device import AdbDevice
        from adb_shell.auth.sign_cryptography import CryptographySigner

        asked = threading.Event()
        where = f"{self._name}: {self._address}"
        try:
            signer = CryptographySigner(str(key()))
        except (OSError, ValueError, TypeError) as error:
            raise NotReachable(f"{self._name}: the ADB key {key_path()} cannot be used: {error}") from error
        try:
            AdbDevice(wire, HANDSHAKE_S, b"features=" + FEATURES).connect(
                rsa_keys=[signer],
                transport_timeout_s=CONNECT_S,
                auth_timeout_s=ALLOW_S,
                read_timeout_s=max(HANDSHAKE_S, ALLOW_S),
                auth_callback=lambda _: asked.set(),
            )
        except (TimeoutError, exceptions.AdbTimeoutError, exceptions.TcpTimeoutException) as error:
            if asked.is_set():
                raise NotReachable(f"{self._name}: unauthorized: {UNAUTHORIZED}", "unauthorized") from error
            raise NotReachable(f"{where} does not answer: is the device on, and in this network?") from error
        except exceptions.InvalidCommandError as error:
            raise NotReachable(
                f"{where} wants an encrypted link (wireless debugging of Android 11 and later), or does not speak ADB: "
                "pair it with an adb server (`adb pair`), and leave the server running"
            ) from error
        except OSError as error:
            why = error.strerror or str(error)
            hint = UNAUTHORIZED if asked.is_set() else "is debugging over TCP on (`adb tcpip 5555` once, over USB)?"
            raise NotReachable(
                f"{where}: {why}: {hint}", "unauthorized" if asked.is_set() else "unreachable"
            ) from error
        except (exceptions.UsbReadFailedError, exceptions.UsbWriteFailedError) as error:
            told = UNAUTHORIZED if asked.is_set() else "unplug it and plug it in again"
            state = "unauthorized" if asked.is_set() else "unreachable"
            raise NotReachable(f"{where}: {error}: {told}", state) from error
        except (exceptions.DeviceAuthError, exceptions.InvalidResponseError, exceptions.InvalidChecksumError) as error:
            raise NotReachable(f"{where} does not speak ADB as expected: {error}") from error
        version, maxdata, banner = wire.welcome()
        if b"shell_v2" not in banner:
            raise NotReachable(f"{where}: the device is older than Android 7: it has no shell protocol")
        checksums = min(int(constants.VERSION), version) < VERSION_NO_CHECKSUM
        return Mux(wire.take(), maxdata, checksums, self._name)


class Wire(BaseTransport):  # type: ignore[misc]
    """The socket below adb-shell's handshake: whole sends, no delay, an end that is noticed."""

    def __init__(self, endpoint: tuple[str, int]) -> None:
        self._endpoint = endpoint
        self._socket: socket.socket | None = None
        self._received = bytearray()

    def connect(self, transport_timeout_s: float | None) -> None:
        """OSError where it cannot."""
        self._socket = socket.create_connection(self._endpoint, CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def close(self) -> None:
        """The handshake closes before it connects."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """At most that many bytes; ConnectionError at the end of the stream."""
        assert self._socket is not None
        self._socket.settimeout(transport_timeout_s)
        data = self._socket.recv(numbytes)
        if not data:
            raise ConnectionResetError("the device closed the link")
        self._received += data
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """All of it."""
        assert self._socket is not None
        self._socket.settimeout(transport_timeout_s)
        self._socket.sendall(data)
        return len(data)

    def welcome(self) -> tuple[int, int, bytes]:
        """Version, largest packet and banner of the device's CNXN, which adb-shell reads and drops."""
        version, maxdata, banner = 0, 0, b""
        position = 0
        while position + HEADER.size <= len(self._received):
            command, arg0, arg1, length, _, _ = HEADER.unpack_from(self._received, position)
            position += HEADER.size + length
            if command == b"CNXN":
                version, maxdata, banner = arg0, arg1, bytes(self._received[position - length : position])
        return version, maxdata, banner

    def take(self) -> socket.socket:
        """The socket; from here on it is the caller's."""
        assert self._socket is not None
        taken, self._socket = self._socket, None
        return taken


def split_address(name: str, address: str) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]:port`. NotReachable for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise NotReachable(f"{name}: 'address: {address}' in devices.yaml is not host:port")
    return host.strip("[]"), int(port)


def key_path() -> Path:
    """Where every ADB client of this user keeps its key."""
    return Path.home() / ".android" / "adbkey"


def key() -> Path:
    """The key's path; made where it is missing, readable by its owner only."""
    from adb_shell.auth.keygen import keygen, write_public_keyfile

    path = key_path()
    public = path.with_name(path.name + ".pub")
    with _making_key:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            fresh_public = fresh.with_name(fresh.name + ".pub")
            os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                keygen(str(fresh))
                fresh_public.replace(public)
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
                fresh_public.unlink(missing_ok=True)
        elif not public.exists():
            write_public_keyfile(str(path), str(public))
    return path
