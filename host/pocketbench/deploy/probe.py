"""What a device is, before anything of ours is on it: one shell command, answered in lines of key=value.

The script is for any POSIX shell with the few programs that Android has too: no awk, no env, no Python.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import NotReachable
from pocketbench.models import printable
from pocketbench.transports import Completed, Transport
from pocketbench_agent.device_info import df_free_bytes

TIMEOUT_S = 30.0
OLDEST_PYTHON = (3, 10)
ARCHITECTURES = ("x86_64", "aarch64")

# Android's shell user owns /data/local/tmp, where files may be executed; elsewhere the user's cache does.
WORKDIR = """
W={given}
case $W in
  '') if [ -x /system/bin/sh ] && [ -d /data/local/tmp ]; then W=/data/local/tmp/pocketbench
      else W=$HOME/.cache/pocketbench; fi ;;
  '~'|'~/'*) W=$HOME${{W#?}} ;;
  /*) ;;
  *) W=${{PWD%/}}/$W ;;
esac
"""
# Debian's python3-minimal is a Python without half of its standard library.
PROBE = (
    WORKDIR
    + """
echo "arch=$(uname -m)"
echo "system=$(uname -s)"
printf 'workdir=%s\\n' "$W"
[ -x /system/bin/sh ] && echo "android=$(getprop ro.build.version.release 2>/dev/null)"
for p in {pythons}; do
  v=$("$p" -c 'import sys; from importlib.util import find_spec
print("%d.%d.%d" % sys.version_info[:3], sys.maxsize > 2**32,
      all(map(find_spec, ("ctypes", "uuid", "zipfile", "zlib"))))' 2>/dev/null)
  [ -n "$v" ] && echo "python=$p $v" && break
done
umask 077
mkdir -p "$W/tmp" && cd "$W" && echo "free=$(df -Pk . | tail -n 1)"
for f in pythons/*/complete agents/*/complete; do [ -f "$f" ] && echo "have.$f=1"; done
[ -f home/lease.json ] && printf 'lease=%s\\n' "$(cat home/lease.json)"
echo "now=$(date +%s)"
"""
)
# Where nothing of ours can run.
REMEDY = "with 'python: host' and native_tools in devices.yaml its vendor's tools can be measured from here"
# A lease lasts 90 s: one that seems to last so long tells of a clock that was set.
LONGEST_LEASE_S = 3600


@dataclass(frozen=True)
class Probed:
    """What the device said of itself. `python` is the one to use, empty where the bundle is to serve."""

    arch: str
    android: bool
    workdir: str
    free_bytes: int
    python: str
    version: tuple[int, int, int]
    complete: frozenset[str]
    holder: str

    def has(self, folder: str) -> bool:
        """Is that folder there, unpacked to its end?"""
        return folder in self.complete


def probe(device: str, transport: Transport, entry: DeviceEntry) -> Probed:
    """Ask the device what it is. NotReachable: no 64-bit Linux, no Python where one was named, no folder to write."""
    wanted = entry.python or ""
    pythons = [wanted] if wanted not in ("", "system", "bundle") else ["python3", "/usr/bin/python3"]
    script = PROBE.format(
        given=shlex.quote(entry.workdir or ""),
        pythons=" ".join(map(shlex.quote, pythons)) if wanted != "bundle" else "",
    )
    done = transport.run(["sh", "-c", script], TIMEOUT_S)
    return parse(device, entry, done)


def parse(device: str, entry: DeviceEntry, done: Completed) -> Probed:
    """The answer of the script. The same errors as `probe`."""
    told = facts(done)
    if told.get("system") != "Linux" or "arch" not in told:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[:200]
        raise NotReachable(f"{device}: is no Linux that answers (it said {said!r})")
    free = df_free_bytes(told.get("free", ""))
    if free is None:
        raise NotReachable(
            f"{device}: {told.get('workdir', 'its work folder')} cannot be made there: name another with 'workdir' in "
            "devices.yaml"
        )
    match = re.fullmatch(r"(.+) (\d+)\.(\d+)\.(\d+) (True|False)(?: (True|False))?", told.get("python", ""))
    version = (int(match[2]), int(match[3]), int(match[4])) if match else (0, 0, 0)
    whole = match is not None and match[6] != "False"
    usable = match is not None and version >= OLDEST_PYTHON and match[5] == "True" and whole
    if told["arch"] not in ARCHITECTURES or (match is not None and match[5] == "False"):
        raise NotReachable(f"{device}: is a 32-bit system ({told['arch']}); pocketbench needs a 64-bit one: {REMEDY}")
    if not usable and entry.python not in (None, "bundle"):
        found = f"{match[1]} is Python {match[2]}.{match[3]}" if match else "there is none"
        if match is not None and not whole:
            found += " without its standard library: apt-get install python3"
        raise NotReachable(
            f"{device}: 'python: {entry.python}' needs a Python 3.10 or newer there ({found}); with 'python: bundle' "
            "pocketbench brings its own"
        )
    return Probed(
        arch=told["arch"],
        android="android" in told,
        workdir=told["workdir"],
        free_bytes=free,
        python=match[1] if match is not None and usable else "",
        version=version,
        complete=frozenset(
            f"{told['workdir']}/{name[5:].removesuffix('/complete')}" for name in told if name.startswith("have.")
        ),
        holder=holder(told.get("lease", ""), told.get("now", "")),
    )


def holder(lease: str, now: str) -> str:
    """Who has the device by its agent's own word, and for how long; empty where nobody, or it cannot be told."""
    try:
        told = json.loads(lease)
        left_s = int(told["until_unix_s"]) - int(now)
        held = bool(told["owner"]) and 0 < left_s <= LONGEST_LEASE_S
        return f"{printable(str(told['owner']))} for {left_s} s more (it may renew)" if held else ""
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ""


def facts(done: Completed) -> Mapping[str, str]:
    """The lines of key=value that a script answered."""
    lines = done.stdout.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
