"""Putting the agent on a device: archives named by their content, each sent once. Nothing has to be installed there.

With a Python of the device's own: the packages that the agent needs, as wheels for that processor and Python. Without
one: the bundle, a Python that has them. Either changes rarely; the agent's few sources are an archive of their own.
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pocketbench_agent
from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import bundle as bundles
from pocketbench.deploy.probe import REMEDY, Probed, probe
from pocketbench.deploy.runtimes import agent_pins, install_wheels, pack
from pocketbench.errors import DeviceBusy, NotReachable
from pocketbench.fleet.progress import megabytes, sending
from pocketbench.models import PlacedFile, place
from pocketbench.transports import Completed, Transport
from pocketbench_agent.device_info import df_free_bytes

SHORT_S = 30.0
UNPACK_TIMEOUT_S = 600.0
# What a runtime, its unpacked form, a model and the job's events need beside the agent.
ROOM_BYTES = 300 * 1000 * 1000
PACKAGES_BYTES = 100 * 1000 * 1000

# Unpacked beside its place and moved there when it is whole and on the disk: another host may be doing the same, and
# the power may fail. {clean} and {publish} are below. Nothing protects bytes on an ADB link, and what was unpacked once
# is never looked at again; the oldest Androids have no sha256sum. A wrapper of the bundle names /bin/sh, which older
# Androids do not have.
UNPACK_BUNDLE = """
{clean}
if command -v sha256sum >/dev/null; then
  case $(sha256sum <{archive}) in
    {sha256}*) ;;
    *) echo 'the bundle was damaged on its way; run this again' >&2; exit 1 ;;
  esac
fi
mkdir -p {staging} && cd {staging} || exit 1
tar -xzf {archive} 2>/dev/null || {{ gzip -t {archive} && gzip -dc {archive} | tar -xf -; }} || exit 1
[ -x /bin/sh ] || sed -i '1s|/bin/sh|/system/bin/sh|' bin/python3 || exit 1
bin/python3 -c 'import grpc, numpy' || exit $?
{publish}
"""
UNPACK_ZIP = """
{clean}
{python} -m zipfile -e {archive} {staging} || exit 1
{publish}
"""
CLEAN = """umask 077
S={staging} A={archive}
trap 'rm -rf "$S" "$A"' 0"""
PUBLISH = """rm -f {archive}
sync
: >{staging}/complete
cd /
for i in 1 2 3 4 5; do
  [ -f {folder}/complete ] && break
  mv {folder} "$S.old" 2>/dev/null && rm -rf "$S.old"
  mv {staging} {folder} 2>/dev/null || sleep 1
done
rm -rf {folder}/"${{S##*/}}"
for i in 1 2 3; do [ -f {folder}/complete ] && exit 0; sleep 1; done
exit 1"""
# Of a shell that was killed by a signal, and of a program: 128 + SIGSYS. Of one that may not be executed.
BAD_SYSTEM_CALL = 159
NOT_EXECUTABLE = 126
# What a broken link or a power cut has left. A folder that somebody is filling is younger.
REMOVE_LEFT = "find pythons agents -maxdepth 1 -name '*.new-*' -mmin +60 -exec rm -rf {} + 2>/dev/null"
MAKE_FOLDERS = f"""
umask 077
mkdir -p "$1/pythons" "$1/agents" && cd "$1" || exit 1
{REMOVE_LEFT}
true
"""
# What runs has its folder in its environment: PYTHONPATH and PYTHONHOME.
REMOVE_OLD = """
cd {workdir} || exit 1
{left}
for f in pythons/* agents/*; do
  case $f in {kept}|*.new-*) continue ;; esac
  grep -qsF {workdir}/"$f" /proc/[0-9]*/environ || rm -rf "./$f"
done
df -Pk . | tail -n 1
"""

Say = Callable[[str], None]


def command_for(device: str, transport: Transport, entry: DeviceEntry, say: Say) -> Sequence[str]:
    """The command that starts the agent there; deploys it first where it is not. NotReachable says what is missing."""
    probed = probe(device, transport, entry)
    environment = {"TMPDIR": f"{probed.workdir}/tmp"}
    bundle = None if probed.python else bundles.find(device, probed.arch)
    below = f"{probed.workdir}/pythons/{bundle.name if bundle else packages_name(probed.arch, probed.version)}"
    sent = place(entry.agent, entry.agent.name, "agent") if entry.agent else sources()
    agent = f"{probed.workdir}/agents/{sent.path.stem}"
    if bundle is None:
        python, path = probed.python, f"{agent}:{below}"
    else:
        python, path = f"{below}/bin/python3", agent
        # Android's shell has no home that could be written to.
        environment["HOME"] = probed.workdir
    missing = [one for one in (below, agent) if not probed.has(one)]
    if missing:
        _must(device, transport.run(["sh", "-c", MAKE_FOLDERS, "sh", probed.workdir], SHORT_S))
        large = bundle.unpacked_bytes if bundle else PACKAGES_BYTES
        _make_room(device, transport, probed, (below, agent), ROOM_BYTES + (large if below in missing else 0))
    if below in missing and bundle is not None:
        _put_bundle(device, transport, bundle, below, say)
    elif below in missing:
        doing = f"{device}: sending the agent's packages"
        packed = packages(probed.arch, probed.version, say)
        _must(device, _put(device, transport, doing, packed.path, below, UNPACK_ZIP, say, python=python))
    if agent in missing:
        doing = f"{device}: sending the agent"
        _must(device, _put(device, transport, doing, sent.path, agent, UNPACK_ZIP, say, python=python))
    pairs = [f"{name}={value}" for name, value in {**environment, **entry.env, "PYTHONPATH": path}.items()]
    return ["env", *pairs, python, "-m", "pocketbench_agent", "--home", f"{probed.workdir}/home"]


def packages(arch: str, version: tuple[int, int, int], say: Say) -> PlacedFile:
    """What the agent needs, for that processor and Python; packed once and cached. NotReachable: cannot be had."""

    def fill(folder: Path) -> None:
        say(f"packing the agent's packages for Python {version[0]}.{version[1]} on {arch} (once)")
        install_wheels("the agent", agent_pins(), f"{version[0]}.{version[1]}", arch, folder)

    return _packed(packages_name(arch, version), fill)


def packages_name(arch: str, version: tuple[int, int, int]) -> str:
    """Of their folder on a device: the same name, the same content."""
    parts = (*agent_pins(), arch, f"{version[0]}.{version[1]}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def sources() -> PlacedFile:
    """The agent itself, as an archive named by its build."""

    def fill(folder: Path) -> None:
        source = Path(pocketbench_agent.__file__).parent
        for path in sorted(source.rglob("*.py")):
            target = folder / "pocketbench_agent" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())

    return _packed(_agent_name(), fill)


def _agent_name() -> str:
    from pocketbench_agent.__main__ import build_sha256

    return build_sha256()[:16]


def _packed(name: str, fill: Callable[[Path], None]) -> PlacedFile:
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("pocketbench")) / "agents"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{name}.zip"
    if not kept.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fill(Path(scratch) / "packages")
            partial = Path(scratch) / "packed.zip"
            pack(Path(scratch) / "packages", partial)
            partial.replace(kept)
    return place(kept, kept.name, "agent")


def _put_bundle(device: str, transport: Transport, bundle: bundles.Bundle, folder: str, say: Say) -> None:
    doing, sha256 = f"{device}: sending the bundle", bundle.sha256
    done = _put(device, transport, doing, bundle.archive, folder, UNPACK_BUNDLE, say, sha256=sha256)
    if done.code == BAD_SYSTEM_CALL or b"Bad system call" in done.stderr:
        raise NotReachable(
            f"{device}: its kernel filter blocks a system call that the bundle's C library makes (SIGSYS); the agent "
            f"cannot run there: {REMEDY}"
        )
    if done.code == NOT_EXECUTABLE:
        raise NotReachable(
            f"{device}: nothing runs from {folder} (is it mounted noexec?): name another folder with 'workdir' in "
            f"devices.yaml; {REMEDY}, where they lie in a folder that programs run from (device:PATH)"
        )
    _must(device, done)


def _put(
    device: str, transport: Transport, doing: str, source: Path, folder: str, script: str, say: Say, **words: str
) -> Completed:
    """Send an archive and have it unpacked; how the unpacking ended."""
    size = source.stat().st_size
    say(f"{doing} ({megabytes(size)}, once)")
    staging = f"{folder}.new-{secrets.token_hex(4)}"
    archived = f"{staging}.archive"
    transport.push(source, archived, sending(say, doing, size))
    filled = unpacking(script, folder=folder, staging=staging, archive=archived, **words)
    return transport.run(["sh", "-c", filled], UNPACK_TIMEOUT_S)


def unpacking(script: str, **words: str) -> str:
    """One of the scripts above for a shell: with its words quoted, and what stands around it."""
    quoted = {name: shlex.quote(word) for name, word in words.items()}
    return script.format(clean=CLEAN.format(**quoted), publish=PUBLISH.format(**quoted), **quoted)


def _make_room(device: str, transport: Transport, probed: Probed, kept: Sequence[str], wanted_bytes: int) -> None:
    """Where space is short, agents and Pythons of other versions go. NotReachable where it is short even so."""
    if probed.free_bytes >= wanted_bytes:
        return
    if probed.holder:
        # Somebody is measuring with one of them right now.
        raise DeviceBusy(f"{device}: in use by {probed.holder}", probed.holder.rpartition(" for ")[0])
    names = [one.removeprefix(f"{probed.workdir}/") for one in kept]
    script = REMOVE_OLD.format(workdir=shlex.quote(probed.workdir), kept="|".join(names) or "''", left=REMOVE_LEFT)
    told = transport.run(["sh", "-c", script], UNPACK_TIMEOUT_S).stdout.decode(errors="replace")
    free = df_free_bytes(told)
    free = probed.free_bytes if free is None else free
    if free < wanted_bytes:
        raise NotReachable(
            f"{device}: {free / 1e6:.0f} MB are free in {probed.workdir}, {wanted_bytes / 1e6:.0f} are needed; "
            f"make room there, or name another folder with 'workdir' in devices.yaml; {REMEDY}"
        )


def _must(device: str, done: Completed) -> None:
    if done.code:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"code {done.code}"])[-1]
        raise NotReachable(f"{device}: the agent cannot be put there: {last}")
