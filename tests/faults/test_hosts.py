"""The host's own misfortunes: signals, terminals, environments, and what a user typed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.conftest import LONG, OK, QUICK, Lab, in_a_namespace, piped, python, wait_until
from tests.integration.conftest import Ended

# How soon a run that is told to stop has stopped.
SOON_S = 6.0


def finished(process: subprocess.Popen[str], timeout_s: float = 90) -> Ended:
    """Wait for it."""
    stdout, stderr = process.communicate(timeout=timeout_s)
    return Ended(process.returncode, stdout, stderr)


def two(lab: Lab) -> list[object]:
    """Two cases on this machine."""
    models = ("--model", lab.bench.null("m", sleep_ms=5), "--model", lab.bench.null("n", sleep_ms=5))
    return ["--device", "local", *models, *LONG]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop(lab: Lab, number: signal.Signals) -> None:
    """Ctrl-C goes to everything in the terminal's group; a CI sends SIGTERM: the same well-ordered end."""
    running = lab.start(*two(lab))
    lab.in_the_middle(2)
    begin = time.monotonic()
    if number == signal.SIGINT:
        running.kill(number)
    else:
        os.kill(running.process.pid, number)
    ended = lab.check(running, 130, {})
    assert time.monotonic() - begin < SOON_S + 1
    assert "the same command with --resume goes on" in ended.stderr
    kept = lab.processes()
    assert kept >= 2
    resumed = lab.check(lab.start(*two(lab), "--resume"), 0, {"m": OK, "n": OK})
    assert lab.processes() == 12 and len(resumed.results) == 2


def test_told_to_stop_twice(pair: Lab) -> None:
    """At once, whatever hangs."""
    hangs = pair.bench.null("m", fail={"stage": "load", "how": "hang"})
    running = pair.start("--device", "a", "--device", "b", "--model", hangs, *LONG)
    assert wait_until(lambda: len(pair.workers()) == 2, 60)
    running.kill(signal.SIGINT)
    time.sleep(0.05)
    running.kill(signal.SIGINT)
    begin = time.monotonic()
    pair.check(running, 130, {}, leaves=("jobs", "lease"))
    assert time.monotonic() - begin < SOON_S


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_host_that_is_killed(lab: Lab, number: signal.Signals) -> None:
    """Or whose terminal is closed: its device is free at once, and --resume measures what is missing."""
    running = lab.start(*two(lab))
    lab.in_the_middle(3)
    running.kill(number)
    running.process.communicate()
    before, kept = lab.rows(), lab.processes()
    assert wait_until(lambda: not lab.bench.agents(), 20)
    ended = finished(lab.start(*two(lab), "--resume").process)
    lab.judge(ended, before, 0, {"m": OK, "n": OK}, leaves=("scratch",))
    assert 3 <= kept < 12 and lab.processes() == 12


def test_a_host_that_stands_still_for_a_moment(lab: Lab) -> None:
    """SIGSTOP for some seconds, as a laptop's lid: the job goes on, and is collected."""
    running = lab.start("--device", "local", "--model", lab.bench.null("m", sleep_ms=5), *LONG)
    lab.in_the_middle()
    os.kill(running.process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(running.process.pid, signal.SIGCONT)
    ended = lab.check(running, 0, {"m": OK})
    assert ended.results[0]["attempt"] == 1 and lab.processes() == 6


def test_a_device_that_another_run_has(lab: Lab) -> None:
    """The second is told who and until when, at once; the first one's run is unharmed."""
    lab.devices(a={})
    running = lab.start("--device", "a", "--model", lab.bench.null("m", sleep_ms=5), *LONG)
    lab.in_the_middle()
    second = lab.start("--device", "a", "--model", lab.bench.null("c", sleep_ms=1), *QUICK)
    told = finished(second.process)
    assert (told.code, told.results[0]["status"], told.results[0]["reasons"][0]["code"]) == (
        3,
        "SKIPPED",
        "device_busy",
    )
    assert f"(process {running.process.pid}) until " in told.stderr
    lab.check(running, 0, {"m": OK})


def ordinary(lab: Lab) -> list[object]:
    """A quick run on this machine."""
    return ["--device", "local", "--model", lab.bench.null("m", sleep_ms=1), *QUICK]


def test_no_home_and_no_names(lab: Lab) -> None:
    """HOME, USER and every folder of the user unset, as some services start programs."""
    script = "import os, sys; os.environ.pop('HOME', 0); os.environ.pop('USER', 0); os.environ.pop('LOGNAME', 0);"
    script += "os.execv(sys.executable, [sys.executable, '-m', 'pocketbench', *sys.argv[1:]])"
    words = [python(), "-c", script, *map(str, ordinary(lab))]
    lab.judge(finished(piped(lab, words)), {}, 0, {"m": OK})


@pytest.mark.parametrize("closing", ["<&-", "2>&-", "2>/dev/full"])
def test_streams_that_are_closed(lab: Lab, closing: str) -> None:
    """No stdin, no stderr, and a stderr that takes nothing: the report is whole."""
    words = ["sh", "-c", f'exec "$@" {closing}', "sh", *lab.bench.command(*ordinary(lab))]
    lab.judge(finished(piped(lab, words)), {}, 0, {"m": OK})


@pytest.mark.parametrize(("where", "code"), [("| true", 0), (">/dev/full", 2), (">&-", 2)])
def test_a_stdout_that_takes_nothing(lab: Lab, where: str, code: int) -> None:
    """A reader that went away is no error; a full disk is one, and the result is stored."""
    script = f'set -o pipefail; "$@" {where}' if where.startswith("|") else f'exec "$@" {where}'
    words = ["bash", "-c", script, "bash", *lab.bench.command(*ordinary(lab))]
    lab.judge(finished(piped(lab, words)), {}, code, {})
    assert len(lab.rows()) == 1


def test_a_terminal_that_shows_ascii_alone(lab: Lab) -> None:
    """Locale C, and names in other scripts: escaped in a table, whole in the JSON."""
    name = "модель-ü-\U0001f600"
    lab.bench.null(name, sleep_ms=1)
    lab.bench.environment.update(LC_ALL="C", PYTHONIOENCODING="ascii")
    arguments = ("--device", "local", f"--model={name}.null", *QUICK)
    lab.check(lab.start(*arguments), 0, {name: OK})
    table = lab.bench(*arguments[:-1], "table")
    assert table.code == 0 and table.stdout.isascii() and "\\u043c" in table.stdout


def test_few_files_may_be_open(lab: Lab) -> None:
    """Sixty-four."""
    words = ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh", *lab.bench.command(*two(lab))]
    lab.judge(finished(piped(lab, words)), {}, 0, {"m": OK, "n": OK})


def test_a_home_that_cannot_be_written(lab: Lab) -> None:
    """Before anything runs: where the store would be, and why not."""
    arguments = ordinary(lab)
    (lab.home / "xdg_data_home").mkdir()
    ended = finished(in_a_namespace(lab, f"mount -t tmpfs -o ro none {lab.home / 'xdg_data_home'}", *arguments))
    lab.judge(ended, {}, 2, {})
    assert ended.stderr.startswith("Error: ") and "results.db" in ended.stderr


@pytest.mark.parametrize("options", ["ro", "noexec"])
def test_a_work_folder_that_cannot_be_used(lab: Lab, options: str) -> None:
    """Read-only: SKIPPED, with the folder's name. Without the right to execute: the local agent needs none."""
    lab.devices(a={})
    folder = lab.home / "devices"
    folder.mkdir()
    arguments = ("--device", "a", "--model", lab.bench.null("m", sleep_ms=1), *QUICK)
    ended = finished(in_a_namespace(lab, f"mount -t tmpfs -o {options} none {folder}", *arguments))
    if options == "noexec":
        lab.judge(ended, {}, 0, {"m": OK})
    else:
        lab.judge(ended, {}, 3, {"m": ("SKIPPED", "not_available")})
        assert f"{folder}/a/home" in ended.stderr


def test_no_room_for_temporary_files(lab: Lab) -> None:
    """Nowhere, the folder of work included: an error in a line, before anything runs, and no fault of a device."""
    (run,) = {result["plan"]["run_id"] for result in lab.bench(*ordinary(lab)).results}
    lab.bench.environment["TMPDIR"] = str(lab.home / "gone")
    mounts = [
        "mount -t tmpfs -o ro none /var/tmp",
        "mount --bind /tmp /tmp",
        f"mount --bind {lab.home} {lab.home}",
        "mount -o bind,remount,ro /tmp",
        "cd /var/tmp",
    ]
    for words in (ordinary(lab), ("devices", "check", "local"), ("rerun", run)):
        ended = lab.judge(finished(in_a_namespace(lab, " && ".join(mounts), *words)), lab.rows(), 2, {})
        assert "Error: no folder for temporary files" in ended.stderr and "set TMPDIR" in ended.stderr, words


def test_a_device_list_that_would_never_end(lab: Lab) -> None:
    """Aliases of aliases: refused before they are unfolded, in a line."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (lab.home / "devices.yaml").write_text("\n".join([*lines, "devices: {z: *i}", ""]))
    begin = time.monotonic()
    running = lab.start("--device", "z", "--model", lab.bench.null("m"), *QUICK)
    ended = lab.check(running, 2, {})
    assert ended.stderr.startswith("Error: ") and len(ended.stderr) < 2000
    assert time.monotonic() - begin < 30


def test_python_code_in_a_device_list(lab: Lab) -> None:
    """YAML's tags make nothing."""
    (lab.home / "devices.yaml").write_text("devices: {a: !!python/object/apply:os.system ['touch pwned']}\n")
    ended = lab.check(lab.start("--device", "a", "--model", lab.bench.null("m"), *QUICK), 2, {})
    assert "devices.yaml:1" in ended.stderr
    assert not list(Path.cwd().glob("pwned")) and not list(lab.home.glob("pwned"))
