"""An emulated arm64 board: Debian in a virtual machine, reached by SSH and nothing else. Its file system is memory.

It shows a real arm64 Linux with its own kernel and processes. It has no sensors, no clocks to scale, and no time that
means something.

    python -m tests.peers.board [--without-python]
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.peers import initramfs
from tests.peers.board_image import BASE, KERNEL, PYTHON, image
from tests.peers.person import offer, until_told
from tests.peers.rootfs import missing
from tests.peers.sshd import make_key

BOOT_TIMEOUT_S = 90
MEMORY_MB = 3072
CONSOLE_LINES = 15


def why_not() -> str | None:
    """Why no board can run here, in a line; None where one can."""
    return missing(["mmdebstrap", "qemu-system-aarch64", "ssh-keygen"])


class Board:
    """A running board."""

    user = "root"

    def __init__(self, folder: Path, kernel: Path, initrd: Path) -> None:
        self.key = folder / "user"
        self.console = folder / "console"
        """What its kernel and its server said."""
        kind, data, *_ = (folder / "host.pub").read_text().split()
        self.host_key = f"{kind} {data}"
        self._kernel, self._initrd = kernel, initrd
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]

    def known_hosts(self) -> str:
        """The line that makes its host key known."""
        return f"[127.0.0.1]:{self.port} {self.host_key}\n"

    def boot(self) -> None:
        """Start it, and wait until its server answers. RuntimeError with the console's last lines."""
        forward = f"hostfwd=tcp:127.0.0.1:{self.port}-:22"
        command = [
            # It must not outlive this process, however that ends.
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-aarch64"),
            *("-M", "virt", "-cpu", "cortex-a72", "-accel", "tcg,thread=multi", "-smp", "2", "-m", str(MEMORY_MB)),
            *("-kernel", str(self._kernel), "-initrd", str(self._initrd)),
            # Emulated, what the kernel does against side channels takes half the time of every transfer.
            *("-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init mitigations=off kpti=off nokaslr"),
            *("-nodefaults", "-display", "none", "-serial", f"file:{self.console}", "-rtc", "base=utc"),
            # romfile: its boot code comes with a package that nothing else here needs.
            *("-device", "virtio-net-pci,netdev=n0,romfile=", "-netdev", f"user,id=n0,restrict=on,{forward}"),
        ]
        self._machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
        end = time.monotonic() + BOOT_TIMEOUT_S
        while not self._answers():
            if self._machine.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"the board did not start:\n{self._last_words()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As if its power were cut."""
        self._machine.kill()
        self._machine.wait()

    def reboot(self) -> None:
        """Cut its power and start it anew: same port, same keys, nothing else is left of it."""
        self.kill()
        self.boot()

    def wait(self) -> None:
        """Until it has ended."""
        self._machine.wait()

    def _answers(self) -> bool:
        # The emulated network accepts before anybody listens inside: only the server's greeting counts.
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as link:
                link.settimeout(2)
                return link.recv(4) == b"SSH-"
        except OSError:
            return False

    def _last_words(self) -> str:
        said = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(said.splitlines()[-CONSOLE_LINES:]) or "(its console says nothing)"


@contextmanager
def board(python: bool = True) -> Iterator[Board]:
    """A board with fresh keys, with Debian's Python or without any. RuntimeError, rootfs.Missing."""
    made = image()
    with tempfile.TemporaryDirectory(prefix="board-") as scratch:
        folder = Path(scratch)
        for name in ("host", "user"):
            make_key(folder / name)
        initrd = folder / "initrd"
        with initrd.open("wb") as out:
            for part in (BASE, PYTHON) if python else (BASE,):
                with (made / part).open("rb") as archive:
                    shutil.copyfileobj(archive, out)
            keys = (
                initramfs.file("etc/ssh/host_key", (folder / "host").read_bytes(), 0o600),
                initramfs.file("etc/ssh/authorized_keys", (folder / "user.pub").read_bytes(), 0o600),
            )
            initramfs.write(out, keys)
        started = Board(folder, made / KERNEL, initrd)
        started.boot()
        try:
            yield started
        finally:
            started.kill()


def main() -> None:
    """A board for a person: its devices.yaml on stdout once it is up, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.board", description="an emulated arm64 board")
    parser.add_argument("--without-python", action="store_true", help="a board that has none")
    told = parser.parse_args()
    until_told()

    def entry(started: Board) -> str:
        where = f"host: 127.0.0.1, port: {started.port}, user: {started.user}, key: {started.key}"
        return f'transport: ssh, {where}, host_key: "{started.host_key}"'

    offer("board", why_not(), board(python=not told.without_python), entry)


if __name__ == "__main__":
    main()
