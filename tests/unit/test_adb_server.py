"""What an adb server says about devices, and what we say to the user. The lines are of adb 29.0.6 and 36.0.0."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import pytest

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import NotReachable
from pocketbench.transports import adb_server
from pocketbench.transports.adb import Adb

UDEV = "no permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com/tools]"
FEATURES = "shell_v2,cmd,stat_v2"


@contextmanager
def server(answers: Mapping[str, str]) -> Iterator[int]:
    """Answers `host:...` requests from a table, and with FAIL what is not in it."""
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                link, _ = listener.accept()
                with link, suppress(OSError, ValueError):
                    link.settimeout(5)
                    asked = link.recv(int(link.recv(4, socket.MSG_WAITALL), 16), socket.MSG_WAITALL).decode()
                    told = answers.get(asked)
                    text = f"unknown request {asked}" if told is None else told
                    link.sendall(b"OKAY" if told is not None else b"FAIL")
                    link.sendall(b"%04x" % len(text.encode()) + text.encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Adb]:
    """Open a device on such a server."""

    def open_(answers: Mapping[str, str], **keys: str) -> Adb:
        with server(answers) as port:
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
            monkeypatch.delenv("ANDROID_ADB_SERVER_HOST", raising=False)
            transport = Adb("pixel", DeviceEntry.model_validate({"transport": "adb", **keys}))
            transport.open()
            transport.close()
            return transport

    return open_


STATES = {
    "unauthorized": ("unauthorized", "tap Allow"),
    "authorizing": ("authorizing", "tap Allow"),
    "offline": ("offline", "adb reconnect"),
    UDEV: ("no permissions", "udev rules"),
    "recovery": ("recovery", "adb reboot"),
    "bootloader": ("bootloader", "fastboot reboot"),
    "something new": ("something", "adb devices"),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_remedy(opened: Callable[..., Adb], state: str) -> None:
    told, remedy = STATES[state]
    with pytest.raises(NotReachable, match=rf"^pixel: {told}: .*{remedy}"):
        opened({"host:devices": f"OTHER\tdevice\nS3R1AL\t{state}\n"}, serial="S3R1AL")


def test_the_only_device_needs_no_serial(opened: Callable[..., Adb]) -> None:
    opened({"host:devices": "S3R1AL\tdevice\n", "host-serial:S3R1AL:features": FEATURES})


@pytest.mark.parametrize(
    ("listed", "seen"),
    [("", "none"), ("A\tdevice\nB\toffline\n", r"A \(device\), B \(offline\)")],
)
def test_which_one_is_asked_for(opened: Callable[..., Adb], listed: str, seen: str) -> None:
    with pytest.raises(NotReachable, match=rf"^pixel: .*exactly one device: plug it in .* it sees: {seen}$"):
        opened({"host:devices": listed})


def test_a_device_older_than_the_shell_protocol(opened: Callable[..., Adb]) -> None:
    with pytest.raises(NotReachable, match="older than Android 7"):
        opened({"host:devices": "S3R1AL\tdevice\n", "host-serial:S3R1AL:features": "cmd"}, serial="S3R1AL")


def test_a_device_that_goes_while_it_is_opened(opened: Callable[..., Adb]) -> None:
    with pytest.raises(NotReachable, match=r"^pixel: the adb server: unknown request host-serial:S3R1AL:features"):
        opened({"host:devices": "S3R1AL\tdevice\n"}, serial="S3R1AL")


def test_what_listens_is_no_adb_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_server, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(silent.getsockname()[1]))
        with pytest.raises(NotReachable, match=r"^pixel: the adb server: no answer in time"):
            Adb("pixel", DeviceEntry.model_validate({"transport": "adb", "serial": "S"})).open()
