"""Packets, keys and signatures: what is on the wire, without any sockets.

Packet (protocol.txt): six little-endian u32 `command, arg0, arg1, length, checksum, command ^ 0xffffffff`, then
`length` bytes. The checksum is the sum of the bytes; peers that both speak 0x01000001 leave it 0.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA1

HEADER = struct.Struct("<4sIIIII")
CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"
AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3
TOKEN_BYTES = 20
VERSION_CHECKSUM = 0x01000000
VERSION_NO_CHECKSUM = 0x01000001
# What a peer may send in a CNXN before a size was agreed on.
FIRST_MAXDATA = 4096
LARGEST_MAXDATA = 1024 * 1024
MODULUS_BYTES = 256
# AOSP's INITIAL_DELAYED_ACK_BYTES: how much a delayed_ack peer may send before the first acknowledgement.
DELAYED_ACK_BYTES = 32 * 1024 * 1024


class Violation(Exception):
    """The peer broke the protocol; a real daemon drops the connection."""


@dataclass(frozen=True)
class Header:
    """A packet's header, checked."""

    command: bytes
    arg0: int
    arg1: int
    length: int
    checksum: int


def parse(raw: bytes) -> Header:
    """Violation where the magic does not fit or the length is beyond reason."""
    command, arg0, arg1, length, checksum, magic = HEADER.unpack(raw)
    if magic != int.from_bytes(command, "little") ^ 0xFFFFFFFF:
        raise Violation(f"magic {magic:#x} does not belong to {command!r}")
    if length > LARGEST_MAXDATA:
        raise Violation(f"{command!r} with {length} bytes")
    return Header(command, arg0, arg1, length, checksum)


def packet(command: bytes, arg0: int, arg1: int, length: int, checksum: int) -> bytes:
    """A header's bytes."""
    magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
    return HEADER.pack(command, arg0, arg1, length, checksum, magic)


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The sum of the bytes, modulo 2^32."""
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint64)) & 0xFFFFFFFF if len(data) else 0


def public_key(text: bytes) -> RSAPublicKey:
    """A key as `adbkey.pub` has it: base64 of libmincrypt's struct (words, n0inv, n, rr, e), then a comment."""
    raw = base64.b64decode(text.split()[0])
    modulus = int.from_bytes(raw[8 : 8 + MODULUS_BYTES], "little")
    (exponent,) = struct.unpack_from("<I", raw, 8 + 2 * MODULUS_BYTES)
    return RSAPublicNumbers(exponent, modulus).public_key()


def signed_by(key: RSAPublicKey, token: bytes, signature: bytes) -> bool:
    """Did this key sign the token? The 20 token bytes stand where a SHA-1 digest would."""
    try:
        key.verify(signature, token, PKCS1v15(), Prehashed(SHA1()))
    except InvalidSignature:
        return False
    return True
