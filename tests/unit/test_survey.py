"""The survey: one script that every shell understands, and an answer that may be anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.config.devices import DeviceEntry
from pocketbench.devices import roster
from pocketbench.devices.survey import SCRIPT, Survey, parse, places, unusable

PIXEL = b"""\
system=Linux
arch=aarch64
elf=\x7fELF\x02
time=1700000000
workdir=/data/local/tmp/pocketbench
lease={"epoch": 3, "owner": "ann@lab (process 7)", "until_unix_s": 1700000042}
df=/dev/block/dm-42  112345678 45678901  66666777      41% /data
writable=1
seccomp=Seccomp:\t0
cpu=Hardware\t: Qualcomm
ro.product.manufacturer=Google
ro.product.model=Pixel 8
ro.soc.manufacturer=Google
ro.soc.model=Tensor G3
ro.board.platform=zuma
ro.build.version.release=14
ro.build.version.sdk=34
zone=BIG
zone=G3D
zone=battery
cpufreq=1
supply=Battery
supply=USB
end=1
"""
PI = b"""\
system=Linux
arch=aarch64
elf=\x7fELF\x02
time=1700000000
workdir=/home/pi/.cache/pocketbench
df=/dev/mmcblk0p2  30000000 9000000  20000000      31% /
writable=1
seccomp=Seccomp:\t2
os=PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
model=Raspberry Pi 5 Model B Rev 1.0 \x00
compatible=raspberrypi,5-model-b brcm,bcm2712 \x00
zone=cpu-thermal
cpufreq=1
hwmon=rpi_volt
hwmon=ina226
end=1
"""


def test_a_phone() -> None:
    told = parse(PIXEL)
    assert (told.model, told.soc, told.os) == ("Google Pixel 8", "Google Tensor G3", "Android 14 (API 34)")
    assert (told.arch, told.bits, told.seccomp, told.writable) == ("aarch64", 64, 0, True)
    assert told.free_bytes == 66666777 * 1024
    assert told.holder == "ann@lab (process 7) for 42 s more (it may renew)"
    assert told.sensors == ("heat x3", "clock", "battery", "usb")
    assert unusable(told, "adb") == ""


def test_a_board() -> None:
    told = parse(PI)
    assert told.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert (told.soc, told.os) == ("bcm2712", "Debian GNU/Linux 12 (bookworm)")
    assert (told.seccomp, told.holder) == (2, "")
    assert told.sensors == ("heat x1", "clock", "rpi_volt", "ina226")
    assert unusable(told, "ssh") == ""


def test_windows_line_ends_change_nothing() -> None:
    assert parse(PIXEL.replace(b"\n", b"\r\n")) == parse(PIXEL)


UNUSABLE = {
    "32 bits": (PI.replace(b"aarch64", b"armv7l").replace(b"F\x02", b"F\x01"), "32-bit system (armv7l)"),
    "a 32-bit system on a 64-bit kernel": (PI.replace(b"F\x02", b"F\x01"), "32-bit system (aarch64)"),
    "another processor": (PI.replace(b"aarch64", b"riscv64"), "the processor is riscv64 (riscv64): a 64-bit system on"),
    "another system": (PI.replace(b"system=Linux", b"system=Darwin"), "no Linux (it says 'Darwin')"),
    "no room": (PI.replace(b"20000000", b"20000"), "20 MB are free at /home/pi/.cache/pocketbench, 300 are needed"),
    "not writable": (PI.replace(b"writable=1", b"writable=0"), "cannot be written there: name another folder"),
    "cut off": (PI[:200], "its answer broke off"),
    "nothing": (b"", "its answer broke off"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_says_why(name: str) -> None:
    answer, why = UNUSABLE[name]
    assert why in unusable(parse(answer), "ssh")
    row = roster.judged(roster.Row("pi", "ssh", "pi.lan", "unreachable"), parse(answer), None)
    assert (row.state, dict(row.runtimes), row.delegates) == ("not usable", {}, ())
    assert row.remedy.startswith("pi: ")


def test_busy_by_the_store_or_by_the_device() -> None:
    base = roster.Row("phone", "adb", "37101", "unreachable")
    row = roster.judged(base, parse(PIXEL), None)
    assert (row.state, row.delegates) == ("busy", ("cpu",))
    assert "ann@lab (process 7) for 42 s more" in row.remedy
    free = parse(PIXEL.replace(b"1700000042", b"1699999999"))
    assert roster.judged(base, free, None).state == "ready"
    row = roster.judged(base, free, "bob@desk until 12:00:00 at least (it may renew)")
    assert (row.state, "bob@desk until 12:00:00" in row.remedy) == ("busy", True)
    assert row.runtimes["onnxruntime"][-1] == "1.32.0"


@pytest.mark.parametrize(
    "lease",
    [
        '{"epoch": 3, "owner": "ann"}',
        '{"owner": "", "until_unix_s": 1e11}',
        '{"owner": "ann", "until_unix_s": "soon"}',
        '{"owner": "ann", "until_unix_s": NaN}',
        '{"owner": "ann", "until_unix_s": 1e999}',
        "[]",
        "{",
        "null",
        "[" * 100_000,
    ],
)
def test_a_lease_that_says_no_end_is_none(lease: str) -> None:
    assert parse(PIXEL.replace(PIXEL.split(b"lease=")[1].split(b"\n")[0], lease.encode())).holder == ""


def test_what_could_break_a_terminal_is_escaped_and_cut() -> None:
    told = parse(PIXEL.replace(b"Pixel 8", b"\x1b[31mPixel" + b"x" * 9999))
    assert told.model.isprintable()
    assert len(told.model) < 250


@given(st.data())
def test_any_bytes_are_an_answer(data: st.DataObject) -> None:
    """Cut, with lines lost, doubled, shuffled or replaced by anything: never an error."""
    lines = data.draw(st.lists(st.sampled_from(PIXEL.split(b"\n")) | st.binary(max_size=40), max_size=40))
    told = parse(b"\n".join(lines)[: data.draw(st.integers(0, 2000))])
    assert told.model.isprintable() and told.soc.isprintable() and told.os.isprintable()
    assert isinstance(unusable(told, "adb"), str)
    assert told.holder.isprintable()


@given(st.integers(0, len(PIXEL)))
def test_a_truncated_answer_is_never_taken_for_a_whole_one(length: int) -> None:
    told = parse(PIXEL[:length])
    assert told.complete == (length >= len(PIXEL) - 2)
    assert told.complete or unusable(told, "adb")


SHELLS = ("dash", "bash", "mksh", "busybox")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("workdir", [None, "/no/such folder/it's", "relative/a b", "~/a b", "/"])
def test_the_script_runs_in_every_shell(shell: str, workdir: str | None, tmp_path: Path) -> None:
    told = _run(shell, DeviceEntry(transport="ssh", host="x", workdir=workdir), tmp_path)
    assert told.complete
    assert (told.system, told.bits) == ("Linux", 64)
    shown = {None: f"{tmp_path}/.cache/pocketbench", "relative/a b": "/relative/a b", "~/a b": f"{tmp_path}/a b"}
    assert told.workdir == shown.get(workdir, workdir)
    assert told.free_bytes is not None
    assert told.os
    assert list(tmp_path.iterdir()) == [], "nothing is made on the device"


@pytest.mark.parametrize("shell", SHELLS)
def test_android_is_known_by_its_properties(shell: str, tmp_path: Path) -> None:
    """`getprop` on the path is what makes a device an Android."""
    stub = tmp_path / "bin" / "getprop"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\ncase "$1" in *model) echo "Pixel 8";; *release) echo 14;; *sdk) echo 34;; esac\n')
    stub.chmod(0o755)
    told = _run(shell, DeviceEntry(transport="adb", serial="x"), tmp_path, str(stub.parent))
    assert (told.model, told.os) == ("Pixel 8", "Android 14 (API 34)")


def test_the_script_runs_on_what_android_has(tmp_path: Path) -> None:
    """mksh with toybox and nothing else on the path, as close to a phone's shell as Debian has it."""
    toybox, mksh = shutil.which("toybox"), shutil.which("mksh")
    if toybox is None or mksh is None:
        pytest.skip("no toybox or mksh here: apt-get install toybox mksh")
    folder = tmp_path / "bin"
    folder.mkdir()
    applets = subprocess.run([toybox], capture_output=True, text=True, check=True, timeout=10).stdout.split()
    for applet in applets:
        (folder / applet).symlink_to(toybox)
    command = [mksh, "-c", f"{places(DeviceEntry(transport='ssh', host='x'))}\n{SCRIPT}"]
    environment = {"HOME": str(tmp_path / "home"), "PATH": str(folder)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=30, check=True)
    assert done.stderr == b""
    told = parse(done.stdout)
    assert (told.complete, told.system, told.bits) == (True, "Linux", 64)
    assert told.free_bytes is not None


def test_another_board_under_the_same_name() -> None:
    """It has another identity; the same one has the same, whatever it measures or has on its disk meanwhile."""
    own = PIXEL.replace(b"system=", b"node=a\nmachine=1\nro.serialno=S1\nro.build.fingerprint=F1\nsystem=", 1)
    for what in (b"node=a", b"machine=1", b"ro.serialno=S1", b"ro.build.fingerprint=F1", b"Pixel 8"):
        assert what in own and parse(own.replace(what, what + b"x")).identity != parse(own).identity, what
    for what in (b"\ntime=", b"\nlease=", b"\ndf=", b"\nzone="):
        assert what in own and parse(own.replace(what, what + b"1")).identity == parse(own).identity, what


def test_a_lease_with_backslashes_survives_the_shell(tmp_path: Path) -> None:
    """dash's echo would read `\\c` and stop there."""
    home = tmp_path / "w" / "home"
    home.mkdir(parents=True)
    owner = 'LAB\\carl "x" \n'
    (home / "lease.json").write_text(json.dumps({"epoch": 1, "owner": owner, "until_unix_s": time.time() + 80}))
    told = _run("dash", DeviceEntry(transport="ssh", host="x", workdir=str(tmp_path / "w")), tmp_path)
    assert told.complete
    assert told.holder.startswith('LAB\\carl "x"')


def _run(shell: str, entry: DeviceEntry, home: Path, path: str = "") -> Survey:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here: apt-get install {shell}")
    words = [program, *(["sh"] if shell == "busybox" else []), "-c", f"{places(entry)}\n{SCRIPT}"]
    environment = {"HOME": str(home), "PATH": f"{path}:/usr/bin:/bin"}
    done = subprocess.run(words, capture_output=True, env=environment, cwd="/", timeout=30, check=True)
    assert done.stderr == b""
    return parse(done.stdout)
