"""What the board boots from: Debian's arm64 kernel, a small Debian with sshd, and Python apart from it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.peers import initramfs
from tests.peers.initramfs import Entry, file, folder, link
from tests.peers.rootfs import cached, extract

KERNEL, BASE, PYTHON = "vmlinuz", "base.cpio", "python.cpio"
# Debian's essential packages that are programs, what a server has besides, and the kernel.
PACKAGES = (
    *("base-files", "bash", "coreutils", "dash", "debianutils", "diffutils", "findutils", "grep", "gzip", "hostname"),
    *("libc-bin", "login", "mawk", "procps", "sed", "tar", "util-linux"),
    *("busybox-static", "iproute2", "libgcc-s1", "libgomp1", "libstdc++6", "openssh-server"),
    *("linux-image-cloud-arm64", "python3"),
)
OF_PYTHON = re.compile(r"usr/(bin|lib|share)/(2to3|pdb|py)[^/]*(/|$)")
NOT_WANTED = re.compile(
    r"(boot|var/(cache|lib|log)|(usr/)?lib/(modules|systemd|udev)|usr/share/(applications|doc|doc-base|info|lintian|locale|man|perl|perl5|pixmaps)"
    r"|usr/lib/aarch64-linux-gnu/(perl|perl-base|gconv)|usr/include)(/|$)"
)
# In the order in which they need each other.
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net"),
)
INIT = f"""\
#!/bin/busybox sh
B=/bin/busybox
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs dev /dev
$B mkdir -p /dev/pts /dev/shm /run/sshd
$B mount -t devpts devpts /dev/pts
$B mount -t tmpfs tmpfs /dev/shm
$B mount -t tmpfs tmpfs /tmp
for name in {" ".join(MODULES)}; do $B insmod /modules/$name.ko; done
$B hostname board
$B ip link set lo up
$B ip addr add 10.0.2.15/24 dev eth0
$B ip link set eth0 up
echo "up after $($B cut -d' ' -f1 /proc/uptime) s, $($B date -u)"
# The first process collects the dead, and starts the server again where somebody has killed it.
while :; do /usr/sbin/sshd -D -e; $B sleep 1; done
"""
SSHD_CONFIG = """\
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
AllowTcpForwarding yes
PidFile none
Subsystem sftp internal-sftp
"""
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n",
    "etc/hosts": "127.0.0.1 localhost board\n",
    "etc/hostname": "board\n",
    "etc/ssh/sshd_config": SSHD_CONFIG,
}


def image() -> Path:
    """The folder with the kernel and the archives, built on first use. rootfs.Missing, RuntimeError."""
    return cached("board", [*PACKAGES, Path(__file__), Path(initramfs.__file__)], _build)


def _build(target: Path) -> None:
    raw = target.with_name("raw")
    extract(PACKAGES, raw)
    if sys.version_info[:2] == (3, 11):
        # As the packages' scripts would have; by hash, because the archives keep no times.
        compile_all = [sys.executable, "-m", "compileall", "-qq", "-j0", "--invalidation-mode=unchecked-hash"]
        subprocess.run([*compile_all, "-s", str(raw), "-p", "/", str(raw / "usr/lib/python3.11")], check=True)
    shutil.copy(next((raw / "boot").glob("vmlinuz-*")), target / KERNEL)
    with (target / BASE).open("wb") as out:
        initramfs.write(out, _base(raw))
    with (target / PYTHON).open("wb") as out:
        initramfs.write(out, (each for each in initramfs.entries(raw, _wanted) if OF_PYTHON.match(each.name)))


def _wanted(name: str) -> bool:
    return NOT_WANTED.match(name) is None


def _base(raw: Path) -> Iterator[Entry]:
    made = {*FILES, "init"}
    have = set()
    for each in initramfs.entries(raw, lambda name: _wanted(name) and not OF_PYTHON.match(name)):
        have.add(each.name)
        if each.name not in made:
            yield each
    for name in ("dev", "modules", "proc", "root", "run", "sys", "tmp"):
        if name not in have:
            yield folder(name, 0o1777 if name == "tmp" else 0o755)
    # What maintainer scripts would have linked.
    yield link("usr/bin/awk", "mawk")
    yield link("usr/bin/which", "which.debianutils")
    for name in MODULES:
        yield file(f"modules/{name}.ko", next((raw / "lib" / "modules").rglob(f"{name}.ko")).read_bytes())
    for name, text in FILES.items():
        yield file(name, text)
    yield file("init", INIT, 0o755)
