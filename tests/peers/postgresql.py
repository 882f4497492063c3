"""A real PostgreSQL server on loopback, with data and a password of its own."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote

TIMEOUT_S = 60
USER = "bench"
# Whatever it has of a URL's own characters, it must come through, and be shown nowhere.
PASSWORD = "s3cret/@:%41 word"
# initdb and the server refuse to be root.
UNPRIVILEGED = ("postgres", "nobody")


@cache
def binaries() -> Path | None:
    """The folder of initdb and pg_ctl; None where there is no PostgreSQL."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    folders = [*reversed(debian), *([Path(found).resolve().parent] if found else [])]
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def why_not() -> str | None:
    """Why there can be no server here, in a line; None where there can."""
    if binaries() is None:
        return "no PostgreSQL here: apt-get install postgresql (make peers)"
    if importlib.util.find_spec("psycopg") is None:
        return "no psycopg here: pip install 'pocketbench[postgresql]'"
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or not _unprivileged()):
        return "PostgreSQL does not run as root, and there is no setpriv or no other user here"
    return None


@dataclass
class Server:
    """A cluster; `start` and `stop` it at will."""

    folder: Path
    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        """Returns when it takes connections."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        _run("pg_ctl", "start", "-w", "-t", TIMEOUT_S, "-D", self.folder, "-l", f"{self.folder}.log", "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash: no checkpoint, every connection cut."""
        _run("pg_ctl", "stop", "-w", "-t", TIMEOUT_S, "-D", self.folder, "-m", mode)

    def database(self) -> str:
        """A new, empty database's URL."""
        from sqlalchemy import create_engine, text

        name = f"bench_{next(self._numbers)}"
        engine = create_engine(self.url("postgres", "postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)

    def url(self, database: str, scheme: str = "postgresql") -> str:
        """As a user types it."""
        return f"{scheme}://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgresql(durable: bool = False) -> Iterator[Server]:
    """Start one; its data go with it. Not `durable`: it need not survive a power cut, and is quick."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            # pytest's own folders are closed to other users.
            user = pwd.getpwnam(_unprivileged())
            os.chown(folder, user.pw_uid, user.pw_gid)
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        data = folder / "data"
        words = ["--auth=scram-sha-256", f"--pwfile={password}", f"--username={USER}", "--encoding=UTF8", "--locale=C"]
        _run("initdb", "-D", data, "--no-sync", *words)
        with (data / "postgresql.conf").open("a") as file:
            file.write("shared_buffers = 64MB\nmax_connections = 200\n")
            if not durable:
                file.write("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server = Server(data, port)
        server.start()
        try:
            yield server
        finally:
            if (data / "postmaster.pid").exists():
                server.stop("immediate")


def _unprivileged() -> str:
    known = {user.pw_name for user in pwd.getpwall()}
    return next((name for name in UNPRIVILEGED if name in known), "")


def _run(command: str, *arguments: object) -> None:
    folder = binaries()
    assert folder is not None
    prefix: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam(_unprivileged())
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    words = [*prefix, str(folder / command), *map(str, arguments)]
    # Its own output would keep our pipes open for as long as the server lives.
    with tempfile.TemporaryFile() as log:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", timeout=2 * TIMEOUT_S, check=False
        )
        if done.returncode:
            log.seek(0)
            raise RuntimeError(f"{command} failed: {log.read().decode(errors='replace')[-2000:]}")
