"""A device made ready for measuring (`prepare:` in devices.yaml), and put back as it was, also after a crash.

Android's own commands, as AOSP documents them, and the kernel's files (wake locks as in its
Documentation/power, cpusets as Android's init makes them), which only root may write; run by the device's shell. None
of it was seen on a phone yet. POCKETBENCH_ROOT is empty on a device.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pocketbench.config.devices import DeviceEntry, Prepare
from pocketbench.errors import DeviceError
from pocketbench.fleet.link import Link
from pocketbench.fleet.restore import CommandFailed, Journal, run_here
from pocketbench.transports import Completed

Say = Callable[[str], None]

# They are of processes: an agent that follows another has not been told.
OF_PROCESSES = ("foreground",)
# A setting may take a moment to show.
SETTLE_S, LOOK_S = 2.0, 0.25


@dataclass(frozen=True)
class Setting:
    """How it is read, what the answer looks like, and how it is set to what was read or is wanted."""

    read: str
    answer: str
    on: str
    off: str
    change: str

    def command(self, value: str) -> str:
        """The shell line that sets it."""
        return self.change.format(value=shlex.quote(value), word="enable" if value == self.on else "disable")


SETTINGS: Mapping[str, Setting] = {
    "stay_awake": Setting(
        "settings get global stay_on_while_plugged_in",
        r"\d+",
        "7",
        "0",
        "settings put global stay_on_while_plugged_in {value}",
    ),
    "airplane_mode": Setting(
        "settings get global airplane_mode_on", "[01]", "1", "0", "cmd connectivity airplane-mode {word}"
    ),
    "battery_saver": Setting("settings get global low_power", "[01]", "1", "0", "cmd power set-mode {value}"),
    "doze": Setting("dumpsys deviceidle enabled", "[01]", "1", "0", "dumpsys deviceidle {word}"),
    "screen": Setting(
        'case "$(dumpsys power)" in *mWakefulness=Awake*) echo 224 ;; *mWakefulness=*) echo 223 ;; esac',
        "22[34]",
        "224",
        "223",
        "input keyevent {value}",
    ),
    "wake_lock": Setting(
        'file="$POCKETBENCH_ROOT/sys/power/wake_lock"; test -w "$file" && case " $(cat "$file") " in '
        '*" pocketbench "*) echo wake_lock ;; *) echo wake_unlock ;; esac',
        "wake_(un)?lock",
        "wake_lock",
        "wake_unlock",
        'echo pocketbench > "$POCKETBENCH_ROOT/sys/power/"{value}',
    ),
    # Of the device's agent, or several, and what they have begun already; their workers inherit it.
    "foreground": Setting(
        'for p in $(pgrep -f "$agent"); do cat "/proc/$p/cpuset"; done',
        r"/[\w./-]{0,100}",
        "/foreground",
        "/background",
        'for a in $(pgrep -f "$agent"); do for p in $a $(pgrep -P "$a"); do '
        # One that has ended meanwhile is none of those that are looked at afterwards.
        'echo "$p" > "$POCKETBENCH_ROOT/dev/cpuset"{value}/cgroup.procs; done; done; true',
    ),
}


@contextlib.contextmanager
def prepared(device: str, entry: DeviceEntry, link: Link, say: Say) -> Iterator[Sequence[str]]:
    """What an earlier run left is put back first; then what the entry wants is set, and put back at the end.

    Yields what is not as it is wanted, and why; that may grow when the link is opened anew.
    """
    wanted = (entry.prepare or Prepare()).model_dump(exclude_none=True)
    failed: list[str] = []

    def make(names: Iterable[str], again: bool = False) -> None:
        for name in names:
            why = _set(device, entry, name, bool(wanted[name]), link, again)
            if why and why not in failed:
                say(f"prepare: {why}")
                failed.append(why)

    _put_back(device, link, say)
    try:
        make(wanted)
        link.reopened = lambda: make([name for name in OF_PROCESSES if name in wanted], again=True)
        yield failed
    finally:
        link.reopened = None
        _put_back(device, link, say)


def supply_restored(device: str, say: Say) -> None:
    """Put back what this host's own commands changed, before the device is reached: it may be without power."""
    journal = Journal(device)
    for what, where, command in journal.pending():
        if where == "host":
            try:
                run_here(command, device)
            except CommandFailed as error:
                say(f"{what} could not be put back: {error}")
                continue
            say(f"{what} was left changed by an earlier run, and is put back")
            journal.forget(what)


def _set(device: str, entry: DeviceEntry, name: str, wanted: bool, link: Link, again: bool) -> str:
    """Why it is not as wanted, or an empty string. What is set again has its way back already."""
    setting = SETTINGS[name]
    if name == "airplane_mode" and wanted and (entry.transport == "ssh" or entry.address):
        return "airplane_mode is left alone: it would cut the link"
    answers = _ask(link, setting)
    if not answers:
        return f"{name} cannot be read on this device, and is left alone"
    value = setting.on if wanted else setting.off
    before = next((answer for answer in answers if answer != value), value)
    if before == value:
        return ""
    if not again:
        Journal(device).remember(name, "device", setting.command(before))
    _shell(link, setting.command(value))
    return "" if _holds(link, setting, setting.command(value)) else f"{name} could not be set"


def _shell(link: Link, line: str) -> Completed:
    """A line for the device's shell; `$agent` there is a pattern for the command line of the agent."""
    pattern = "[p]ocketbench_agent --home " + re.sub(r"[^\w/]", ".", link.agent_home) + "( |$)"
    return link.shell(f"agent={shlex.quote(pattern)}; {line}")


def _ask(link: Link, setting: Setting) -> Sequence[str]:
    """Its answers, of several processes one each; none where it cannot be read."""
    answers = _shell(link, setting.read).stdout.decode(errors="replace").split()
    return answers if all(re.fullmatch(setting.answer, answer) for answer in answers) else ()


def _holds(link: Link, setting: Setting, command: str) -> bool | None:
    """Is it as that command makes it? None where it cannot be read."""
    until = time.monotonic() + SETTLE_S
    while now := _ask(link, setting):
        if all(setting.command(answer) == command for answer in now):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_S)
    return None


def _put_back(device: str, link: Link, say: Say) -> None:
    """Everything that the journal has of the device; what fails stays in it for the next run."""
    journal = Journal(device)
    for what, where, command in journal.pending():
        if where == "device":
            try:
                code = _shell(link, command).code
                setting = SETTINGS.get(what)
                held = _holds(link, setting, command) if setting is not None else None
                # One that could not be set cannot be put back either, and is as it was.
                if held or (held is None and code == 0):
                    journal.forget(what)
                    continue
                why = f"{command!r} {'failed' if code else 'changed nothing'}"
            except DeviceError as error:
                why = str(error)
            say(f"{what} could not be put back: {why}; the next run tries again")
