"""`prepare:` through the command line: a phone whose settings are set and put back, behind the ADB daemon."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.adb_clients import adb_of_its_own, daemon
from tests.integration.conftest import DIGITS, QUICK, ROOT, Bench, Ended, wait_until, workers
from tests.peers import native_tool

TFLITE = DIGITS / "digits-int8.tflite"
TOLD = ROOT / "tests" / "data" / "native" / "benchmark_model-2.19-gpu-full.txt"
# What AOSP's programs of these names do to a setting: a file below $STATE, and a line of `log` for each change.
# `deaf` there names settings that stay as they are, and the exit code of who tries.
PROGRAM = """#!/bin/sh
get() { cat "$STATE/$1" 2>/dev/null || echo null; }
put() {
    while read -r name code; do [ "$name" = "$1" ] && exit "$code"; done < "$STATE/deaf"
    echo "$2" > "$STATE/$1"; echo "$1=$2" >> "$STATE/log"
}
case "${0##*/} $*" in
    "settings get global "*) get "$3" ;;
    "settings put global "*) put "$3" "$4" ;;
    "cmd connectivity airplane-mode enable") put airplane_mode_on 1 ;;
    "cmd connectivity airplane-mode disable") put airplane_mode_on 0 ;;
    "cmd power set-mode "*) put low_power "$3" ;;
    "dumpsys deviceidle enabled") get deep_idle ;;
    "dumpsys deviceidle enable") put deep_idle 1 ;;
    "dumpsys deviceidle disable") put deep_idle 0 ;;
    "dumpsys power") printf '  mWakefulness=%s\\n  mWakefulnessChanging=false\\n' "$(get awake)" ;;
    "input keyevent 224") put awake Awake ;;
    "input keyevent 223") put awake Asleep ;;
    *) exit 1 ;;
esac
"""
NAMES = ("stay_awake", "airplane_mode", "battery_saver", "doze", "screen")
HELD = "pocketbench\n"
ROOTS = "prepare: {wake_lock: true, foreground: true}"
BEFORE = {
    "stay_on_while_plugged_in": "3",
    "airplane_mode_on": "0",
    "low_power": "1",
    "deep_idle": "1",
    "awake": "Dozing",
}
AFTER = {**BEFORE, "awake": "Asleep"}
WANTED = "prepare: {stay_awake: true, airplane_mode: true, battery_saver: false, doze: false, screen: true}"
PREPARED = {
    "stay_on_while_plugged_in": "7",
    "airplane_mode_on": "1",
    "low_power": "0",
    "deep_idle": "0",
    "awake": "Awake",
}


@dataclass(frozen=True)
class Phone:
    """One on a cable, as far as the host can tell: an adb server has it by a serial number."""

    bench: Bench
    serial: str
    state: Path

    def describe(self, prepare: str = "", how: str = "normal") -> None:
        """A devices.yaml with it."""
        tool = native_tool.write(self.bench.home / how / "benchmark_model", TOLD, how)
        (self.bench.home / "devices.yaml").write_text(
            f"devices:\n  phone:\n    transport: adb\n    serial: '{self.serial}'\n    python: host\n"
            f"    workdir: {self.bench.home}/there\n    native_tools: {{benchmark_model: {tool}}}\n    {prepare}\n"
        )

    def measure(self) -> str:
        """A run; what it said meanwhile."""
        return self.ended().stderr

    def ended(self) -> Ended:
        """A run that went well."""
        ended = self.bench(*self.words, *QUICK, "--format", "json")
        assert ended.code == 0, ended.stderr
        return ended

    @property
    def words(self) -> tuple[object, ...]:
        """Of the command line."""
        return ("--device", "phone", "--model", TFLITE, "--runtime", "native", "--delegate", "gpu")

    def deaf(self, **codes: int) -> None:
        """These settings stay as they are from now on; what their programs end with."""
        (self.state / "deaf").write_text("".join(f"{name} {code}\n" for name, code in codes.items()))

    def settings(self) -> Mapping[str, str]:
        """As they are."""
        return {name: (self.state / name).read_text().strip() for name in BEFORE}

    def changes(self) -> list[str]:
        """All that were made, in their order."""
        log = self.state / "log"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def phone(bench: Bench) -> Iterator[Phone]:
    """Behind an adb server of its own."""
    with _phone(bench) as made:
        yield made


@contextmanager
def _phone(bench: Bench) -> Iterator[Phone]:
    state, root = bench.home / "state", bench.home / "phone"
    state.mkdir()
    for name, value in BEFORE.items():
        (state / name).write_text(f"{value}\n")
    for name in ("settings", "cmd", "dumpsys", "input"):
        program = root / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
    with daemon(root, STATE=str(state)) as device, adb_of_its_own(bench.home) as server:
        server("connect", device.address)
        bench.environment["ANDROID_ADB_SERVER_PORT"] = str(server.port)
        made = Phone(bench, device.address, state)
        made.deaf()
        yield made


def warned(ended: Ended, code: str) -> str:
    """What its one row says under that code; empty where it does not have it."""
    (result,) = ended.results
    return "".join(r["message"] for r in result["reasons"] if (r["code"], r["severity"]) == (code, "warn"))


def journal(bench: Bench, device: str = "phone") -> list[str]:
    """What is still to be put back."""
    path = bench.home / "xdg_state_home" / "pocketbench" / "restore" / f"{device}.json"
    return [what for what, _, _ in json.loads(path.read_text())] if path.exists() else []


def test_a_phone_is_prepared_and_put_back(phone: Phone) -> None:
    """Each setting once there and once back, the last change first."""
    phone.describe(WANTED)
    ended = phone.ended()
    said, changes = ended.stderr, phone.changes()
    assert sorted(changes[:5]) == sorted(f"{name}={value}" for name, value in PREPARED.items()), said
    assert [change.partition("=")[0] for change in changes[5:]] == [
        change.partition("=")[0] for change in reversed(changes[:5])
    ]
    assert (phone.settings(), journal(phone.bench), "prepare:" in said) == (AFTER, [], False), said
    assert warned(ended, "not_prepared") == ""
    phone.describe("prepare: {battery_saver: true, doze: true}")
    phone.measure()
    assert len(phone.changes()) == 10, "what is as it is wanted is left alone"


def test_a_phone_is_put_back_after_a_host_that_was_killed(phone: Phone) -> None:
    """By the next run, which wants none of it; what cannot be put back then by the one after it, and that a program
    ends with 0 is no proof.
    """
    phone.describe(WANTED, "hangs")
    running = phone.bench.start(*phone.words, *QUICK)
    hung = wait_until(lambda: phone.settings() == PREPARED, 30)
    running.kill()
    said = running.communicate(timeout=30)
    assert hung, said
    assert (phone.settings(), len(journal(phone.bench))) == (PREPARED, 5)
    phone.deaf(low_power=0, deep_idle=1)
    phone.describe()
    told = phone.measure()
    assert "battery_saver could not be put back: 'cmd power set-mode 1' changed nothing; the next run tries" in told
    assert "doze could not be put back: 'dumpsys deviceidle enable' failed; the next run tries" in told
    assert phone.settings() == {**AFTER, "low_power": "0", "deep_idle": "0"}
    assert sorted(journal(phone.bench)) == ["battery_saver", "doze"]
    phone.deaf()
    assert "put back" not in phone.measure()
    assert (phone.settings(), journal(phone.bench)) == (AFTER, [])


def test_what_could_not_be_set_need_not_be_put_back(phone: Phone) -> None:
    """It is said once, and in the row; no later run speaks of it. Whether the program admits it or not."""
    phone.deaf(**{name: code % 2 for code, name in enumerate(BEFORE)})
    phone.describe(WANTED)
    ended = phone.ended()
    said = ended.stderr
    for name in NAMES:
        assert f"prepare: {name} could not be set" in said, said
        assert f"{name} could not be set" in warned(ended, "not_prepared"), ended.stdout
    assert ("put back" in said, journal(phone.bench), phone.settings()) == (False, [], BEFORE), said


def test_a_link_that_needs_the_radio_keeps_it(phone: Phone) -> None:
    """Airplane mode over Wi-Fi."""
    phone.describe("prepare: {airplane_mode: true}")
    path = phone.bench.home / "devices.yaml"
    path.write_text(path.read_text().replace("serial:", "address:"))
    ended = phone.ended()
    assert "airplane_mode is left alone: it would cut the link" in ended.stderr
    assert "airplane_mode is left alone" in warned(ended, "not_prepared")
    assert phone.changes() == []


def test_what_is_no_phone_is_left_alone(bench: Bench) -> None:
    """Nothing can be read, nothing is written down, and no later run speaks of it."""
    (bench.home / "devices.yaml").write_text(f"devices:\n  local: {{transport: local, {WANTED}}}\n")
    told = ("--device", "local", "--model", bench.null(sleep_ms=1), *QUICK)
    ended = bench(*told, "--format", "json")
    for name in NAMES:
        assert f"prepare: {name} cannot be read on this device, and is left alone" in ended.stderr
        assert f"{name} cannot be read" in warned(ended, "not_prepared")
    assert ("put back" in ended.stderr, journal(bench, "local")) == (False, [])


@pytest.fixture
def wake_locks(bench: Bench) -> Path:
    """A root folder with the kernel's files of wake locks, and what it does with them."""
    root = bench.home / "root"
    power = root / "sys/power"
    power.mkdir(parents=True)
    (power / "wake_lock").touch()
    os.mkfifo(power / "wake_unlock")
    threading.Thread(target=_unlock, args=(power,), daemon=True).start()
    bench.environment["POCKETBENCH_ROOT"] = str(root)
    return root


@pytest.fixture
def kernel(wake_locks: Path) -> Iterator[Path]:
    """The same with the kernel's own cpusets, as Android's init makes them."""
    cpusets = wake_locks / "dev/cpuset"
    cpusets.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "cgroup", "-o", "cpuset,noprefix", "none", cpusets], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cpusets cannot be mounted here: {mounted.stderr.strip()}")
    group = cpusets / "foreground"
    try:
        group.mkdir()
        for name in ("cpus", "mems"):
            path = next(one for one in (cpusets / name, cpusets / f"cpuset.{name}") if one.exists())
            (group / path.name).write_text(path.read_text())
        yield wake_locks
    finally:
        for pid in (group / "cgroup.procs").read_text().split() if group.exists() else ():
            (cpusets / "cgroup.procs").write_text(pid)
        if group.exists():
            group.rmdir()
        subprocess.run(["umount", cpusets], check=True)


def _unlock(power: Path) -> None:
    """What the kernel does where a name is written to wake_unlock."""
    while power.exists():
        if (power / "wake_unlock").read_text():
            (power / "wake_lock").write_text("")


@pytest.mark.parametrize(("wanted", "before", "meanwhile"), [(True, "", HELD), (False, HELD, ""), (True, HELD, HELD)])
def test_a_wake_lock_is_held_while_it_is_measured(
    bench: Bench, wake_locks: Path, wanted: bool, before: str, meanwhile: str
) -> None:
    """Or let go; afterwards it is as before."""
    lock = wake_locks / "sys/power/wake_lock"
    lock.write_text(before)
    wake_lock(bench, wanted)
    told = (*QUICK, "--max-time", "3", "--format", "json")
    running = bench.start("--device", "local", "--model", bench.null(sleep_ms=20), *told)
    began = wait_until(lambda: bool(workers(bench)), 30)
    seen = lock.read_text()
    stdout, stderr = running.communicate(timeout=60)
    assert (began, seen, running.returncode) == (True, meanwhile, 0), stderr
    assert wait_until(lambda: lock.read_text() == before, 10)
    assert ("prepare:" in stderr, "not_prepared" in stdout, journal(bench, "local")) == (False, False, []), stderr


def test_a_wake_lock_that_only_root_may_write_is_left_alone(bench: Bench, wake_locks: Path) -> None:
    """As it is on a phone that is not rooted."""
    lock = wake_locks / "sys/power/wake_lock"
    lock.chmod(0o444)
    if os.access(lock, os.W_OK):
        pytest.skip("root may write everything: a wake lock that is not ours was not tried")
    wake_lock(bench, True)
    ended = bench("--device", "local", "--model", bench.null(sleep_ms=1), *QUICK, "--format", "json")
    assert "prepare: wake_lock cannot be read on this device, and is left alone" in ended.stderr
    assert "wake_lock cannot be read" in warned(ended, "not_prepared")
    assert (lock.read_text(), journal(bench, "local")) == ("", [])


def wake_lock(bench: Bench, wanted: bool) -> None:
    """A devices.yaml that asks for that."""
    asked = f"prepare: {{wake_lock: {str(wanted).lower()}}}"
    (bench.home / "devices.yaml").write_text(f"devices:\n  local: {{transport: local, {asked}}}\n")


def cpuset(pid: int) -> str:
    """The one that it is in; empty where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cpuset").read_text().strip()
    return ""


def cpusets(bench: Bench) -> set[str]:
    """Those that agents and workers are in."""
    return {cpuset(pid) for pid in bench.agents()}


def test_a_device_that_neither_sleeps_nor_is_in_the_background(bench: Bench, kernel: Path) -> None:
    """A wake lock, and the agent with its workers in another cpuset; both put back, by the next run where it has to."""
    (bench.home / "devices.yaml").write_text(f"devices:\n  local: {{transport: local, {ROOTS}}}\n")
    lock = kernel / "sys/power/wake_lock"
    told = ("--device", "local", "--model", bench.null(sleep_ms=1000), *QUICK)
    running = bench.start(*told)
    moved = wait_until(lambda: len(bench.agents()) > 2 and cpusets(bench) == {"/foreground"}, 30)
    assert (moved, lock.read_text()) == (True, HELD), (cpusets(bench), bench.agents())
    running.kill()
    running.communicate(timeout=30)
    assert wait_until(lambda: not bench.agents(), 30)
    assert sorted(journal(bench, "local")) == ["foreground", "wake_lock"]
    (bench.home / "devices.yaml").unlink()
    ended = bench("--device", "local", "--model", bench.null(sleep_ms=1), *QUICK)
    assert (ended.code, "put back" in ended.stderr, journal(bench, "local")) == (0, False, []), ended.stderr
    assert wait_until(lambda: lock.read_text() == "", 10)


def test_an_agent_that_follows_a_killed_one_is_in_the_foreground_too(bench: Bench, kernel: Path) -> None:
    """Nobody moved it when the run began; the way back is the first one's."""
    (bench.home / "devices.yaml").write_text("devices:\n  local: {transport: local, prepare: {foreground: true}}\n")
    long = ("--processes", "2", "--min-time", "2", "--max-time", "3", "--cooldown", "0", "--format", "json")
    running = bench.start("--device", "local", "--model", bench.null(sleep_ms=50), *long)
    assert wait_until(lambda: bool(workers(bench)), 30)
    before = bench.agents()
    for pid in set(before) - set(workers(bench)):
        os.kill(pid, signal.SIGKILL)
    moved = wait_until(lambda: bool(set(workers(bench)) - set(before)) and cpusets(bench) == {"/foreground"}, 30)
    seen, kept = cpusets(bench), journal(bench, "local")
    stdout, stderr = running.communicate(timeout=60)
    assert (moved, kept, running.returncode) == (True, ["foreground"], 0), (seen, stderr)
    (result,) = json.loads(stdout)["results"]
    assert "not_prepared" not in [r["code"] for r in result["reasons"]], stderr
    assert (journal(bench, "local"), result["attempt"]) == ([], 2), stderr


@contextmanager
def agent_in_name(home: Path) -> Iterator[int]:
    """A process that looks like an agent of that home, and is none of this test's bench."""
    words = [sys.executable, "-c", "import time; time.sleep(120)", "pocketbench_agent", "--home", str(home)]
    with subprocess.Popen(words, env={"HOME": "/"}) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_every_agent_of_the_device_is_moved_and_no_other(bench: Bench, kernel: Path) -> None:
    """One is in the foreground already, one ended after it was found, and one is somebody else's."""
    (bench.home / "devices.yaml").write_text("devices:\n  local: {transport: local, prepare: {foreground: true}}\n")
    with subprocess.Popen(["true"]) as gone:
        pass
    finder = bench.home / "bin" / "pgrep"
    finder.parent.mkdir()
    finder.write_text(f'#!/bin/sh\n[ "$1" = -f ] && echo {gone.pid}\nexec {shutil.which("pgrep")} "$@"\n')
    finder.chmod(0o755)
    bench.environment["PATH"] = f"{finder.parent}:{os.environ['PATH']}"
    home = bench.home / "xdg_cache_home" / "pocketbench" / "agent"
    with agent_in_name(home) as ours, agent_in_name(bench.home / "elsewhere") as theirs:
        (kernel / "dev/cpuset/foreground/cgroup.procs").write_text(f"{ours}\n")
        running = bench.start("--device", "local", "--model", bench.null(sleep_ms=20), *QUICK, "--max-time", "3")
        moved = wait_until(lambda: len(bench.agents()) > 2 and cpusets(bench) == {"/foreground"}, 30)
        seen = (cpuset(ours), cpuset(theirs), cpusets(bench))
        said = running.communicate(timeout=60)
        assert (moved, *seen[:2]) == (True, "/foreground", "/"), (seen, said)
        assert (cpuset(ours), journal(bench, "local"), "prepare:" in said[1]) == ("/", [], False), said
