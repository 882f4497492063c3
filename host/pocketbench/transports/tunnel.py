"""A loopback listener whose connections are carried over something else: SSH channels, ADB streams."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Protocol

BYTES = 256 * 1024


class Stream(Protocol):
    """The far end of a connection."""

    def recv(self, nbytes: int, /) -> bytes:
        """Some bytes; none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """All of them."""

    def close(self) -> None:
        """Both directions."""


class Tunnel:
    """Accepts on a loopback port that the system picks; each connection gets a stream of its own from `dial`."""

    def __init__(self, dial: Callable[[], Stream], name: str) -> None:
        self._dial, self._name = dial, name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name=f"{name}-tunnel", daemon=True).start()

    @property
    def address(self) -> str:
        """host:port on this machine."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Take no more and cut what is there."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for near in self._open:
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), name=f"{self._name}-carry", daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(near)
        try:
            far = self._dial()
        except Exception:
            # Whoever dialled sees a closed connection, as with any port that nobody serves.
            near.close()
            return
        back = threading.Thread(target=_pump, args=(far.recv, near.sendall), daemon=True)
        try:
            back.start()
            _pump(near.recv, far.sendall)
        finally:
            with contextlib.suppress(OSError, EOFError):
                far.close()
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            back.join(5.0)
            near.close()
            with self._lock:
                self._open.discard(near)


def _pump(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := read(BYTES):
            write(data)
