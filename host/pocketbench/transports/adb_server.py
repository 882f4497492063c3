"""ADB through a running server, which owns USB and pairing. The server is spoken to with adbutils.

The server's own protocol (AOSP SERVICES.TXT): four hex digits of length, a request, OKAY or FAIL and a text.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any

from pocketbench.errors import NotReachable
from pocketbench.transports.adb_services import ByteStream, LinkError, LinkLost, LinkTimeout, Refused

PORT = 5037
PROBE_S = 0.5
ANSWER_S = 10.0
CONNECT_S = 15.0
# A blocked call looks at its deadline and at `close` this often.
SLICE_S = 0.25
RECEIVE_BYTES = 256 * 1024
POLL_S = 0.1
REQUEST_MAX = 0xFFFF

REMEDIES = {
    "unauthorized": "unlock the device and tap Allow where it asks about this computer's key, then run this again",
    "authorizing": "unlock the device and tap Allow where it asks about this computer's key, then run this again",
    "offline": "unplug it and plug it in again, or run `adb reconnect`; over Wi-Fi, look whether it sleeps",
    "connecting": "the server is still connecting: run this again, or `adb reconnect`",
    "no": "this computer may not use its USB port: install the udev rules (Debian: android-sdk-platform-tools-common, "
    "and be in the group plugdev), then plug it in again",
    "recovery": "the device is in its recovery system: `adb reboot`",
    "sideload": "the device is in its recovery system: `adb reboot`",
    "rescue": "the device is in its recovery system: `adb reboot`",
    "bootloader": "the device is in its boot loader: `fastboot reboot`",
    "unknown": "`adb devices` cannot tell its state: unplug it and plug it in again",
}
NAMES = {"no": "no permissions"}
# What two of its states come to, for who wants to know what to do.
SAME = {"authorizing": "unauthorized", "connecting": "offline"}


def server_address() -> tuple[str, int]:
    """Where a server would listen."""
    port = os.environ.get("ANDROID_ADB_SERVER_PORT", "")
    return os.environ.get("ANDROID_ADB_SERVER_HOST") or "127.0.0.1", int(port) if port.isdecimal() else PORT


def server_runs() -> bool:
    """Does something listen there?"""
    try:
        socket.create_connection(server_address(), PROBE_S).close()
    except OSError:
        return False
    return True


def remedy(state: str) -> str:
    """What to do about a device in that state of `adb devices`."""
    return REMEDIES.get(state, "look at `adb devices`")


def start_command() -> str:
    """What starts a server on this machine."""
    try:
        import adbutils

        return f"`{adbutils.adb_path()} start-server`"
    except Exception:
        return "`adb start-server` (part of Android's platform tools)"


def states() -> dict[str, str]:
    """Every device that the server knows, with its state in `adb devices`. LinkError where it cannot tell."""
    with _errors():
        return {info.serial: info.state for info in _client().list()}


class Server:
    """A device that a server knows."""

    def __init__(self, name: str, serial: str | None, address: str | None) -> None:
        self._name = name
        self._serial = serial or ""
        self._address = address
        self._connected = False
        self._forwards: list[str] = []

    def open(self) -> None:
        """Find the device in the state that can be used. NotReachable, with what to do."""
        try:
            known = states()
            if self._address and self._serial not in known:
                self._serial = self._address
                if self._address not in known:
                    # Its text says "connected" and "failed" at the wrong moments: only the state counts.
                    self._ask(f"host:connect:{self._address}", CONNECT_S).close()
                    self._connected = True
            self._await_device()
            with contextlib.closing(self._ask(f"host-serial:{self._serial}:features")) as connection:
                features = connection.read_string_block()
        except LinkError as error:
            self.close()
            raise NotReachable(f"{self._name}: the adb server: {error}") from error
        except NotReachable:
            self.close()
            raise
        if "shell_v2" not in features.split(","):
            self.close()
            raise NotReachable(f"{self._name}: the device is older than Android 7: it has no shell protocol")

    def stream(self, service: str, timeout_s: float) -> ByteStream:
        """A connection to the server that became a stream of the device."""
        with _errors():
            connection = self._ask(f"host:transport:{self._serial}", timeout_s)
            try:
                _request(connection, service)
                connection.conn.settimeout(SLICE_S)
                return SocketStream(connection.conn)
            except BaseException:
                connection.conn.close()
                raise

    def forward(self, port: int) -> str:
        """The server listens, on a port that it picks."""
        with _errors(), contextlib.closing(self._ask(f"host-serial:{self._serial}:forward:tcp:0;tcp:{port}")) as asked:
            # The first OKAY was for the request, the second is for the listener.
            asked.check_okay()
            local = int(asked.read_string_block())
        self._forwards.append(f"tcp:{local}")
        return f"{server_address()[0]}:{local}"

    def close(self) -> None:
        """Take back the forwards, and the connection where it was made here."""
        requests = [f"host-serial:{self._serial}:killforward:{local}" for local in self._forwards]
        if self._connected:
            requests.append(f"host:disconnect:{self._address}")
        self._forwards, self._connected = [], False
        for request in requests:
            with contextlib.suppress(LinkError):
                self._ask(request).close()

    def _await_device(self) -> None:
        """A device that was just connected needs a moment; every other state is what it is."""
        deadline = time.monotonic() + (CONNECT_S if self._connected else 0.0)
        while True:
            known = states()
            state = self._pick(known)
            if state == "device":
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        if state is not None:
            told = NAMES.get(state, state)
            raise NotReachable(f"{self._name}: {told}: {remedy(state)}", SAME.get(state, told))
        if self._address:
            raise NotReachable(
                f"{self._name}: the adb server cannot connect to {self._address}: is the device on and in this "
                "network, with debugging over TCP on (`adb tcpip 5555` once, over USB)?"
            )
        seen = ", ".join(f"{serial} ({NAMES.get(state, state)})" for serial, state in known.items()) or "none"
        raise NotReachable(
            f"{self._name}: the adb server does not see {self._serial or 'exactly one device'}: plug it in with USB "
            f"debugging on; it sees: {seen}"
        )

    def _pick(self, known: dict[str, str]) -> str | None:
        if not self._serial and len(known) == 1:
            self._serial = next(iter(known))
        return known.get(self._serial)

    def _ask(self, request: str, timeout_s: float | None = None) -> Any:
        """An adbutils connection on which the server has said OKAY."""
        with _errors():
            connection = _client().make_connection(ANSWER_S if timeout_s is None else timeout_s)
            try:
                _request(connection, request)
            except BaseException:
                connection.conn.close()
                raise
            return connection


class SocketStream:
    """A socket as a stream. Its own timeout is short and fixed: two threads may use it with different deadlines."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def read(self, timeout_s: float | None) -> bytes:
        """What has come, empty at the end."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise LinkTimeout(f"nothing came for {timeout_s or 0:.0f} s") from None
            except OSError as error:
                if self._closed:
                    return b""
                raise LinkLost(f"the adb server ended the stream: {error}") from error

    def write(self, data: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """All of it."""
        rest = memoryview(data)
        deadline = time.monotonic() + timeout_s
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
                deadline = time.monotonic() + timeout_s
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise LinkTimeout(f"nothing moved for {timeout_s:.0f} s") from None
            except OSError as error:
                raise LinkLost(f"the adb server ended the stream: {error}") from error

    def readable(self) -> bool:
        """Is something there?"""
        return bool(self._selector.select(0))

    def close(self) -> None:
        """Wakes a reader first."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._selector.close()
            self._socket.close()


def _client() -> Any:
    """adbutils' client, without its habit of starting a server where none runs."""
    import adbutils

    if not server_runs():
        raise LinkLost("it is gone")
    return adbutils.AdbClient(*server_address(), socket_timeout=ANSWER_S)


def _request(connection: Any, request: str) -> None:
    data = request.encode("utf-8", "surrogateescape")
    if len(data) > REQUEST_MAX or b"\0" in data:
        raise Refused(f"the adb server takes no request of {len(data)} bytes")
    connection.conn.sendall(b"%04x" % len(data) + data)
    connection.check_okay()


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """adbutils' errors as ours."""
    from adbutils.errors import AdbError, AdbTimeout

    try:
        yield
    except (AdbTimeout, TimeoutError) as error:
        raise LinkTimeout("no answer in time") from error
    except AdbError as error:
        text = str(error).strip()
        # adbutils says so when the other end closed before it had answered.
        raise (LinkLost("the stream ended") if text.startswith("Unknown data") else Refused(text)) from error
    except (OSError, ValueError) as error:
        raise LinkLost(str(error)) from error
