"""The health check's judgement, with a device that answers as told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pocketbench.config.devices import DeviceEntry
from pocketbench.devices import health
from pocketbench.devices.survey import Survey
from pocketbench.errors import LeaseLost, NotReachable
from pocketbench.measurement import Observation, Reading
from pocketbench.transports import Completed, Sent, Spawned, unheard

ENTRY = DeviceEntry(transport="ssh", host="x", workdir="/mnt/a b")
MOUNTS = [
    "/dev/root / ext4 rw,relatime 0 0",
    "tmpfs /mnt/a\\040b tmpfs rw,nosuid,noexec 0 0",
    "tmpfs /mnt/a\\040b/inner tmpfs rw 0 0",
    "tmpfs /mnt/a tmpfs rw,noexec 0 0",
    "garbled",
]


class Answering:
    """A transport whose every command ends as told."""

    def __init__(self, stdout: bytes, stderr: bytes = b"", code: int = 0) -> None:
        self._done = Completed(code, stdout, stderr)

    def open(self) -> None:
        """Nothing to do."""

    def push(self, source: Path, target: str, sent: Sent = unheard) -> None:
        """Nothing to do."""

    def run(self, command: Sequence[str], timeout_s: float) -> Completed:
        """As told."""
        return self._done

    def spawn(self, command: Sequence[str], first_line: str) -> Spawned:
        """Not in these tests."""
        raise NotReachable("x")

    def forward(self, port: int) -> str:
        """Not in these tests."""
        raise NotReachable("x")

    def close(self) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(
    ("folder", "mount"),
    [("/mnt/a b", "/mnt/a b"), ("/mnt/a b/w", "/mnt/a b"), ("/mnt/a b/inner/w", ""), ("/mnt/ab", ""), ("/", "")],
)
def test_the_mount_that_forbids_programs_is_named(folder: str, mount: str) -> None:
    assert health.noexec(folder, MOUNTS) == mount


def test_a_script_that_does_not_run_says_why() -> None:
    ran = health._exec(ENTRY, Answering(b"ran\nat=/mnt/a b\n"))
    assert ran.verdict == "ok"
    mounted = health._exec(ENTRY, Answering(("at=/mnt/a b/w\n" + "\n".join(MOUNTS)).encode(), b"sh: denied\n"))
    assert (mounted.verdict, "/mnt/a b is mounted noexec" in mounted.text) == ("failed", True)
    denied = health._exec(ENTRY, Answering(b"at=/mnt/ab\n", b"sh: w/.check: Permission denied\n"))
    assert (denied.verdict, "Permission denied: name another folder" in denied.text) == ("failed", True)
    unmade = health._exec(ENTRY, Answering(b"", b"mkdir: Read-only file system\n", 3))
    assert "Read-only file system" in unmade.text


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "word"),
    [(0, "ok", "within 3 s"), (60, "warning", "s ahead of"), (-86400, "warning", "86400 s behind")],
)
def test_a_clock_that_is_off_is_said_by_how_much(ahead_s: int, verdict: str, word: str) -> None:
    found = health._clock(Answering(f"{int(time.time()) + ahead_s}\n".encode()))
    assert found.verdict == verdict
    assert word in found.text.replace("86399", "86400").replace("86401", "86400")


@pytest.mark.parametrize("said", [b"", b"date: bad\n", b"-5", b"9" * 40, b"\xff"])
def test_a_clock_that_cannot_be_read_is_said(said: bytes) -> None:
    assert health._clock(Answering(said)).verdict == "warning"


@pytest.mark.parametrize(("mode", "verdict"), [(0, "ok"), (2, "warning"), (None, "warning")])
def test_a_filter_of_system_calls(mode: int | None, verdict: str) -> None:
    assert health._seccomp(Survey(complete=True, seccomp=mode)).verdict == verdict


def test_what_the_sensors_say_and_what_is_not_there() -> None:
    seen = Observation(
        (
            Reading("thermal:zone0", "temperature", "millicelsius", (1,), (41_500,)),
            Reading("thermal:zone1", "temperature", "millicelsius", (1,), (38_000,)),
            Reading("cpufreq", "frequency", "khz", missing="no cpufreq is offered"),
        ),
        "boot",
    )
    found = {finding.check: finding.text for finding in health.readings(seen)}
    assert found == {
        "heat": "38.0 to 41.5 °C",
        "frequency": "unavailable (no cpufreq is offered)",
        "load": "unavailable (not offered)",
    }


def test_a_device_that_cannot_be_reached_is_one_finding() -> None:
    (found,) = health.check("pi", DeviceEntry(transport="ssh"), None, print)  # type: ignore[arg-type]
    assert (found.check, found.verdict) == ("reach", "failed")
    assert found.text == "transport ssh needs 'host' in devices.yaml"


def test_a_lease_that_went_meanwhile_says_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host stood still in its check, and somebody else has the device: no fault."""

    def gone(*_: object) -> Iterator[health.Finding]:
        raise LeaseLost("pi: held by bob")
        yield

    monkeypatch.setattr(health, "_system", gone)
    found = [one.check for one in health.check("pi", DeviceEntry(transport="local"), None, print)]  # type: ignore[arg-type]
    assert found == ["reach", "lease"]


def test_the_known_model_is_small() -> None:
    assert health.MODEL.stat().st_size < 5000
