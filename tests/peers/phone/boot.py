"""The phone's first process: mounts what belongs to one boot, starts the ADB daemon, and collects the dead.

    python -m tests.peers.phone.boot TREE BOOT_ID_FILE PORT

prints `PID n`, its own as seen from outside, and `PORT n`; ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import encodings.idna  # noqa: F401  (a name is looked up when files of this Python are out of sight)
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from tests.peers.adbd.connection import Options
from tests.peers.adbd.services import serve

CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION_3 = 0x20080522
SHELL_ID = 2000
# Where root has started the phone, its shell is root to the kernel's own files, which are those of this machine.
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
BANNER = (
    "device::ro.product.name=emulated;ro.product.model=Emulated phone;ro.product.device=emulated;"
    "ro.serialno=EMULATED0001"
)
ENVIRONMENT = {
    "PATH": "/product/bin:/apex/com.android.runtime/bin:/system/bin:/system/xbin:/odm/bin:/vendor/bin",
    "HOME": "/",
    "USER": "shell",
    "LOGNAME": "shell",
    "SHELL": "/bin/sh",
    "HOSTNAME": "emulated",
    "TERM": "dumb",
    "TMPDIR": "/data/local/tmp",
    "ANDROID_DATA": "/data",
    "ANDROID_ROOT": "/system",
    "ANDROID_STORAGE": "/storage",
    "EXTERNAL_STORAGE": "/sdcard",
}


def main() -> None:
    """Until the daemon ends."""
    tree, boot_id, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    # /proc is still that of the outer process namespace.
    print(f"PID {Path('/proc/self').readlink()}", flush=True)
    _mount("-t", "proc", "proc", str(tree / "proc"))
    for path in (tree / "proc" / name for name in READ_ONLY):
        if path.exists():
            _mount("--bind", str(path), str(path))
            _mount("-o", "remount,bind,ro,nosuid,nodev,noexec", str(path))
    _mount("--bind", boot_id, str(tree / "proc/sys/kernel/random/boot_id"))
    # Signals without a handler do not reach the first process.
    signal.signal(signal.SIGTERM, _off)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    daemon = os.fork()
    if daemon == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _become_shell(tree)
        _serve(port)
        sys.exit(0)
    while os.wait()[0] != daemon:
        pass


def _off(number: int, frame: FrameType | None) -> None:
    """The kernel kills everything else here, and lets nobody see this process ended before that is done."""
    os._exit(0)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _become_shell(tree: Path) -> None:
    """Be `shell`, as adbd is: uid 2000, nothing allowed beyond, and only the phone's files in sight."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{SHELL_ID} 0 1"), ("gid_map", f"{SHELL_ID} 0 1")):
        Path("/proc/self", name).write_text(text)
    os.chroot(tree)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def _serve(port: int) -> None:
    options = Options(root=Path("/"), shell="/system/bin/sh", environment=ENVIRONMENT, banner=BANNER)

    async def until_stdin_ends() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_reader(0, task.cancel)
        await serve(options, port, lambda found: print(f"PORT {found}", flush=True))

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(until_stdin_ends())


if __name__ == "__main__":
    main()
