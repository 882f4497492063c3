"""One agent a home: what a second one, started by a host that came back or by another host, does instead of serving.

The second asks the first to let its host in, through a file that says what the token's hash is, and passes on the
first one's port. Who may use the device is decided by the lease, not here. An agent of another build, for which
there is nothing to do, makes room instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path


class Request:
    """The second agent's side."""

    def __init__(self, home: Path, build: str, token: str) -> None:
        folder = _folder(home)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._path = folder / f"{uuid.uuid4().hex}.request"
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"build": build, "token_sha256": digest(token), "pid": os.getpid()}))
        partial.replace(self._path)

    def port(self) -> int | None:
        """Where the first one listens, once it has answered."""
        try:
            return int(self._path.with_suffix(".answer").read_text())
        except (OSError, ValueError):
            return None

    def withdraw(self) -> None:
        """Leave no file."""
        for path in (self._path, self._path.with_suffix(".answer")):
            with contextlib.suppress(OSError):
                path.unlink()


def answer(home: Path, build: str, port: int, let_in: Callable[[str], None]) -> bool:
    """The first agent's side, called now and then. True where an agent of another build asks for the home."""
    other_build = False
    folder = _folder(home)
    for path in sorted(folder.glob("*.request")) if folder.is_dir() else ():
        try:
            told = json.loads(path.read_text())
            if not Path(f"/proc/{int(told['pid'])}").exists():
                path.unlink()
            elif told["build"] != build:
                other_build = True
            else:
                let_in(str(told["token_sha256"]))
                partial = path.with_suffix(".answering")
                partial.write_text(str(port))
                path.unlink()
                partial.replace(path.with_suffix(".answer"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return other_build


def digest(token: str) -> str:
    """What stands for a token on disk and in memory."""
    return hashlib.sha256(token.encode()).hexdigest()


def _folder(home: Path) -> Path:
    return home / "handover"
