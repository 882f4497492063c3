"""How fast a file reaches a device over ADB and SSH, beside `adb push` and `scp`, and with how much memory.

What: a file of random bytes is pushed over loopback, all ways in a shuffled order within each repetition. To the ADB
daemon of `tests/peers/adbd`: `adb push` (the adb in adbutils' wheel, with its own start-up, as a person would run it),
our transport through that same adb server, and our transport straight to the daemon with no server between. To an
OpenSSH server: `scp` (with its own start-up and login), and our transport. The links of ours are open already; the
source is in the page cache and everything earlier is synced before the clock starts. The first repetition warms up and
is not timed; its copies are compared with the source.

The ADB daemon is Python and takes part in the time, with checksums for the direct way (the adb server leaves them out):
the ratios say how near ours comes to the tool on the same peer, the rates say nothing about a device.

Memory: this process's peak (VmHWM, reset before each push) above what was resident before.

A pass: medians of server >= 0.9 and direct >= 0.5 of `adb push`, of ssh >= 0.9 of `scp`, memory less than 32 MB above
the baseline. MB = 10^6 bytes. Linux and root (for sshd) only; needs five times the size as free disk.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median

import adbutils
from conditions import conditions  # type: ignore[import-not-found]

from pocketbench.config.devices import DeviceEntry
from pocketbench.transports.adb import Adb
from pocketbench.transports.ssh import Ssh

# A script's folder is on the path, the repository is not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.peers.sshd import SSHD, Sshd, sshd

MB = 1_000_000
ROOT = Path(__file__).resolve().parents[1]
# Way: what it is held against, and how much of its rate is enough.
BOUNDS = {"server": ("adb", 0.9), "direct": ("adb", 0.5), "ssh": ("scp", 0.9)}
BOUND_MEMORY_MB = 32.0
BLOCK = 1024 * 1024
TIMEOUT_S = 300
VERSIONS = ("adbutils", "adb-shell", "paramiko")


def main() -> int:
    """Measure; 1 when a bound is missed, 2 when there is no room."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=200, help="size in MB (10^6 bytes)")
    parser.add_argument("--repeat", type=int, default=9, help="counted repetitions")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    arguments = parser.parse_args()
    size = arguments.mb * MB
    if shutil.disk_usage(arguments.folder).free < 6 * size:
        print(f"{6 * arguments.mb} MB are needed in {arguments.folder}", file=sys.stderr)
        return 2
    if SSHD is None or os.geteuid() != 0:
        print("root and an OpenSSH server are needed: make peers", file=sys.stderr)
        return 2
    print(conditions(VERSIONS))
    with tempfile.TemporaryDirectory(prefix="transfer-", dir=arguments.folder) as name:
        seconds, memory = _measure(Path(name), size, arguments.repeat)
    print(conditions(VERSIONS))
    missed = _report(size, seconds, memory)
    for line in missed:
        print(f"MISSED: {line}")
    if not missed:
        print("PASS")
    return 1 if missed else 0


def _measure(folder: Path, size: int, repeat: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    source, root = folder / "source", folder / "device"
    root.mkdir()
    with source.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))
    port = _free_port()
    os.environ.update(ANDROID_ADB_SERVER_PORT=str(port), HOME=str(folder), ADB_MDNS="0", ADB_USB="0", ADB_EMU="0")
    adb = str(Path(adbutils.__file__).parent / "binaries" / "adb")
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        address = stack.enter_context(_daemon(root))
        stack.enter_context(_server(adb))
        links: dict[str, Adb | Ssh] = {
            way: stack.enter_context(closing(_opened(address, way))) for way in ("server", "direct")
        }
        board = stack.enter_context(sshd(folder / "sshd"))
        (folder / "known_hosts").write_text(board.known_hosts())
        links["ssh"] = stack.enter_context(closing(_board(board)))

        def by_adb() -> None:
            subprocess.run(
                [adb, "-s", address, "push", str(source), str(root / "adb")],
                check=True,
                capture_output=True,
                timeout=TIMEOUT_S,
            )

        def by_scp() -> None:
            options = [
                "-q",
                "-i",
                str(board.key),
                "-P",
                str(board.port),
                "-o",
                f"UserKnownHostsFile={folder}/known_hosts",
            ]
            target = f"{board.user}@127.0.0.1:{root / 'scp'}"
            subprocess.run(["scp", *options, str(source), target], check=True, capture_output=True, timeout=TIMEOUT_S)

        ways: dict[str, Callable[[], None]] = {"adb": by_adb, "scp": by_scp}
        for way, link in links.items():
            ways[way] = lambda way=way, link=link: link.push(source, str(root / way))  # type: ignore[misc]
        for round_ in range(repeat + 1):
            for way in random.sample(list(ways), len(ways)):
                (root / way).unlink(missing_ok=True)
                os.sync()
                base = _reset_peak()
                begin = time.perf_counter()
                ways[way]()
                took = time.perf_counter() - begin
                memory[way] = max(memory.get(way, 0.0), (_status_bytes("VmHWM") - base) / MB)
                if round_ == 0 and not filecmp.cmp(source, root / way, shallow=False):
                    raise SystemExit(f"{way}: the copy differs")
                if round_ > 0:
                    seconds.setdefault(way, []).append(took)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds, memory


def _report(size: int, seconds: dict[str, list[float]], memory: dict[str, float]) -> Sequence[str]:
    missed = []
    for way in ("adb", "server", "direct", "scp", "ssh"):
        against, bound = BOUNDS.get(way, (way, 0.0))
        rates = sorted(size / MB / took for took in seconds[way])
        ratio = median(seconds[against]) / median(seconds[way])
        print(
            f"  {way:7s} {median(rates):5.0f} MB/s ({rates[0]:.0f} to {rates[-1]:.0f}), {ratio:.2f} of {against}, "
            f"memory +{memory[way]:.1f} MB"
        )
        if ratio < bound:
            missed.append(f"{way}: {ratio:.2f} of {against}, the bound is {bound}")
        if way in BOUNDS and memory[way] >= BOUND_MEMORY_MB:
            missed.append(f"{way}: memory rose by {memory[way]:.0f} MB, the bound is {BOUND_MEMORY_MB:.0f}")
    return missed


def _opened(address: str, way: str) -> Adb:
    entry = DeviceEntry.model_validate({"transport": "adb", "address": address, "adb": way})
    transport = Adb("peer", entry)
    transport.open()
    return transport


def _board(board: Sshd) -> Ssh:
    told = {"host": "127.0.0.1", "port": board.port, "user": board.user, "key": str(board.key)}
    host_key = board.host_key.with_suffix(".pub").read_text().strip()
    transport = Ssh("peer", DeviceEntry.model_validate({"transport": "ssh", **told, "host_key": host_key}))
    transport.open()
    return transport


@contextmanager
def _daemon(root: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.peers.adbd", "--root", str(root)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().split()[1]}"
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


@contextmanager
def _server(adb: str) -> Iterator[None]:
    subprocess.run([adb, "start-server"], check=True, capture_output=True, timeout=TIMEOUT_S)
    try:
        yield
    finally:
        subprocess.run([adb, "kill-server"], check=True, capture_output=True, timeout=TIMEOUT_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _reset_peak() -> int:
    """Set VmHWM back to what is resident now (proc(5), clear_refs); returns the baseline."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _status_bytes("VmHWM")
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


if __name__ == "__main__":
    sys.exit(main())
