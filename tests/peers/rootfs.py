"""Debian's arm64 packages as a tree of files, and the cache of what is made from them (`build/peers/`)."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "build" / "peers"
SUITE = "bookworm"
BUILD_TIMEOUT_S = 600
# By command; the packages of each.
NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-system-aarch64": "qemu-system-arm",
    "patchelf": "patchelf",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
}


class Missing(Exception):
    """A program that is not installed; says how to install it."""


def missing(commands: Iterable[str]) -> str | None:
    """What lacks, with the line that installs it; None where nothing does."""
    lacking = [command for command in commands if shutil.which(command, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if not lacking:
        return None
    packages = " ".join(NEEDED[command] for command in lacking)
    return f"no {', '.join(lacking)} here: sudo apt-get install --yes --no-install-recommends {packages}"


def extract(packages: Sequence[str], target: Path) -> None:
    """Unpack them, with what they depend on, into the new folder; no maintainer script runs. Missing, RuntimeError."""
    lacking = missing(["mmdebstrap"])
    if lacking:
        raise Missing(lacking)
    target.mkdir()
    make = [
        *(() if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user")),
        *("mmdebstrap", "--quiet", "--mode=root", "--architectures=arm64", "--variant=extract", "--format=tar"),
        *("--skip=chroot/mount,output/dev", '--aptopt=APT::Sandbox::User "root"'),
        *(f"--include={','.join(packages)}", SUITE, "-"),
    ]
    # Only root can give files away, and the root of a user namespace of one user cannot either.
    environment = {**os.environ, "TAR_OPTIONS": "--no-same-owner"}
    unpack = ["tar", "-x", "-C", str(target)]
    with subprocess.Popen(make, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as making:
        assert making.stdout is not None and making.stderr is not None
        unpacked = subprocess.run(
            unpack, stdin=making.stdout, stderr=subprocess.PIPE, env=environment, timeout=BUILD_TIMEOUT_S, check=False
        )
        told = (making.stderr.read() + unpacked.stderr).decode(errors="replace").strip()
    if making.returncode or unpacked.returncode:
        raise RuntimeError(f"mmdebstrap could not unpack {' '.join(packages)}: {told[-500:]}")


def cached(name: str, recipe: Sequence[str | Path], build: Callable[[Path], None]) -> Path:
    """The folder that `build` fills, made once for this recipe: its words, and the contents of its files."""
    told = hashlib.sha256(SUITE.encode())
    for part in (*recipe, Path(__file__)):
        told.update(b"\0" + (part.encode() if isinstance(part, str) else part.read_bytes()))
    target = CACHE / f"{name}-{told.hexdigest()[:16]}"
    if target.is_dir():
        return target
    print(f"{name}: built once into {target}", file=sys.stderr)
    CACHE.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=CACHE))
    try:
        made = scratch / "made"
        made.mkdir()
        build(made)
        try:
            made.rename(target)
        except OSError:
            # Somebody else was faster.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch)
    return target
