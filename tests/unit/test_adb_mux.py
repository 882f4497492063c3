"""The multiplexer against a peer that the test plays by hand."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from pocketbench.transports.adb_mux import WINDOW_BYTES, Mux, MuxStream
from pocketbench.transports.adb_services import EXIT, FRAME, STDOUT, Frames, LinkLost, LinkTimeout, Refused

HEADER = struct.Struct("<4sIIIII")


class Peer:
    """The device's end of a socket pair."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        link.settimeout(5)

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes = b"", damage: int = 0) -> None:
        checksum = (sum(data) + damage) & 0xFFFFFFFF
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        self._link.sendall(HEADER.pack(command, arg0, arg1, len(data), checksum, magic) + data)

    def expect(self, command: bytes) -> tuple[int, int, bytes]:
        found, arg0, arg1, length, checksum, magic = HEADER.unpack(self._exactly(HEADER.size))
        data = self._exactly(length)
        assert (found, checksum, magic) == (command, sum(data), int.from_bytes(command, "little") ^ 0xFFFFFFFF)
        return arg0, arg1, data

    def says_nothing(self) -> bool:
        self._link.settimeout(0.1)
        try:
            return not self._link.recv(1)
        except TimeoutError:
            return True
        finally:
            self._link.settimeout(5)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._link.recv(count - len(data))
            assert more
            data += more
        return data


@pytest.fixture
def pair() -> Iterator[tuple[Mux, Peer]]:
    here, there = socket.socketpair()
    mux = Mux(here, 4096, checksums=True, label="phone")
    with there:
        yield mux, Peer(there)
        mux.close()


def opened(mux: Mux, peer: Peer, service: str = "shell:", remote: int = 70) -> MuxStream:
    """A stream that the peer takes."""
    found: list[MuxStream] = []
    thread = threading.Thread(target=lambda: found.append(mux.open(service, 5)))
    thread.start()
    local, nothing, name = peer.expect(b"OPEN")
    assert (nothing, name) == (0, service.encode() + b"\0")
    peer.send(b"OKAY", remote, local)
    thread.join()
    return found[0]


def test_a_write_waits_for_its_turn(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    stream = opened(mux, peer)
    stream.write(b"one", 5)
    assert peer.expect(b"WRTE") == (stream.local, 70, b"one")
    with pytest.raises(LinkTimeout, match="nothing moved"):
        stream.write(b"two", 0.1)
    assert peer.says_nothing()
    peer.send(b"OKAY", 70, stream.local)
    stream.write(b"three", 5)
    assert peer.expect(b"WRTE")[2] == b"three"


def test_a_large_write_is_cut_into_packets(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    stream = opened(mux, peer)
    data = bytes(range(256)) * 40
    thread = threading.Thread(target=stream.write, args=(data, 5))
    thread.start()
    received = b""
    while len(received) < len(data):
        part = peer.expect(b"WRTE")[2]
        assert len(part) <= 4096
        received += part
        peer.send(b"OKAY", 70, stream.local)
    thread.join()
    assert received == data


def test_a_reader_that_does_not_read_stops_the_device(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    stream, sent = opened(mux, peer), 0
    while sent + 4096 < WINDOW_BYTES:
        peer.send(b"WRTE", 70, stream.local, bytes(4096))
        peer.expect(b"OKAY")
        sent += 4096
    peer.send(b"WRTE", 70, stream.local, bytes(4096))
    assert peer.says_nothing()
    assert len(stream.read(5)) == sent + 4096
    assert peer.expect(b"OKAY") == (stream.local, 70, b"")


def test_what_came_before_the_end_is_read_first(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    stream = opened(mux, peer)
    peer.send(b"WRTE", 70, stream.local, b"last")
    peer.send(b"CLSE", 70, stream.local)
    peer.expect(b"OKAY")
    assert peer.expect(b"CLSE") == (stream.local, 70, b"")
    assert (stream.read(5), stream.read(5)) == (b"last", b"")
    with pytest.raises(LinkLost, match="closed the stream"):
        stream.write(b"x", 1)
    stream.close()
    assert peer.says_nothing()


def test_a_refused_service(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    thread = threading.Thread(target=lambda: peer.send(b"CLSE", 0, peer.expect(b"OPEN")[0]))
    thread.start()
    with pytest.raises(Refused):
        mux.open("tcp:1", 5)
    thread.join()


def test_a_stream_that_is_opened_too_late_is_closed(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    with pytest.raises(LinkTimeout):
        mux.open("shell:", 0.05)
    local, _, _ = peer.expect(b"OPEN")
    peer.send(b"OKAY", 71, local)
    assert peer.expect(b"CLSE") == (local, 71, b"")


@pytest.mark.parametrize("service", ["a\0b", "x" * 5000])
def test_a_service_that_cannot_be_sent(pair: tuple[Mux, Peer], service: str) -> None:
    with pytest.raises(Refused):
        pair[0].open(service, 1)


def test_a_flipped_byte_ends_the_link(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    one, other = opened(mux, peer), opened(mux, peer, remote=71)
    peer.send(b"WRTE", 70, one.local, b"data", damage=1)
    for stream in (one, other):
        with pytest.raises(LinkLost, match="a damaged packet"):
            stream.read(5)
    with pytest.raises(LinkLost):
        mux.open("shell:", 1)


def test_a_stream_that_is_closed_here_wakes_its_reader(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    stream = opened(mux, peer)
    threading.Timer(0.1, stream.close).start()
    assert stream.read(5) == b""
    assert peer.expect(b"CLSE") == (stream.local, 70, b"")


def test_frames_come_in_any_pieces(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    stream = opened(mux, peer)
    for byte in FRAME.pack(STDOUT, 3) + b"a\0b" + FRAME.pack(EXIT, 1) + b"\7":
        peer.send(b"WRTE", 70, stream.local, bytes([byte]))
        peer.expect(b"OKAY")
    peer.send(b"CLSE", 70, stream.local)
    frames = Frames(stream)
    assert [frames.read(None) for _ in range(3)] == [(STDOUT, b"a\0b"), (EXIT, b"\7"), None]


def test_a_frame_beyond_reason(pair: tuple[Mux, Peer]) -> None:
    mux, peer = pair
    stream = opened(mux, peer)
    peer.send(b"WRTE", 70, stream.local, b"/system/bin/sh: not found\n")
    with pytest.raises(LinkLost, match="shell protocol"):
        Frames(stream).read(None)
