"""Finding out what a device is from what was typed, or from what the adb server sees."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from getpass import getuser

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import NotReachable, UsageError
from pocketbench.transports import adb_direct, adb_server
from pocketbench.transports.adb_services import LinkError

SSH_PORTS = (22, 2222)
# What hosts and users are made of; nothing else gets into devices.yaml or a command line.
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,63}\$?", re.ASCII)


def server_states() -> Mapping[str, str]:
    """Serials that the running adb server knows, with their states; empty where no server runs or it is silent."""
    if not adb_server.server_runs():
        return {}
    try:
        return adb_server.states()
    except LinkError:
        return {}


def phone(serial: str) -> DeviceEntry:
    """The entry of what the adb server calls by that serial: over TCP its address is its serial."""
    if re.fullmatch(r".+:[0-9]{1,5}", serial):
        return DeviceEntry(transport="adb", address=serial)
    return DeviceEntry(transport="adb", serial=serial)


def from_text(what: str) -> DeviceEntry:
    """SERIAL, HOST:PORT, USER@HOST[:PORT], or a host or alias of ~/.ssh/config. UsageError where it is none of them."""
    seen = server_states()
    if what in seen:
        return phone(what)
    user, at, rest = what.rpartition("@")
    host, port = _split(rest)
    if at and not USER.fullmatch(user):
        raise UsageError(f"{what!r}: {user!r} is no user's name")
    if not _is_host(host):
        raise UsageError(f"{what!r}: is no serial, host, HOST:PORT or USER@HOST")
    if at or port in SSH_PORTS:
        return DeviceEntry(transport="ssh", host=host, user=user or None, port=port)
    if port is not None:
        return DeviceEntry(transport="adb", address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if _is_alias(host) or _resolves(host):
        return DeviceEntry(transport="ssh", host=host)
    known = ", ".join(seen) or "none"
    raise UsageError(
        f"{what!r}: the adb server sees no such serial (it sees: {known}), and no host of that name is found: plug the "
        "phone in, or give HOST:PORT for a phone over TCP, USER@HOST for a board over SSH"
    )


def same_device(entry: DeviceEntry, devices: Mapping[str, DeviceEntry]) -> str | None:
    """The name under which that serial, address, or host, port and user is registered already."""
    wanted = identity(entry)
    return next((name for name, other in devices.items() if other is not entry and identity(other) == wanted), None)


def ssh_line(entry: DeviceEntry) -> list[str]:
    """What reaches a board by hand; whatever the entry does not say is ~/.ssh/config's."""
    port = ["-p", str(entry.port)] if entry.port else []
    key = ["-i", entry.key] if entry.key else []
    return ["ssh", *port, *key, f"{entry.user}@{entry.host}" if entry.user else str(entry.host)]


def identity(entry: DeviceEntry) -> tuple[object, ...]:
    """What there can be one of, whatever it is called: transport, serial or host, port, user."""
    if entry.transport == "ssh" and entry.host:
        told = _ssh_config(entry.host)
        port = entry.port or int(told.get("port", "22"))
        return ("ssh", told.get("hostname", entry.host).lower(), port, entry.user or told.get("user") or getuser())
    if entry.transport == "adb" and (where := entry.address or entry.serial):
        try:
            host, port = adb_direct.split_address("", where) if entry.address or ":" in where else (where, 0)
        except NotReachable:
            return ("adb", where, 0)
        return ("adb", host.lower() if port else host, port)
    return (entry.transport, object())


def _split(text: str) -> tuple[str, int | None]:
    """Host and port; a bare IPv6 address has colons of its own."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, None
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), None
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise UsageError(f"{text!r}: {port!r} is no port")
    return host.strip("[]"), int(port)


def _is_host(text: str) -> bool:
    if HOST.fullmatch(text):
        return True
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_alias(host: str) -> bool:
    from pocketbench.transports.ssh import user_config

    return host in user_config().get_hostnames()


def _ssh_config(alias: str) -> Mapping[str, str]:
    from pocketbench.transports.ssh import user_config

    return dict(user_config().lookup(alias))


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, 22, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return True
