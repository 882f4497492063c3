"""The script that unpacks a bundle on a device: what was damaged on its way is refused, and leaves no trace."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from pocketbench.deploy.remote import UNPACK_BUNDLE, unpacking

TOOLS = ("cat", "gzip", "mkdir", "mv", "rm", "sed", "sh", "sleep", "sync", "tar")
SAID = "the bundle was damaged on its way; run this again\n"


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("damaged", [True, False])
def test_a_damaged_bundle_is_refused(tmp_path: Path, hashes: bool, damaged: bool) -> None:
    """With sha256sum by its hash, without by gzip's own sum; a whole one is taken either way."""
    packed = bytearray(gzip.compress(_tar({"bin/python3": b"#!/bin/sh\n", "lib/data": b"A" * 5000}), 0))
    sha256 = hashlib.sha256(packed).hexdigest()
    if damaged:
        packed[packed.index(b"A" * 5000) + 2500] ^= 1
    archive, folder, tools = tmp_path / "a.tar.gz", tmp_path / "made 'it'", tmp_path / "tools"
    staging = tmp_path / "made.new-1"
    archive.write_bytes(packed)
    tools.mkdir()
    for name in (*TOOLS, "sha256sum") if hashes else TOOLS:
        (tools / name).symlink_to(str(shutil.which(name)))
    words = {"folder": str(folder), "staging": str(staging), "archive": str(archive), "sha256": sha256}
    script = unpacking(UNPACK_BUNDLE, **words)
    command = [str(tools / "sh"), "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tools)}, check=False)
    assert (done.returncode == 1) == damaged, done.stderr
    assert (folder / "complete").exists() == (not damaged)
    assert not staging.exists() and not archive.exists()
    if damaged:
        assert done.stderr == SAID if hashes else "crc error" in done.stderr


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            packed.addfile(info, io.BytesIO(data))
    return out.getvalue()
