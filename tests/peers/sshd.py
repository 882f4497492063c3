"""A real OpenSSH server as a process on loopback, with keys and known_hosts of its own."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@dataclass(frozen=True)
class Sshd:
    """A running server."""

    port: int
    user: str
    key: Path
    host_key: Path
    folder: Path
    address: str

    def known_hosts(self) -> str:
        """The line that makes its host key known."""
        kind, data, *_ = self.host_key.with_suffix(".pub").read_text().split()
        return f"[{self.address}]:{self.port} {kind} {data}\n"


@contextmanager
def sshd(
    folder: Path, address: str = "127.0.0.1", prefix: Sequence[str] = (), only: Path | None = None
) -> Iterator[Sshd]:
    """Start one; its files lie in the folder. The prefix goes before its command: into a network, say. `only` is a
    folder of programs, `sh` among them, that sessions have instead of the user's shell and path.
    """
    assert SSHD is not None
    folder.mkdir(mode=0o700)
    host_key, key = folder / "host", folder / "user"
    for path in (host_key, key):
        make_key(path)
    (folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "config"
    config.write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {host_key}\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "AllowTcpForwarding yes\nSubsystem sftp internal-sftp\n" + _shell(only)
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*prefix, SSHD, "-D", "-e", "-f", str(config)], stderr=log)
    try:
        _wait(address, port, server)
        yield Sshd(port, getpass.getuser(), key, host_key, folder, address)
    finally:
        server.terminate()
        server.wait(10)


def _shell(only: Path | None) -> str:
    if only is None:
        return ""
    # bash reads no .bashrc where it is not the first shell.
    bare = f'exec /usr/bin/env -i HOME="$HOME" PATH={only} {only}/sh -c "$SSH_ORIGINAL_COMMAND"'
    return f"SetEnv SHLVL=2\nForceCommand {bare}\n"


def make_key(path: Path) -> None:
    """A pair of keys: the private one there, the public one beside it as `*.pub`."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "peer", "-f", str(path)], check=True)


def _wait(address: str, port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        try:
            socket.create_connection((address, port), 0.2).close()
            return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError("sshd did not start") from None
            time.sleep(0.05)
    raise RuntimeError("sshd does not listen")
