"""The phone's read-only tree: Android's folders and names, with toybox and mksh from Debian's arm64 packages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.peers.rootfs import Missing, cached, extract, missing

PACKAGES = ("toybox", "mksh", "busybox-static")
# What Android 10 links to toybox (AOSP, system/core/shell_and_utilities) and Debian's toybox has as well.
TOYBOX = (
    "acpi base64 basename blockdev cal cat chattr chgrp chmod chown chroot chrt cksum clear cmp comm cp cpio cut "
    "date df dirname dmesg dos2unix du echo egrep env expand fallocate false fgrep file find flock fmt free "
    "freeramdisk fsfreeze getconf grep gunzip head help hostname hwclock iconv ifconfig inotifyd insmod install "
    "ionice iorenice iotop kill killall ln losetup ls lsattr lsmod lspci lsusb makedevs md5sum microcom mkdir "
    "mkfifo mknod mkswap mktemp modinfo mount mountpoint mv nbd-client nc netcat netstat nice nl nohup nproc "
    "nsenter od partprobe paste patch pgrep pidof pivot_root pkill pmap printenv printf prlimit ps pwd pwdx "
    "readlink realpath renice rev rfkill rm rmdir rmmod sed seq setfattr setsid sha1sum sha224sum sha256sum "
    "sha384sum sha512sum sleep sort split stat strings swapoff swapon sync sysctl tac tail tar taskset tee test "
    "time timeout top touch true truncate tty ulimit umount uname uniq unix2dos unlink unshare uptime usleep "
    "uudecode uuencode uuidgen vconfig vmstat watch wc which xargs xxd yes zcat "
)
# Android's toybox has these and Debian's has not, or wants /etc/passwd for them: the same names from busybox.
BUSYBOX = ("bunzip2", "bzcat", "dd", "diff", "expr", "gzip", "id", "more", "stty", "tr", "traceroute")
EMPTY = ("acct", "apex", "config", "data", "dev", "mnt", "odm", "oem", "proc", "product", "storage", "vendor")
# No /lib: what is built for an ordinary Linux finds no loader here.
LINKS = {"bin": "/system/bin", "etc": "/system/etc", "sdcard": "/storage/self/primary"}
# Not Android's: where toybox finds its C library, which Android's own has in /apex.
PRIVATE = "system/lib64/private"
LOADER = "ld-linux-aarch64.so.1"
LIBRARIES = (LOADER, "libc.so.6", "libm.so.6", "libcrypt.so.1")
BUILD_PROP = """\
ro.build.id=AE3A.240806.019
ro.build.display.id=emulated_arm64-userdebug 14 AE3A.240806.019 1 test-keys
ro.build.version.incremental=1
ro.build.version.sdk=34
ro.build.version.release=14
ro.build.version.security_patch=2024-08-01
ro.build.type=userdebug
ro.build.tags=test-keys
ro.build.fingerprint=Pocketbench/emulated/emulated:14/AE3A.240806.019/1:userdebug/test-keys
ro.product.brand=Pocketbench
ro.product.manufacturer=Pocketbench
ro.product.model=Emulated phone
ro.product.name=emulated
ro.product.device=emulated
ro.product.board=emulated
ro.product.cpu.abi=arm64-v8a
ro.product.cpu.abilist=arm64-v8a
ro.product.cpu.abilist64=arm64-v8a
ro.product.cpu.abilist32=
ro.board.platform=emulated
ro.hardware=qemu
ro.soc.manufacturer=QEMU
ro.soc.model=emulated
ro.kernel.qemu=1
ro.boot.qemu=1
ro.serialno=EMULATED0001
ro.debuggable=1
ro.secure=1
sys.boot_completed=1
"""
GETPROP = """\
#!/system/bin/sh
while IFS= read -r line; do
  name=${line%%=*} value=${line#*=}
  if [ $# = 0 ]; then
    echo "[$name]: [$value]"
  elif [ "$name" = "$1" ] && [ -n "$value" ]; then
    echo "$value"
    exit
  fi
done </system/build.prop
[ $# = 0 ] || echo "$2"
"""


def system() -> Path:
    """The tree, built on first use. rootfs.Missing, RuntimeError."""
    return cached("phone", [*PACKAGES, Path(__file__)], _build)


def _build(target: Path) -> None:
    lacking = missing(["mmdebstrap", "patchelf"])
    if lacking:
        raise Missing(lacking)
    raw = target.with_name("raw")
    extract(PACKAGES, raw)
    binaries, private = target / "system" / "bin", target / PRIVATE
    for folder in (binaries, private, target / "system" / "etc", *(target / name for name in EMPTY)):
        folder.mkdir(parents=True)
    for name, leads in LINKS.items():
        (target / name).symlink_to(leads)
    for name in LIBRARIES:
        shutil.copy(raw / "lib" / "aarch64-linux-gnu" / name, private / name)
    # Linked with musl: the shell, like Android's, shares no C library with what is pushed.
    shutil.copy(raw / "usr/lib/aarch64-linux-musl/bin/mksh", binaries / "sh")
    shutil.copy(raw / "bin" / "toybox", binaries / "toybox")
    shutil.copy(raw / "bin" / "busybox", private / "busybox")
    change = ["patchelf", "--set-interpreter", f"/{PRIVATE}/{LOADER}", "--set-rpath", f"/{PRIVATE}"]
    subprocess.run([*change, str(binaries / "toybox")], check=True, timeout=60)
    for name in TOYBOX.split():
        (binaries / name).symlink_to("toybox")
    for name in BUSYBOX:
        (binaries / name).symlink_to(f"/{PRIVATE}/busybox")
    (binaries / "getprop").write_text(GETPROP)
    (binaries / "getprop").chmod(0o755)
    (target / "system" / "build.prop").write_text(BUILD_PROP)
    (target / "system" / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 ip6-localhost\n")
