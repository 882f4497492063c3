"""Putting the agent on a device that has a Python: one archive named by its content, sent once.

Nothing has to be installed there. The device is probed for processor, Python and space; the agent with its
dependencies, as wheels for that processor and Python, is packed on this machine and unpacked over there.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pocketbench_agent
from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy.runtimes import LOCK, install_wheels, pack
from pocketbench.errors import NotReachable
from pocketbench.models import PlacedFile, place
from pocketbench.transports import Completed, Transport

PROBE_TIMEOUT_S = 30.0
UNPACK_TIMEOUT_S = 300.0
OLDEST_PYTHON = (3, 10)
NEEDED_BYTES = 400 * 1000 * 1000

# One command, one answer: lines of key=value.
PROBE = """
echo "arch=$(uname -m)"
echo "system=$(uname -s)"
echo "home=$HOME"
for p in {pythons}; do
  v=$("$p" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) && echo "python=$p $v" && break
done
mkdir -p {workdir} && echo "free=$(df -Pk {workdir} | tail -1 | awk '{{print $4}}')"
"""


@dataclass(frozen=True)
class Probed:
    """What the device said of itself."""

    arch: str
    python: str
    version: tuple[int, int, int]
    workdir: str


def command_for(device: str, transport: Transport, entry: DeviceEntry) -> Sequence[str]:
    """The command that starts the agent there; deploys it first where it is not. NotReachable says what is missing."""
    probed = probe(device, transport, entry)
    folder = _deploy(device, transport, probed)
    environment = [f"{name}={value}" for name, value in {**entry.env, "PYTHONPATH": folder}.items()]
    home = f"{probed.workdir}/home"
    return ["env", *environment, probed.python, "-m", "pocketbench_agent", "--home", home]


def probe(device: str, transport: Transport, entry: DeviceEntry) -> Probed:
    """Ask the device what it is. NotReachable: no Linux, no Python that is new enough, no room."""
    pythons = [entry.python] if entry.python not in (None, "system") else ["python3", "/usr/bin/python3"]
    workdir = shlex.quote(entry.workdir) if entry.workdir else '"$HOME"/.cache/pocketbench'
    script = PROBE.format(pythons=" ".join(shlex.quote(str(p)) for p in pythons), workdir=workdir)
    done = transport.run(["sh", "-c", script], PROBE_TIMEOUT_S)
    told = _facts(done)
    if told.get("system") != "Linux" or "arch" not in told:
        raise NotReachable(
            f"{device}: is no Linux that answers (it said {done.stderr.decode(errors='replace')[:200]!r})"
        )
    if "free" not in told:
        folder = entry.workdir or "~/.cache/pocketbench"
        raise NotReachable(f"{device}: {folder} cannot be made there: name another with 'workdir' in devices.yaml")
    match = re.fullmatch(r"(.+) (\d+)\.(\d+)\.(\d+)", told.get("python", ""))
    version = (int(match[2]), int(match[3]), int(match[4])) if match else (0, 0, 0)
    if match is None or version < OLDEST_PYTHON:
        found = f"{told['python']} is too old" if match else "there is none"
        raise NotReachable(
            f"{device}: Python 3.10 or newer is needed there ({found}): install it, or name one with 'python' in "
            "devices.yaml"
        )
    if int(told["free"]) * 1024 < NEEDED_BYTES:
        raise NotReachable(
            f"{device}: {int(told['free']) / 1e3:.0f} MB are free there, {NEEDED_BYTES / 1e6:.0f} are needed"
        )
    return Probed(told["arch"], match[1], version, entry.workdir or f"{told['home']}/.cache/pocketbench")


def archive(probed: Probed) -> PlacedFile:
    """The agent and its dependencies for that processor and Python, made once and cached."""
    import platformdirs

    python = f"{probed.version[0]}.{probed.version[1]}"
    folder = Path(platformdirs.user_cache_dir("pocketbench")) / "agents"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        packages = Path(scratch) / "packages"
        install_wheels("the agent", _dependencies(), python, probed.arch, packages)
        source = Path(pocketbench_agent.__file__).parent
        for path in sorted(source.rglob("*.py")):
            target = packages / "pocketbench_agent" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        packed = Path(scratch) / "agent.zip"
        pack(packages, packed)
        made = place(packed, packed.name, "agent")
        kept = folder / f"{made.sha256}.zip"
        packed.replace(kept)
    return place(kept, kept.name, "agent")


def _deploy(device: str, transport: Transport, probed: Probed) -> str:
    """The folder on the device that holds this very agent."""
    build = _build_name(probed)
    folder = f"{probed.workdir}/agents/{build}"
    if transport.run(["test", "-f", f"{folder}/complete"], PROBE_TIMEOUT_S).code == 0:
        return folder
    packed = archive(probed)
    target = PurePosixPath(probed.workdir) / "agents" / f"{build}.zip"
    _must(device, transport.run(["mkdir", "-p", str(target.parent)], PROBE_TIMEOUT_S))
    transport.push(packed.path, str(target))
    unpack = [
        f"rm -rf {shlex.quote(folder)}",
        f"{shlex.quote(probed.python)} -m zipfile -e {shlex.quote(str(target))} {shlex.quote(folder)}",
        f"rm -f {shlex.quote(str(target))}",
        f"touch {shlex.quote(folder)}/complete",
    ]
    _must(device, transport.run(["sh", "-c", " && ".join(unpack)], UNPACK_TIMEOUT_S))
    return folder


def _build_name(probed: Probed) -> str:
    """Of the agent's sources, the pins, and what the wheels are for: the same name, the same content."""
    import hashlib

    from pocketbench_agent.__main__ import build_sha256

    parts = (build_sha256(), *_dependencies(), probed.arch, f"{probed.version[0]}.{probed.version[1]}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _dependencies() -> Sequence[str]:
    import tomllib

    return [str(pin) for pin in tomllib.loads(LOCK.read_text())["agent"]["needs"]]


def _facts(done: Completed) -> Mapping[str, str]:
    lines = done.stdout.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _must(device: str, done: Completed) -> None:
    if done.code:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"code {done.code}"])[-1]
        raise NotReachable(f"{device}: the agent cannot be put there: {last}")
