"""Builds the bundle: a relocatable Python for aarch64 Linux and Android, packed as a wheel for the host.

Debian's arm64 packages are unpacked by mmdebstrap, unprivileged and without running any of their code; the interpreter,
its library and the C libraries that the agent and the runtimes need are copied, and the agent's dependencies as wheels.
Everything is started through the bundle's own `ld.so`, so that the device needs no C library of the same kind.
The same packages and pins give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketbench.deploy.runtimes import agent_pins, install_wheels

ARCH = "aarch64"
SUITE = "bookworm"
PYTHON = "3.11"
# 1980, the first time that a zip can hold.
EPOCH_S = "315532800"
PACKAGES = ("python3", "python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "libgcc-s1")
# By soname: what CPython's own modules and the runtimes' wheels are linked against.
LIBRARIES = (
    "ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1 libresolv.so.2 "
    "libnss_files.so.2 libnss_dns.so.2 libz.so.1 libexpat.so.1 libgcc_s.so.1 libstdc++.so.6 libgomp.so.1 "
    "libcrypto.so.3 libssl.so.3 libffi.so.8 libbz2.so.1.0 liblzma.so.5 libuuid.so.1 libsqlite3.so.0 libcrypt.so.1"
)
# Of the standard library: what no agent uses.
LEFT_OUT = ("test", "idlelib", "lib2to3", "ensurepip", "distutils", "pydoc_data", "tkinter", "turtledemo", "venv")
LAUNCHER = """\
#!/bin/sh
# Starts this folder's Python through its own ld.so, wherever the folder lies.
unset LD_LIBRARY_PATH LD_PRELOAD
B=${0%/*}
case $B in /*) ;; *) B=$PWD/$B ;; esac
D=${B%/*}
export PYTHONHOME="$D" PYTHONUTF8=1 PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$D/site"
exec "$D/lib/ld-linux-aarch64.so.1" --library-path "$D/lib" --argv0 "$B/python3" "$B/python" "$@"
"""
PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "pocketbench-bundle-{arch}"
version = "{version}"
description = "A relocatable Python for {arch} devices, which pocketbench puts on phones and on boards without one"
requires-python = ">=3.11"
[tool.setuptools]
packages = ["{package}"]
[tool.setuptools.package-data]
"{package}" = ["*"]
"""


def main() -> int:
    """Build the wheel into the folder named."""
    parser = argparse.ArgumentParser(prog="bundle/build.py", description=__doc__)
    parser.add_argument("target", type=Path, help="folder for the wheel")
    target: Path = parser.parse_args().target
    target.mkdir(parents=True, exist_ok=True)
    if shutil.which("mmdebstrap") is None:
        print("mmdebstrap is not installed: sudo apt-get install mmdebstrap", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=target) as scratch:
        root, tree = Path(scratch) / "root", Path(scratch) / "tree"
        _debian(root)
        _copy(root, tree)
        install_wheels("the agent's dependencies", agent_pins(), PYTHON, ARCH, tree / "site")
        _prune(tree)
        _compile(tree)
        built = _wheel(tree, Path(scratch) / "wheel", target)
    print(built)
    return 0


def _debian(root: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--mode=chrootless", "--skip=check/chrootless", "--variant=extract"]
    command += ["--architectures=arm64", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
    subprocess.run(command, check=True)


def _copy(root: Path, tree: Path) -> None:
    (tree / "bin").mkdir(parents=True)
    (tree / "lib").mkdir()
    shutil.copy(root / "usr/bin" / f"python{PYTHON}", tree / "bin/python")
    launcher = tree / "bin/python3"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    folders = [root / "lib/aarch64-linux-gnu", root / "usr/lib/aarch64-linux-gnu", root / "lib"]
    for name in LIBRARIES.split():
        found = next((folder / name for folder in folders if (folder / name).exists()), None)
        if found is None:
            raise SystemExit(f"{name} is in none of {', '.join(PACKAGES)} of {SUITE}")
        shutil.copy(found, tree / "lib" / name)
    library = tree / "lib" / f"python{PYTHON}"
    shutil.copytree(root / "usr/lib" / f"python{PYTHON}", library, symlinks=False, ignore_dangling_symlinks=True)
    _licences(root, tree / "licences")


def _licences(root: Path, target: Path) -> None:
    """Each package's copyright file, and a list of the source packages with their versions."""
    target.mkdir()
    sources: set[str] = set()
    for folder in sorted((root / "usr/share/doc").iterdir()):
        if (folder / "copyright").is_file():
            shutil.copy(folder / "copyright", target / folder.name)
        for changes in sorted(folder.glob("changelog.Debian*.gz")):
            with gzip.open(changes, "rt", errors="replace") as text:
                match = re.match(r"(\S+ \(\S+\))", text.readline())
            sources |= {match[1]} if match else set()
    (target / "SOURCES").write_text(
        f"Debian {SUITE}, apt-get source NAME=VERSION:\n" + "\n".join(sorted(sources)) + "\n"
    )


def _prune(tree: Path) -> None:
    library = tree / "lib" / f"python{PYTHON}"
    for name in LEFT_OUT:
        shutil.rmtree(library / name, ignore_errors=True)
    for folder in (*library.glob("config-*"), *tree.rglob("__pycache__"), tree / "site/bin", tree / "site/numpy/f2py"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in [*(tree / "site").rglob("tests"), *(tree / "site").rglob("include")]:
        shutil.rmtree(folder, ignore_errors=True)


def _compile(tree: Path) -> None:
    """Byte code, so that a phone need not make it; a hash of the source stands in it instead of a time."""
    if not sys.version.startswith(f"{PYTHON}."):
        raise SystemExit(f"the byte code must come from Python {PYTHON}; this is {sys.version.split()[0]}")
    command = [sys.executable, "-m", "compileall", "-q", "-j1", "--invalidation-mode=unchecked-hash", "-s", str(tree)]
    subprocess.run([*command, str(tree)], check=True, env={**os.environ, "PYTHONHASHSEED": "0"})


def _wheel(tree: Path, scratch: Path, target: Path) -> Path:
    package = f"pocketbench_bundle_{ARCH}"
    content = scratch / package
    content.mkdir(parents=True)
    archive = content / "bundle.tar.gz"
    _archive(tree, archive)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    python = next(iter(re.findall(r"\d+\.\d+\.\d+", (tree / "licences/SOURCES").read_text().split("python3.11 (")[1])))
    told = {
        "arch": ARCH,
        "python": python,
        "sha256": sha256,
        "unpacked_bytes": sum(path.stat().st_size for path in _files(tree)),
        "needs": list(agent_pins()),
    }
    (content / "__init__.py").write_text('"""Data only: pocketbench.deploy.bundle reads it."""\n')
    (content / "bundle.json").write_text(json.dumps(told, indent=1) + "\n")
    shutil.copytree(tree / "licences", scratch / "licences")
    # The version is the content's: an installed wheel that is not this one is replaced.
    version = f"{python}+{sha256[:12]}"
    (scratch / "pyproject.toml").write_text(PROJECT.format(arch=ARCH, version=version, package=package))
    for old in target.glob(f"{package}-*.whl"):
        old.unlink()
    pip: Sequence[str] = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps")
    dated = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH_S}
    subprocess.run([*pip, "--wheel-dir", str(target), str(scratch)], check=True, env=dated)
    return next(target.glob(f"{package}-*.whl"))


def _archive(tree: Path, target: Path) -> None:
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in _files(tree):
            info = tarfile.TarInfo(path.relative_to(tree).as_posix())
            info.size, info.mode = path.stat().st_size, 0o755 if os.access(path, os.X_OK) else 0o644
            with path.open("rb") as content:
                tar.addfile(info, content)


def _files(tree: Path) -> Iterator[Path]:
    return iter(sorted(path for path in tree.rglob("*") if path.is_file()))


if __name__ == "__main__":
    sys.exit(main())
