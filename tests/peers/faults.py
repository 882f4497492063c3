"""A TCP proxy, on loopback unless told otherwise, that spoils a link as told, while it is in use."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

READ_BYTES = 64 * 1024
# How soon a knob that was turned is noticed.
TICK_S = 0.02
# How exact a delay is.
SOON_S = 0.001
# So much is under way at once; a link that takes nothing soon takes nothing in.
UNDER_WAY_CHUNKS = 64


@dataclass
class Direction:
    """One way through the proxy, counted over all its connections."""

    passed: int = 0
    """Bytes that went through."""
    cut_at: int | None = None
    """All links are cut once so many bytes went through; the byte after that never arrives."""
    flip_at: int | None = None
    """The byte at that offset arrives with its lowest bit turned."""
    delay_s: float = 0.0
    """How long each byte is under way."""


@dataclass
class Faults:
    """The knobs. They may be turned at any time, from any thread."""

    port: int
    """Where to connect to instead of the target."""
    to_target: Direction = field(default_factory=Direction)
    from_target: Direction = field(default_factory=Direction)
    hole: bool = False
    """Connections are accepted and stay open, and nothing is read or sent any more, until this is False again."""
    _links: set[socket.socket] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        """Reset what is connected now; later connections work."""
        for link in list(self._links):
            _reset(link)

    def delay(self, seconds: float) -> None:
        """Both ways."""
        self.to_target.delay_s = self.from_target.delay_s = seconds


@contextmanager
def faults(target: int, host: str = "127.0.0.1", near: str = "127.0.0.1") -> Iterator[Faults]:
    """A proxy to that port, listening on an address of ours, without any fault as yet."""
    threads: list[threading.Thread] = []
    with socket.create_server((near, 0)) as listener:
        listener.settimeout(TICK_S)
        knobs = Faults(listener.getsockname()[1])

        def accept() -> None:
            while not knobs._stop.is_set():
                try:
                    near, _ = listener.accept()
                except TimeoutError:
                    continue
                try:
                    far = socket.create_connection((host, target), 5)
                except OSError:
                    _reset(near)
                    continue
                threads.append(threading.Thread(target=_serve, args=(knobs, near, far), daemon=True))
                threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield knobs
        finally:
            knobs._stop.set()
            accepting.join()
            for thread in threads:
                thread.join()


def _serve(knobs: Faults, near: socket.socket, far: socket.socket) -> None:
    links = {near, far}
    for link in links:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(TICK_S)
    knobs._links |= links
    back = threading.Thread(target=_pump, args=(knobs, knobs.from_target, far, near), daemon=True)
    back.start()
    _pump(knobs, knobs.to_target, near, far)
    back.join()
    knobs._links -= links
    for link in links:
        link.close()


def _pump(knobs: Faults, way: Direction, source: socket.socket, sink: socket.socket) -> None:
    under_way: deque[tuple[float, bytes]] = deque()
    ended = False
    try:
        while under_way or not ended:
            _wait_in_hole(knobs)
            if ended or len(under_way) >= UNDER_WAY_CHUNKS:
                time.sleep(SOON_S)
            else:
                source.settimeout(SOON_S if under_way else TICK_S)
                with contextlib.suppress(TimeoutError):
                    data = source.recv(READ_BYTES)
                    ended = not data
                    under_way.append((time.monotonic() + way.delay_s, data))
            while under_way and under_way[0][0] <= time.monotonic():
                _pass_on(knobs, way, sink, under_way.popleft()[1])
    except OSError:
        # Cut, by a knob, by either end, or because the proxy ends: the other end sees it too.
        _reset(source)
        _reset(sink)


def _wait_in_hole(knobs: Faults) -> None:
    while knobs.hole and not knobs._stop.is_set():
        time.sleep(TICK_S)
    if knobs._stop.is_set():
        raise ConnectionAbortedError


def _pass_on(knobs: Faults, way: Direction, sink: socket.socket, data: bytes) -> None:
    if not data:
        _wait_in_hole(knobs)
        sink.shutdown(socket.SHUT_WR)
        return
    if way.flip_at is not None and 0 <= way.flip_at - way.passed < len(data):
        spoilt = bytearray(data)
        spoilt[way.flip_at - way.passed] ^= 1
        data = bytes(spoilt)
    cut = way.cut_at is not None and way.passed + len(data) > way.cut_at
    if cut and way.cut_at is not None:
        data = data[: max(0, way.cut_at - way.passed)]
    rest = memoryview(data)
    while rest:
        _wait_in_hole(knobs)
        with contextlib.suppress(TimeoutError):
            sent = sink.send(rest)
            rest = rest[sent:]
            way.passed += sent
    if cut:
        knobs.cut()
        raise ConnectionResetError


def _reset(link: socket.socket) -> None:
    # Without a linger time the other end gets a reset, as from a link that broke, and no orderly end.
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
