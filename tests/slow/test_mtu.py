"""100 MB over packets of Ethernet's size: loopback takes 64 KiB at once, and hides a send that was cut short."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT
from tests.peers import netns
from tests.peers.netns import Cable
from tests.peers.sshd import sshd
from tests.slow.links import (
    WAYS,
    Far,
    adb_entry,
    check_peers,
    connected,
    needs_root,
    random_file,
    session,
    sha256,
    ssh_entry,
    timed,
)

pytestmark = needs_root
SIZE = 100_000_000


@contextmanager
def far_end(way: str, cable: Cable, folder: Path) -> Iterator[Far]:
    """The device there."""
    folder.mkdir()
    if way == "ssh":
        with sshd(folder / "server", cable.address, cable.command([])) as server:
            yield Far(ssh_entry(server), folder)
        return
    words = [sys.executable, "-m", "tests.peers.adbd", "--host", cable.address, "--root", str(folder)]
    with subprocess.Popen(cable.command(words), stdout=subprocess.PIPE, cwd=ROOT, text=True) as daemon:
        assert daemon.stdout is not None
        try:
            yield Far(adb_entry(f"{cable.address}:{daemon.stdout.readline().split()[1]}"), folder)
        finally:
            daemon.terminate()


@pytest.mark.parametrize("way", WAYS)
def test_a_blob_and_an_archive(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are what they were, byte by byte."""
    check_peers()
    assert netns.why_not() is None, netns.why_not()
    monkeypatch.setenv("HOME", str(tmp_path))
    blob, archive = random_file(tmp_path / "blob", SIZE), random_file(tmp_path / "archive", SIZE)
    with netns.cable() as cable, far_end(way, cable, tmp_path / "far") as to, connected(to) as transport:
        with timed(f"{way} push over a cable", SIZE):
            transport.push(archive.path, str(to.folder / "archive"))
        with session(to, transport) as opened, timed(f"{way} blob over a cable", SIZE):
            assert opened.put([blob]) == SIZE
        assert sha256(to.folder / "archive") == archive.sha256
        assert sha256(to.blobs / blob.sha256) == blob.sha256
