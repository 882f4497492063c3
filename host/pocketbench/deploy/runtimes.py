"""Runtimes in folders of their own: packed on the host from pinned wheels, put on the worker's path.

`runtimes.lock` beside this file pins each version with its dependencies. What the agent's own environment has
is used from there; anything else becomes an archive named by its content.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.util
import py_compile
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from pocketbench.errors import NotReachable, UsageError
from pocketbench.measurement import Device
from pocketbench.models import PlacedFile, place
from pocketbench.plan import RuntimeChoice
from pocketbench_agent.runtimes import PACKAGES

LOCK = Path(__file__).with_name("runtimes.lock")
# A fixed time in every entry, so that the same files give the same archive.
EPOCH = (1980, 1, 1, 0, 0, 0)
DISTRIBUTIONS: Mapping[str, str] = {
    "litert": "ai-edge-litert",
    "tflite-runtime": "tflite-runtime",
    "onnxruntime": "onnxruntime",
    "ncnn": "ncnn",
}


def check(choice: RuntimeChoice) -> None:
    """UsageError where that version is neither installed here nor in the lock."""
    if choice.name not in DISTRIBUTIONS:
        # The null runtime is any version that it is asked to be.
        if choice.version is not None and choice.name != "null":
            raise UsageError(f"--runtime {choice}: {choice.name} has no versions")
        return
    if choice.version is not None and choice.version != installed(choice.name) and not _pins(choice):
        known = sorted({*_locked(choice.name), *filter(None, [installed(choice.name)])})
        raise UsageError(f"--runtime {choice}: known versions of {choice.name} are {', '.join(known)}")


def installed(name: str) -> str | None:
    """The version in this environment, also of a build that goes by another name (onnxruntime-gpu, -webgpu)."""
    if name not in DISTRIBUTIONS:
        return None
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(DISTRIBUTIONS[name])
    package = PACKAGES[name]
    # Who provides a package takes long to find out: where there is none, nobody is asked.
    if package is None or importlib.util.find_spec(package) is None:
        return None
    builds = metadata.packages_distributions().get(package, [])
    return metadata.version(builds[0]) if builds else None


def versions(name: str) -> Sequence[str]:
    """Those that can be put into a folder of their own, on any device; the default is the last."""
    return list(_locked(name))


def archive(choice: RuntimeChoice, device: Device, say: Callable[[str], None]) -> PlacedFile | None:
    """The runtime as one zip, made once and cached (`say` is told so); None where the agent's environment serves.

    NotReachable where it can be had from nowhere; the message says what to install.
    """
    # Where no Python of ours runs nothing is sent: the agent says why it cannot be measured there.
    if choice.name not in DISTRIBUTIONS or not device.python:
        return None
    own = installed(choice.name)
    if choice.name in device.runtimes and choice.version in (None, own):
        return None
    pins = _pins(choice)
    if not pins:
        raise NotReachable(f"runtime {choice} is not installed here: pip install 'pocketbench[local]'")
    return _pack(choice, pins, device, say)


def _pack(choice: RuntimeChoice, pins: Sequence[str], device: Device, say: Callable[[str], None]) -> PlacedFile:
    import platformdirs

    version = choice.version or list(_locked(choice.name))[-1]
    tag = f"cp{''.join(device.python.split('.')[:2])}-{device.arch}"
    folder = Path(platformdirs.user_cache_dir("pocketbench")) / "runtimes"
    target = folder / f"{choice.name}-{version}-{tag}.zip"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            python = ".".join(device.python.split(".")[:2])
            say(f"packing {choice.name} {version} for Python {python} on {device.arch} (once)")
            install_wheels(f"runtime {choice}", pins, python, device.arch, Path(scratch) / "packages")
            partial = Path(scratch) / "archive.zip"
            pack(Path(scratch) / "packages", partial)
            partial.replace(target)
    return place(target, target.name, "--runtime")


def install_wheels(what: str, pins: Sequence[str], python: str, arch: str, target: Path) -> None:
    """Wheels for a device and nothing beyond the pins. NotReachable where one cannot be had."""
    platforms = [f"--platform=manylinux_2_{minor}_{arch}" for minor in (17, 27, 28, 31, 34, 35)]
    platforms += [f"--platform=manylinux2014_{arch}", f"--platform=linux_{arch}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={python}", *platforms, f"--target={target}", *pins]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise NotReachable(f"{what} cannot be installed for Python {python} on {arch}: {last}")
    # Byte code, so that no worker on the device compiles numpy anew; only the same Python can make it.
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        kind = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(target, quiet=2, stripdir=str(target), invalidation_mode=kind)


def pack(folder: Path, target: Path) -> None:
    """A zip of a folder; the same files give the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                packed.writestr(info, path.read_bytes())


def agent_pins() -> Sequence[str]:
    """What the agent itself needs on a device."""
    return [str(pin) for pin in tomllib.loads(LOCK.read_text())["agent"]["needs"]]


def _pins(choice: RuntimeChoice) -> Sequence[str]:
    versions = _locked(choice.name)
    if not versions:
        return ()
    return versions.get(choice.version or list(versions)[-1], ())


def _locked(name: str) -> Mapping[str, Sequence[str]]:
    return dict(tomllib.loads(LOCK.read_text()).get(name, {}))
