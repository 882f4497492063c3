"""From the agent to its device: the agent asks at a loopback port, the device's shell does it over the open link.

The protocol is told in `pocketbench_agent.driven`. One link serves all: a phone on USB has but one.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pocketbench.driven.mirror import Mirror, Nonsense
from pocketbench.driven.scripts import RUN, WATCH
from pocketbench.errors import DeviceError, NotReachable
from pocketbench.transports import Spawned, Transport
from pocketbench_agent.driven import ASK_S, Exited

REQUEST_BYTES = 1_000_000
REQUEST_S = 10.0
POLL_S = 0.1
# Of one command: a tool that prints more is ended.
MAX_OUT_BYTES = 64 * 1024 * 1024
ASK_BYTES = 8 * 1024 * 1024
# The device tells of itself each second; whether it still is there is asked after so long a silence.
SILENT_S = 10.0
PROBE_S = 10.0
FIRST_S = 30.0
# What ends a command there has the device's own clock.
LATE_S = 60.0
ASK = f'"$@" </dev/null 2>/dev/null | head -c {ASK_BYTES}'


class Bridge:
    """For one agent, from `open` to `close`. `lost` is called once, from a thread, where the device is gone."""

    def __init__(
        self, device: str, transport: Transport, workdir: str, mirror: Mirror, lost: Callable[[], None]
    ) -> None:
        self._device, self._transport, self._workdir = device, transport, workdir
        self._mirror, self._lost = mirror, lost
        self._token = secrets.token_hex(32)
        self._closing = threading.Event()
        self._gone = threading.Event()
        self._running: set[Spawned] = set()
        self._lock = threading.Lock()
        self._watch: Spawned | None = None
        self._serving: threading.Thread | None = None
        self._server = _Server(self._serve)
        self.port = int(self._server.server_address[1])

    @property
    def gone(self) -> bool:
        """Was the device lost?"""
        return self._gone.is_set()

    def open(self, words: Sequence[str]) -> None:
        """Watch the device, by scripts.WATCH with those words, and serve. NotReachable where it says nothing."""
        self._watch = self._transport.spawn(["sh", "-c", WATCH, "sh", *words], "")
        deadline = time.monotonic() + FIRST_S
        try:
            while not self._mirror.line(line := self._watch.read_line(max(0.0, deadline - time.monotonic()))):
                if not line:
                    raise NotReachable(f"{self._device}: its shell does not tell what it is: {self._said(self._watch)}")
        except Nonsense as error:
            raise NotReachable(f"{self._device}: what it says of itself makes no sense: {error}") from error
        threading.Thread(target=self._follow, name=f"{self._device}-watch", daemon=True).start()
        self._serving = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name=f"{self._device}-bridge", daemon=True
        )
        self._serving.start()

    def link(self, environment: Mapping[str, str]) -> Mapping[str, Any]:
        """What the agent needs to ask, as `pocketbench_agent.driven.Link` has it."""
        return {
            "port": self.port,
            "token": self._token,
            "workdir": self._workdir,
            "programs": dict(self._mirror.programs),
            "environment": {**environment, "POCKETBENCH_WORKDIR": f"{self._workdir}:"},
        }

    def close(self) -> None:
        """End what runs there."""
        self._closing.set()
        if self._serving is not None:
            # It waits for ever where nobody serves.
            self._server.shutdown()
        self._server.server_close()
        with self._lock:
            running = list(self._running)
        for process in (*running, *filter(None, (self._watch,))):
            with contextlib.suppress(DeviceError):
                process.end()
        self._mirror.clear()

    def _said(self, process: Spawned) -> str:
        return (process.log_tail().splitlines() or ["it said nothing"])[-1][:200]

    def _follow(self) -> None:
        """What the device says of itself, until it says nothing any more."""
        assert self._watch is not None
        while not self._closing.is_set():
            try:
                line = self._watch.read_line(SILENT_S)
                if line:
                    self._mirror.line(line)
                    continue
            except NotReachable:
                if self._reachable():
                    continue
            except (Nonsense, OSError):
                pass
            break
        self._lose()

    def _reachable(self) -> bool:
        try:
            return self._transport.run(["true"], PROBE_S).code == 0
        except DeviceError:
            return False

    def _lose(self) -> None:
        with self._lock:
            if self._closing.is_set() or self._gone.is_set():
                return
            self._gone.set()
        self._mirror.clear()
        self._lost()

    def _serve(self, connection: socket.socket) -> None:
        """One request. Whoever has no token, or sends no request, is hung up on."""
        connection.settimeout(REQUEST_S)
        with connection.makefile("rb") as lines:
            try:
                wanted = json.loads(lines.readline(REQUEST_BYTES))
                token = str(wanted["token"])
                command = [str(word) for word in wanted["command"]]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                return
        if not hmac.compare_digest(token.encode(), self._token.encode()) or not command:
            return
        connection.settimeout(None)
        try:
            if wanted.get("ask"):
                done = self._transport.run(["sh", "-c", ASK, "sh", *command], ASK_S)
                _tell(connection, {"out": done.stdout[:ASK_BYTES].decode(errors="replace")})
                return
            ended = self._run(connection, command, wanted)
        except NotReachable:
            # Slow, or gone: whoever watches it knows.
            return
        except DeviceError:
            ended = None
        if ended is None:
            self._lose()
            # No answer, until the agent has been ended: a job without its device has no end of its own.
            with contextlib.suppress(OSError):
                connection.recv(1)
            return
        _tell(connection, {"code": ended.code, "peak_bytes": ended.peak_bytes})

    def _run(self, connection: socket.socket, command: Sequence[str], wanted: Mapping[str, Any]) -> Exited | None:
        """A command to its end; None where the device was lost."""
        nonce, limit_s = secrets.token_hex(8), int(wanted["limit_s"])
        pairs = [f"{name}={value}" for name, value in wanted["environment"].items()]
        words = [nonce, str(limit_s), self._workdir, *pairs, "--", *command]
        process = self._transport.spawn(["sh", "-c", RUN, "sh", *words], "")
        with self._lock:
            self._running.add(process)
        hung_up, done = threading.Event(), threading.Event()

        def listen() -> None:
            with contextlib.suppress(OSError):
                connection.recv(1)
            hung_up.set()
            if not done.is_set():
                process.end()

        threading.Thread(target=listen, name=f"{self._device}-hang-up", daemon=True).start()
        deadline, size = time.monotonic() + limit_s + LATE_S, 0
        try:
            while line := process.read_line(max(0.0, deadline - time.monotonic())):
                size += len(line)
                if size > MAX_OUT_BYTES:
                    break
                _tell(connection, {"out": line})
        except (NotReachable, OSError):
            pass
        finally:
            done.set()
            process.end()
            with self._lock:
                self._running.discard(process)
        ended = exited(process.log_tail(), nonce)
        if ended.code is None and not hung_up.is_set() and size <= MAX_OUT_BYTES and not self._reachable():
            return None
        return ended


def exited(said: str, nonce: str) -> Exited:
    """What scripts.RUN says beside the command's output."""
    code = peak = None
    for line in said.splitlines():
        mark, _, told = line.partition(" ")
        what, _, number = told.partition(" ")
        if mark == nonce and number.isascii() and number.isdecimal() and len(number) < 16:
            code = int(number) if what == "code" else code
            peak = int(number) * 1024 if what == "peak" else peak
    return Exited(code, peak)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # Whoever hangs up in the middle wants no answer.
                with contextlib.suppress(OSError):
                    serve(self.request)

        super().__init__(("127.0.0.1", 0), Handler)


def _tell(connection: socket.socket, what: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(what).encode() + b"\n")
