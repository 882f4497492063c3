"""What a device says of itself through one shell script: nothing is installed, made or started there.

The script keeps to what Android's mksh and toybox, Debian's dash and busybox have in common. Its answer is lines of
`key=value`; whatever is missing or garbled is unknown, never an error.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy.agent import local_home
from pocketbench.deploy.probe import ARCHITECTURES, REMEDY, WORKDIR, holder
from pocketbench.deploy.remote import ROOM_BYTES
from pocketbench.models import printable
from pocketbench.transports import Transport
from pocketbench_agent.device_info import df_free_bytes

SURVEY_S = 10.0
LONGEST = 200
# ELF's EI_CLASS (elf(5)): the fifth byte of every program.
BITS = {"\x01": 32, "\x02": 64}

SCRIPT = r"""
tell() { if [ -n "$2" ]; then printf '%s=%s\n' "$1" "$2"; fi; }
text() { { tr '\000' ' ' < "$1"; } 2>/dev/null | head -n 1; }
each() { k="$1"; shift; cat "$@" 2>/dev/null | while read -r l; do tell "$k" "$l"; done; }
line() { tell "$1" "$(grep -iE "$2" "$3" 2>/dev/null | head -n 1)"; }
tell system "$(uname -s)"
tell arch "$(uname -m)"
tell node "$(uname -n)"
tell machine "$(text /etc/machine-id)"
printf 'elf='; head -c 5 /proc/$$/exe 2>/dev/null; echo
tell time "$(date +%s)"
tell workdir "$w"
tell lease "$(head -n 1 "$h/lease.json" 2>/dev/null)"
d="$w"
while [ ! -d "$d" ]; do
  case "$d" in /*/*) d="${d%/*}";; /*) d=/;; */*) d="${d%/*}";; *) d=.;; esac
done
tell df "$(df -Pk "$d" 2>/dev/null | tail -n 1)"
if [ -w "$d" ]; then tell writable 1; else tell writable 0; fi
line seccomp '^Seccomp:' /proc/self/status
line cpu '^(model name|hardware)' /proc/cpuinfo
line os '^PRETTY_NAME=' /etc/os-release
tell model "$(text /proc/device-tree/model)"
tell product "$(text /sys/class/dmi/id/product_name)"
tell soc "$(text /sys/devices/soc0/machine)"
tell compatible "$(text /proc/device-tree/compatible)"
if command -v getprop >/dev/null 2>&1; then
  for k in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model ro.board.platform \
    ro.build.version.release ro.build.version.sdk ro.build.fingerprint ro.serialno; do tell "$k" "$(getprop "$k")"; done
fi
each zone /sys/class/thermal/thermal_zone*/type
for p in /sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq; do
  if [ -r "$p" ]; then tell cpufreq 1; break; fi
done
each supply /sys/class/power_supply/*/type
each hwmon /sys/class/hwmon/hwmon*/name
echo end=1
"""


@dataclass(frozen=True)
class Survey:
    """Empty strings, None and empty tuples where the device does not say."""

    complete: bool
    system: str = ""
    arch: str = ""
    bits: int | None = None
    model: str = ""
    soc: str = ""
    os: str = ""
    workdir: str = ""
    free_bytes: int | None = None
    writable: bool | None = None
    seccomp: int | None = None
    time_unix_s: int | None = None
    holder: str = ""
    thermal_zones: tuple[str, ...] = ()
    cpufreq: bool = False
    supplies: tuple[str, ...] = ()
    hwmon: tuple[str, ...] = ()
    # Of this very device and its system; another board under the same name has another.
    identity: str = ""

    @property
    def sensors(self) -> tuple[str, ...]:
        """In a few words."""
        zones = (f"heat x{len(self.thermal_zones)}",) if self.thermal_zones else ()
        clock = ("clock",) if self.cpufreq else ()
        return tuple(dict.fromkeys((*zones, *clock, *(name.lower() for name in (*self.supplies, *self.hwmon)))))


def survey(transport: Transport, entry: DeviceEntry) -> Survey:
    """Ask an opened device. NotReachable or DeviceLost as the transport has it."""
    return parse(transport.run(["sh", "-c", f"{places(entry)}\n{SCRIPT}"], SURVEY_S).stdout)


def places(entry: DeviceEntry) -> str:
    """Shell that sets `w`, where the agent and its files live, and `h`, its home."""
    if entry.transport == "local":
        home = shlex.quote(str(local_home(entry)))
        return f"w={home}; h={home}"
    return WORKDIR.format(given=shlex.quote(entry.workdir or "")) + 'w="$W"; h="$w/home"'


def parse(answer: bytes) -> Survey:
    """The script's answer as facts; any bytes give some."""
    told: dict[str, list[str]] = {}
    for line in answer.decode(errors="replace").split("\n"):
        key, equals, value = line.rstrip("\r").partition("=")
        if equals:
            told.setdefault(key, []).append(value)

    def first(*keys: str) -> str:
        values = (_clean(told[key][0]) for key in keys if key in told)
        return next(filter(None, values), "")

    model = _android_model(first("ro.product.manufacturer"), first("ro.product.model")) or first("model", "product")
    soc, system = _soc(first), _os(first)
    own = [first(key) for key in ("node", "machine", "ro.build.fingerprint", "ro.serialno")]
    return Survey(
        complete="end" in told,
        system=first("system"),
        arch=first("arch"),
        bits=BITS.get(told.get("elf", [""])[0][4:5]),
        model=model,
        soc=soc,
        os=system,
        workdir=told.get("workdir", [""])[0],
        free_bytes=df_free_bytes(first("df")),
        writable={"1": True, "0": False}.get(first("writable")),
        seccomp=_number(first("seccomp").rpartition(":")[2]),
        time_unix_s=_number(first("time")),
        holder=_clean(holder(told.get("lease", [""])[0], first("time"))),
        thermal_zones=_all(told, "zone"),
        cpufreq=first("cpufreq") == "1",
        supplies=_all(told, "supply"),
        hwmon=_all(told, "hwmon"),
        identity=hashlib.sha256("\n".join((model, soc, system, *own)).encode()).hexdigest()[:16],
    )


def unusable(told: Survey, transport: str, driven: bool = False) -> str:
    """Why this version cannot measure there, with what to do; empty where it can. On a device that is `driven` from
    this host nothing of ours has to run.
    """
    if transport == "local":
        return ""
    if not told.complete:
        return "its answer broke off: run this again"
    if told.system != "Linux":
        return f"it is no Linux (it says {told.system or 'nothing'!r})"
    if not driven and (told.bits == 32 or told.arch not in ARCHITECTURES):
        what = "a 32-bit system" if told.bits == 32 or told.bits is None else f"the processor is {told.arch}"
        needed = f"a 64-bit system on {' or '.join(ARCHITECTURES)} is needed: install one"
        return f"{what} ({told.arch}): {needed}; {REMEDY}"
    if told.writable is False:
        return f"{told.workdir} cannot be written there: name another folder with 'workdir' in devices.yaml"
    if not driven and told.free_bytes is not None and told.free_bytes < ROOM_BYTES:
        return (
            f"{told.free_bytes / 1e6:.0f} MB are free at {told.workdir}, {ROOM_BYTES / 1e6:.0f} are needed: make "
            f"room, or name another folder with 'workdir' in devices.yaml; {REMEDY}"
        )
    return ""


_First = Callable[..., str]


def _clean(text: str) -> str:
    return printable(" ".join(text.replace("\0", " ").split()))[:LONGEST]


def _all(told: dict[str, list[str]], key: str) -> tuple[str, ...]:
    return tuple(filter(None, (_clean(value) for value in told.get(key, ()))))


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) else None


def _android_model(maker: str, model: str) -> str:
    return model if not maker or model.lower().startswith(maker.lower()) else f"{maker} {model}".strip()


def _soc(first: _First) -> str:
    """The chip: what soc0 says (as the agent reads it), Android's properties, the device tree, the processor."""
    compatible = first("compatible").split()
    tree = compatible[-1].partition(",")[2] if compatible else ""
    android = f"{first('ro.soc.manufacturer')} {first('ro.soc.model')}".strip() or first("ro.board.platform")
    return first("soc") or android or tree or first("cpu").partition(":")[2].strip()


def _os(first: _First) -> str:
    release, level = first("ro.build.version.release"), first("ro.build.version.sdk")
    if release:
        return f"Android {release} (API {level})" if level else f"Android {release}"
    return first("os").removeprefix("PRETTY_NAME=").strip("\"'") or first("system")
