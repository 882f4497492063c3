"""`bench devices` over ADB, both ways: a server that knows the phone, and none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketbench.cli import devices as commands
from pocketbench.config import devices as config
from pocketbench.devices import discover, roster
from pocketbench.transports import adb_direct
from tests.integration.adb_clients import AdbServer, Daemon, adb_of_its_own, daemon, entry, free_port
from tests.integration.adb_fixtures import OURS, device, environment, servers, user
from tests.integration.conftest import Bench, bench, wait_until

PYTHON = shutil.which("python3", path="/usr/bin") or "python3"


@pytest.fixture(params=OURS)
def way(request: pytest.FixtureRequest, servers: Callable[[str], AdbServer], monkeypatch: pytest.MonkeyPatch) -> str:
    """Through a server, or without."""
    if request.param == "server":
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(servers("wheel-adb").port))
    name: str = request.param
    return name


def look(**addresses: str) -> dict[str, roster.Row]:
    """A list of those devices."""
    entries = {name: entry(*told.split()) for name, told in addresses.items()}
    return {row.name: row for row in roster.look(entries, {})}


def test_a_phone_is_ready(way: str, device: Daemon) -> None:
    row = look(phone=f"{device.address} {way}")["phone"]
    assert (row.state, row.remedy, row.delegates) == ("ready", "", ("cpu",))
    assert row.survey is not None
    assert row.survey.complete
    assert list(device.root.rglob("*.log")) == [], "nothing is made there"


def test_one_that_is_locked_and_one_that_is_gone_harm_no_other(
    way: str, device: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_direct, "ALLOW_S", 3.0)
    (tmp_path / "keys").mkdir()
    with daemon(tmp_path / "locked", "--auth", str(tmp_path / "keys")) as locked, daemon(tmp_path / "dead") as dead:
        dead.process.kill()
        begin = time.monotonic()
        found = look(
            phone=f"{device.address} {way}",
            locked=f"{locked.address} {way}",
            dead=f"{dead.address} {way}",
            hung=f"127.0.0.1:{free_port()} {way}",
        )
        assert time.monotonic() - begin < roster.PATIENCE_S + 2
    assert found["phone"].state == "ready"
    assert found["locked"].state == "unauthorized"
    assert found["locked"].remedy.startswith("locked: unauthorized: unlock the device")
    assert found["dead"].state == found["hung"].state == "unreachable"
    assert "adb tcpip 5555" in found["dead"].remedy


def test_a_device_that_reads_no_more_is_given_up(
    way: str, device: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "PATIENCE_S", 3.0)
    with daemon(tmp_path / "root", "--hole-after", "10") as hung:
        found = look(phone=f"{device.address} {way}", hung=f"{hung.address} {way}")
    assert found["phone"].state == "ready"
    assert found["hung"].state == "unreachable"
    assert found["hung"].remedy.startswith("hung: ")


def test_a_server_that_is_wanted_and_not_there() -> None:
    row = look(phone="127.0.0.1:5555 server")["phone"]
    assert (row.state, "start one with" in row.remedy) == ("unreachable", True)


def test_a_phone_is_added_by_its_address(way: str, device: Daemon, bench: Bench) -> None:
    added = bench("devices", "add", device.address, "--name", "phone")
    assert added.code == 0, added.stderr
    path = bench.home / "devices.yaml"
    assert f'phone: {{transport: adb, address: "{device.address}"}}\n' in path.read_text()
    assert config.load(path)["phone"].address == device.address
    again = bench("devices", "add", device.address)
    assert (again.code, "registered already, as phone" in again.stderr) == (2, True)
    table = bench("devices")
    assert table.code == 0
    assert [line.split()[0] for line in table.stdout.splitlines()[2:]] == ["local", "phone"]


def test_one_that_is_locked_is_not_added(way: str, tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "keys").mkdir()
    with daemon(tmp_path / "locked", "--auth", str(tmp_path / "keys")) as locked:
        ended = bench("devices", "add", locked.address)
    assert ended.code == 3
    assert "tap Allow" in ended.stderr or "no answer" in ended.stderr
    assert not (bench.home / "devices.yaml").exists()


def test_the_servers_phones_are_offered(
    user: Path, device: Daemon, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New ones can be chosen; the others are named with what they need."""
    (tmp_path / "keys").mkdir()
    locked = daemon(tmp_path / "locked", "--auth", str(tmp_path / "keys"))
    with adb_of_its_own(user) as server, locked as other, daemon(tmp_path / "second") as second:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        nothing = bench("devices", "add")
        assert (nothing.code, "sees no phone that could be added" in nothing.stderr) == (2, True)
        for one in (device, other, second):
            server("connect", one.address)
        assert wait_until(lambda: list(discover.server_states().values()).count("device") == 2, 10)
        ended = bench("devices", "add")
        assert ended.code == 2
        assert "no terminal to ask at" in ended.stderr
        assert f"{other.address}: unauthorized: unlock the device" in ended.stderr
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(commands, "at_terminal", lambda: True)
        wrong = CliRunner().invoke(commands.devices, ["add"], input="7\n")
        assert "give numbers from 1 to 2" in str(wrong.exception)
        done = CliRunner().invoke(commands.devices, ["add"], input="1\n")
        assert done.exception is None, done.output
        rest = CliRunner().invoke(commands.devices, ["add"], input="all\n")
        assert rest.exception is None, rest.output
        found = config.load(tmp_path / "devices.yaml")
    assert {told.address for name, told in found.items() if name != "local"} == {device.address, second.address}
    assert len({name for name in found}) == 3


def test_a_check_a_log_and_a_command(way: str, tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path / "root") as one:
        (bench.home / "devices.yaml").write_text(
            f"devices:\n  phone: {{transport: adb, address: '{one.address}', adb: {way}, "
            f"workdir: {tmp_path / 'work'}, python: {PYTHON}}}\n"
        )
        ended = bench("devices", "check", "phone")
        if "cannot be installed" in ended.stdout:
            pytest.skip(f"no package index here: {ended.stdout}")
        assert ended.code == 0, ended.stdout + ended.stderr
        assert "phone: ok       timing     a model that sleeps 10 ms took 1" in ended.stdout
        log = bench("devices", "log", "phone")
        assert (log.code, "phone: " in log.stdout) == (0, True)
        shell = bench("devices", "shell", "phone", "echo out; echo err >&2; exit 5")
        assert (shell.code, shell.stdout, shell.stderr) == (5, "out\n", "err\n")
    gone = bench("devices", "check", "phone")
    assert gone.code == 3
    assert gone.stdout.startswith("phone: failed   reach")
