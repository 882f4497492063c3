"""A loopback listener whose connections are carried over something else: SSH channels, ADB streams."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A packet of ADB, each of which waits for its answer: on a slow link smaller ones take as many times longer.
BYTES = 1024 * 1024
ACCEPT_SLICE_S = 0.2
END_S = 15.0


@dataclass(frozen=True)
class Stream:
    """The far end: `read` gives nothing at the end, `write` takes everything; both raise when it is lost."""

    read: Callable[[], bytes]
    write: Callable[[bytes], object]
    close: Callable[[], object]


class Tunnel:
    """Accepts on a loopback port that the system picks; each connection gets a stream of its own from `dial`."""

    def __init__(self, dial: Callable[[], Stream], name: str) -> None:
        self._dial, self._name = dial, name
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(ACCEPT_SLICE_S)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._pipes: set[tuple[socket.socket, Stream]] = set()
        self._threads: list[threading.Thread] = []
        self._accepting = self._start(self._accept)

    def close(self) -> None:
        """End the listener and what runs through it."""
        self._closed.set()
        with self._lock:
            pipes = list(self._pipes)
        for near, far in pipes:
            _quietly(far.close)
            _shut(near)
        self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join(END_S)

    def _start(self, target: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, name=f"{self._name}-tunnel", daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(self._start(self._carry, near))

    def _carry(self, near: socket.socket) -> None:
        with near:
            near.settimeout(None)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                far = self._dial()
            except Exception:
                # Whoever dialled sees a closed connection, as with any port that nobody serves.
                return
            pipe = (near, far)
            with self._lock:
                self._pipes.add(pipe)
            if self._closed.is_set():
                _quietly(far.close)
            up = self._start(_pump, lambda: near.recv(BYTES), far.write, far.close)
            _pump(far.read, near.sendall, lambda: _shut(near))
            _quietly(far.close)
            up.join()
            with self._lock:
                self._pipes.discard(pipe)


def _pump(read: Callable[[], bytes], write: Callable[[bytes], object], close: Callable[[], object]) -> None:
    """The end of one side is the end of both: ADB knows no half-closed streams, and gRPC needs none."""
    try:
        while data := read():
            write(data)
    except Exception:
        # However the far side says that it is lost, the near side sees it as the connection's end.
        pass
    finally:
        _quietly(close)


def _shut(near: socket.socket) -> None:
    with contextlib.suppress(OSError):
        near.shutdown(socket.SHUT_RDWR)


def _quietly(close: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        close()
