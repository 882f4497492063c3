"""Starting the phone, killing it and booting it again.

One process holds the mounts and the emulator's registration for as long as the phone exists; each boot is a process
namespace inside, so that killing its first process kills all. Both end when this process has gone, however it went.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from tests.peers.phone.system import system
from tests.peers.rootfs import missing

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 20
NEW_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount")
# Registered with F: the kernel keeps the emulator open, so that it need not lie inside the phone's root. O and P: the
# program is given open, and keeps the name that it was called by.
REGISTER = r"""
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:'\
'\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:'\
"$(command -v qemu-aarch64-static):OPF" >/proc/sys/fs/binfmt_misc/register
"""
# $1 the tree, $2 what to mount as /data: a folder, or the options of a tmpfs.
HOLD = rf"""
set -e
mount --bind "$1" "$1"
# What the mount below forbids has to be said again: nobody may lift it from inside.
mount -o "remount,bind,$(findmnt -n -o VFS-OPTIONS --target "$1"),ro" "$1"
case $2 in
  /*) mount --bind "$2" "$1/data" ;;
  *) mount -t tmpfs -o "$2" data "$1/data" ;;
esac
mkdir -p "$1/data/local/tmp"
chmod 771 "$1/data" "$1/data/local" "$1/data/local/tmp"
mount -t tmpfs -o mode=755 dev "$1/dev"
for node in null zero full random urandom tty; do
  : >"$1/dev/$node"
  mount --bind "/dev/$node" "$1/dev/$node"
done
ln -s /proc/self/fd "$1/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do
  ln -s "/proc/self/fd/${{number%:*}}" "$1/dev/${{number#*:}}"
done
{REGISTER}
echo READY
exec cat
"""
TRY = f"mount -t proc proc /proc\n{REGISTER}"


@cache
def why_not() -> str | None:
    """Why no phone can run here, in a line; None where one can."""
    lacking = missing(["mmdebstrap", "qemu-aarch64-static", "patchelf"])
    if lacking:
        return lacking
    command = [*NEW_NAMESPACES, "--pid", "--fork", "--kill-child", "sh", "-ec", TRY]
    try:
        tried = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return "no unshare here (Linux, util-linux)"
    if tried.returncode:
        last = (tried.stderr.decode(errors="replace").strip().splitlines() or [f"code {tried.returncode}"])[-1]
        return f"no namespace with a binfmt_misc of its own here (Linux 6.7 or newer, user namespaces allowed): {last}"
    return None


class Phone:
    """A running phone."""

    def __init__(self, tree: Path, holder: subprocess.Popen[bytes], data: Path, work: Path, log: IO[bytes]) -> None:
        self.data = data
        """Its /data, as seen from here."""
        self._tree, self._holder, self._work, self._log = tree, holder, work, log
        self._port = 0

    @property
    def address(self) -> str:
        """Where its ADB daemon listens; the same after a reboot."""
        return f"127.0.0.1:{self._port}"

    def boot(self, port: int = 0) -> None:
        """Start it. RuntimeError says why it did not."""
        (self._work / "boot_id").write_text(f"{uuid.uuid4()}\n")
        command = [
            *("nsenter", f"--target={self._holder.pid}", "--user", "--mount", "--preserve-credentials"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *(sys.executable, "-m", "tests.peers.phone.boot", str(self._tree), str(self._work / "boot_id"), str(port)),
        ]
        self._booted = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        self.pid = int(_answer(self._booted, "PID"))
        """Of its first process, as seen from here: SIGTERM to it ends all at once."""
        self._port = int(_answer(self._booted, "PORT"))

    def kill(self) -> None:
        """As if the battery were pulled: every process is gone when this returns."""
        if self._booted.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        _end(self._booted)

    def reboot(self) -> None:
        """Kill it and start it anew, with another boot id: same address, same /data."""
        self.kill()
        self.boot(self._port)

    def wait(self) -> None:
        """Until it has ended."""
        self._booted.wait()


@contextmanager
def phone(
    port: int = 0, data: Path | None = None, data_bytes: int | None = None, log: Path | None = None
) -> Iterator[Phone]:
    """A phone with a fresh /data, or with that folder as /data, or with room for so many bytes there.

    The log holds what its daemon complained about; without one that goes to stderr. RuntimeError, rootfs.Missing.
    """
    tree = system()
    with tempfile.TemporaryDirectory(prefix="phone-") as scratch:
        work = Path(scratch)
        fresh = data or work / "data"
        fresh.mkdir(exist_ok=True)
        mounted = str(fresh.absolute()) if data_bytes is None else f"size={data_bytes}"
        # Neither Ctrl-C nor a hang-up is for them: they end with their stdin.
        holder = subprocess.Popen(
            [*NEW_NAMESPACES, "sh", "-c", HOLD, "hold", str(tree), mounted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _answer(holder, "READY")
            seen = fresh if data_bytes is None else Path(f"/proc/{holder.pid}/root{tree}/data")
            with log.open("ab") if log else os.fdopen(os.dup(2), "ab") as complaints:
                started = Phone(tree, holder, seen, work, complaints)
                started.boot(port)
                try:
                    yield started
                finally:
                    started.kill()
        finally:
            _end(holder)


def _answer(process: subprocess.Popen[bytes], word: str) -> str:
    assert process.stdout is not None
    said, *rest = process.stdout.readline().decode().split() or [""]
    if said != word:
        _end(process)
        raise RuntimeError(f"the phone did not start: no {word} from {process.args!r}")
    return rest[0] if rest else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in filter(None, (process.stdin, process.stdout)):
        pipe.close()
    try:
        process.wait(START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
