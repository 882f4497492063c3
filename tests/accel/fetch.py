"""Fetches what stands in for accelerators, from package registries alone, each into a folder of its own.

python -m tests.accel.fetch build/accel

- `qnn`: Qualcomm's NPU stack, which simulates the NPU on x86-64; their licence lies in the package.
- `webgpu`: ONNX Runtime with WebGPU.
- `ncnn`, `pnnx`: ncnn and its converter.
- `swiftshader`: a Vulkan in software, out of an npm package that carries a whole browser.

What cannot be had is said and left out; its tests are then skipped.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

PIP = {
    "qnn": "onnxruntime-qnn==2.7.0",
    "webgpu": "onnxruntime-webgpu==1.27.0",
    "ncnn": "ncnn==1.0.20261020",
    "pnnx": "pnnx==20261020",
}
CHROMIUM = "@sparticuz/chromium@147.0.0"
# Node has brotli, Python has not.
UNPACK = (
    "const fs = require('fs'), zlib = require('zlib');"
    "fs.writeFileSync(process.argv[2], zlib.brotliDecompressSync(fs.readFileSync(process.argv[1])));"
)
ICD = "vk_swiftshader_icd.json"


def main(target: Path) -> None:
    """Fetch what is not there yet."""
    target.mkdir(parents=True, exist_ok=True)
    for name, pin in PIP.items():
        if not (target / name).exists():
            _into(target / name, partial(_pip, pin))
    if not (target / "swiftshader").exists():
        _into(target / "swiftshader", _swiftshader)


def _into(folder: Path, fill: Callable[[Path], None]) -> None:
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        fill(unfinished)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{folder.name} cannot be had here, and its tests will be skipped: {error}", file=sys.stderr)
        shutil.rmtree(unfinished)
        return
    unfinished.replace(folder)


def _pip(pin: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), pin], check=True)


def _swiftshader(folder: Path) -> None:
    if platform.machine() != "x86_64":
        raise OSError(f"it is made for x86_64, and this is {platform.machine()}")
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch)
        subprocess.run(["npm", "pack", "--silent", CHROMIUM], cwd=packed, check=True, stdout=subprocess.DEVNULL)
        (tarball,) = packed.glob("*.tgz")
        subprocess.run(["tar", "-xzf", tarball.name, "package/bin/swiftshader.tar.br"], cwd=packed, check=True)
        plain = packed / "swiftshader.tar"
        subprocess.run(["node", "-e", UNPACK, str(packed / "package/bin/swiftshader.tar.br"), str(plain)], check=True)
        subprocess.run(["tar", "-xf", str(plain), "-C", str(folder)], check=True)
    if not (folder / ICD).is_file():
        raise OSError(f"{CHROMIUM} has no {ICD} any more")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
