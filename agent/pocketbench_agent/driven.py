"""A device that nothing of ours runs on: this agent stays on the host, and asks it to run commands on the device.

POCKETBENCH_DRIVEN names a file of JSON that the host wrote for this agent alone (see `Link`). A request is a connection
to the host's loopback port with one line of JSON: `token`, `command` (words), and either `ask: true`, for what is short
and whose stderr and exit code do not matter, or `environment` (pairs) and `limit_s`; that runs in the folder SCRATCH,
which is emptied for it. The answer is lines of JSON: `{"out": TEXT}` as the command prints it, stderr among it, then
`{"code": N, "peak_bytes": N}`, each null where it is not known. A connection that is closed ends the command. A host
that has lost the device answers nothing more, and ends this agent.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pocketbench_agent.errors import LinkGone

VARIABLE = "POCKETBENCH_DRIVEN"
CONNECT_S = 10.0
# The host asks the device's own shell for as long.
ASK_S = 10.0
# Below the device's work folder.
FILES, PROGRAMS, SCRATCH = "driven/files", "driven/programs", "driven/scratch"


@dataclass(frozen=True)
class Link:
    """The way to the device: `workdir` is its work folder, `programs` paths of its programs by name, `environment` what
    devices.yaml wants for the tool.
    """

    port: int
    token: str
    workdir: str
    programs: Mapping[str, str]
    environment: Mapping[str, str]

    def folder(self, files: Iterable[tuple[str, bytes]]) -> str:
        """Where the host puts a set of files, given by their names and sha256: one folder a content."""
        return f"{self.workdir}/{FILES}/{set_name(files)}"


@dataclass(frozen=True)
class Exited:
    """A command's end: its code (of a signal 128 more, None where its shell was killed), and its memory at most."""

    code: int | None
    peak_bytes: int | None


def set_name(files: Iterable[tuple[str, bytes]]) -> str:
    """One name for a set of files, by their names and contents."""
    return hashlib.sha256(b"\0".join(name.encode() + b"\0" + sha256 for name, sha256 in files)).hexdigest()[:32]


def link() -> Link | None:
    """The way to the device; None where this agent runs on it."""
    path = os.environ.get(VARIABLE)
    return _link(Path(path)) if path else None


@lru_cache(1)
def _link(path: Path) -> Link:
    return Link(**json.loads(path.read_text()))


def ask(to: Link, *command: str) -> str:
    """What it prints; empty where it fails or hangs. LinkGone."""
    out: list[str] = []
    for answer in _answers(to, {"command": command, "ask": True}, ASK_S + CONNECT_S):
        out.append(str(answer.get("out", "")))
    return "".join(out)


def run(
    to: Link,
    command: Sequence[str],
    environment: Mapping[str, str],
    limit_s: int,
    out: Callable[[str], None],
) -> Exited:
    """A command to its end, each line of its output given to `out`; ended there after so many seconds. LinkGone."""
    wanted = {"command": command, "environment": environment, "limit_s": limit_s}
    for answer in _answers(to, wanted, None):
        if "out" in answer:
            out(str(answer["out"]))
        if "code" in answer:
            return Exited(answer["code"], answer["peak_bytes"])
    raise LinkGone("the host has gone")


def _answers(to: Link, wanted: Mapping[str, Any], timeout_s: float | None) -> Iterator[dict[str, Any]]:
    try:
        with socket.create_connection(("127.0.0.1", to.port), CONNECT_S) as connection:
            connection.sendall(json.dumps({"token": to.token, **wanted}).encode() + b"\n")
            connection.settimeout(timeout_s)
            with connection.makefile("rb") as lines:
                yield from map(json.loads, lines)
    except (OSError, ValueError) as error:
        raise LinkGone(f"the host does not answer: {error}") from error
