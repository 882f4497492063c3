"""SSH: paramiko, `~/.ssh/config`, verified host keys; the agent's port through a direct-tcpip channel."""

from __future__ import annotations

import contextlib
import getpass
import logging
import shlex
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramiko

from pocketbench import transports
from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import DeviceLost, NotReachable
from pocketbench.transports import Completed, Sent, unheard
from pocketbench.transports.output import Output
from pocketbench.transports.tunnel import Stream, Tunnel

CONNECT_TIMEOUT_S = 15.0
KEEPALIVE_S = 10
END_WAIT_S = 5.0
STALL_TIMEOUT_S = 60.0
# What paramiko keeps free in each packet.
PACKET_HEADER_BYTES = 64
# One pass over the data instead of two. paramiko prefers the older ones.
PREFERRED_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
READ_BYTES = 65536
NO_KEY = "No authentication methods available"
# It logs tracebacks of what it raises as well, and without a handler Python prints them.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Ssh:
    """One connection to a board."""

    def __init__(self, name: str, entry: DeviceEntry) -> None:
        if not entry.host:
            raise NotReachable(f"{name}: transport ssh needs 'host' in devices.yaml")
        self._name, self._entry = name, entry
        self._clients: list[paramiko.SSHClient] = []
        self._tunnels: list[Tunnel] = []
        self._spawned: list[SshProcess] = []

    def open(self) -> None:
        """Connect, through the jumps that `~/.ssh/config` names. NotReachable says what to do."""
        config = user_config()
        assert self._entry.host is not None
        self._client = self._connect(self._entry.host, config, self._entry, depth=0)

    def push(self, source: Path, target: str, sent: Sent = unheard) -> None:
        """Copy through `cat`; the target appears whole or not at all. NotReachable says why not.

        SFTP takes two packets for every 32 KiB and an answer, and small servers have none.
        """
        script = 'cat >"$1.part" && [ "$(wc -c <"$1.part")" -eq "$2" ] && mv -f "$1.part" "$1"'
        size = source.stat().st_size
        with self._lost(), source.open("rb", buffering=0) as file:
            channel = self._channel()
            try:
                channel.settimeout(STALL_TIMEOUT_S)
                channel.exec_command(shlex.join(["sh", "-c", script, "sh", target, str(size)]))
                # The end of a command that fails early is an error of its own, which says more.
                with contextlib.suppress(OSError):
                    while data := file.read(READ_BYTES * 16):
                        _send_all(channel, data)
                        sent(file.tell())
                channel.shutdown_write()
                done = self._collect(channel, time.monotonic() + STALL_TIMEOUT_S, f"the copy of {source.name}")
            finally:
                channel.close()
        if done.code:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise NotReachable(
                f"{self._name}: copying {source.name}: {said[-1] if said else 'it did not arrive whole'}"
            )

    def run(self, command: Sequence[str], timeout_s: float) -> Completed:
        """Run to the end; every word is quoted, so that none is the shell's. NotReachable after the timeout."""
        with self._lost():
            channel = self._channel()
            try:
                channel.settimeout(timeout_s)
                channel.exec_command(shlex.join(command))
                channel.shutdown_write()
                return self._collect(channel, time.monotonic() + timeout_s, command[0])
            finally:
                channel.close()

    def spawn(self, command: Sequence[str], first_line: str) -> SshProcess:
        """Start a process on a channel of its own and write one line to its stdin."""
        with self._lost():
            channel = self._channel()
            channel.exec_command(shlex.join(command))
            process = SshProcess(self._name, channel, first_line)
        self._spawned.append(process)
        return process

    def forward(self, port: int) -> str:
        """A loopback port here that leads to the board's loopback port."""

        def dial() -> Stream:
            transport = self._client.get_transport()
            if transport is None:
                raise OSError("the connection is closed")
            there, here = ("127.0.0.1", port), ("127.0.0.1", 0)
            channel = transport.open_channel("direct-tcpip", there, here, timeout=CONNECT_TIMEOUT_S)
            return Stream(lambda: channel.recv(READ_BYTES), lambda data: _send_all(channel, data), channel.close)

        tunnel = Tunnel(dial, f"{self._name}-ssh")
        self._tunnels.append(tunnel)
        return tunnel.address

    def close(self) -> None:
        """Give everything back."""
        for process in self._spawned:
            process.end()
        for tunnel in self._tunnels:
            tunnel.close()
        for client in reversed(self._clients):
            client.close()

    def _connect(
        self, alias: str, config: paramiko.SSHConfig, entry: DeviceEntry | None, depth: int
    ) -> paramiko.SSHClient:
        told = config.lookup(alias)
        host = told.get("hostname", alias)
        port = (entry and entry.port) or int(told.get("port", 22))
        user = (entry and entry.user) or told.get("user") or getpass.getuser()
        keys = [entry.key] if entry and entry.key else told.get("identityfile", [])
        if entry and entry.key and not Path(entry.key).expanduser().is_file():
            raise NotReachable(f"{self._name}: the 'key' {entry.key} in devices.yaml is no file", "unauthorized")
        found = [str(Path(key).expanduser()) for key in keys if Path(key).expanduser().is_file()]
        client = paramiko.SSHClient()
        self._clients.append(client)
        known = Path(told.get("userknownhostsfile", "~/.ssh/known_hosts").split()[0]).expanduser()
        pinned = entry.host_key if entry else None
        if pinned:
            known = Path("devices.yaml")
            _pin(client, self._name, _entry_name(host, port), pinned)
        else:
            client.load_system_host_keys()
            if known.is_file():
                client.load_host_keys(str(known))
        client.set_missing_host_key_policy(_Refuse(self._name, f"{user}@{alias}", port, depth == 0))
        try:
            client.connect(
                host,
                port=port,
                username=user,
                key_filename=found or None,  # type: ignore[arg-type]
                timeout=CONNECT_TIMEOUT_S,
                banner_timeout=CONNECT_TIMEOUT_S,
                auth_timeout=CONNECT_TIMEOUT_S,
                sock=self._jump(told, config, host, port, depth),
                transport_factory=_transport,
            )
        except NotReachable:
            raise
        except paramiko.BadHostKeyException as error:
            raise NotReachable(
                f"{self._name}: the host key of {alias} is not the one that {known} has (now "
                f"{_fingerprint(error.key)}): somebody may be in between. If the board was set up anew: "
                + (
                    "put its new key into 'host_key'"
                    if pinned
                    else f"ssh-keygen -R '{_entry_name(host, port)}', then ssh -p {port} {user}@{alias}"
                ),
                "host key changed",
            ) from error
        except (OSError, paramiko.SSHException) as error:
            # Without any key to offer paramiko says so in a plain SSHException.
            if isinstance(error, paramiko.AuthenticationException) or str(error) == NO_KEY:
                raise NotReachable(
                    f"{self._name}: {user}@{alias} accepts no key of yours: ssh-copy-id -p {port} {user}@{alias}, or "
                    "name one with 'key' in devices.yaml or IdentityFile in ~/.ssh/config",
                    "unauthorized",
                ) from error
            # paramiko's own is an OSError without a number, and says so.
            why = getattr(error, "strerror", None) or error or "no answer"
            raise NotReachable(f"{self._name}: {alias}:{port} cannot be reached: {why}") from error
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(KEEPALIVE_S)
        return client

    def _jump(self, told: Any, config: paramiko.SSHConfig, host: str, port: int, depth: int) -> Any:
        """A channel through ProxyJump, or None."""
        jump = told.get("proxyjump", "none")
        if jump.lower() == "none":
            return None
        if depth > 4:
            raise NotReachable(f"{self._name}: ProxyJump of ~/.ssh/config goes in a circle")
        *before, last = jump.split(",")
        user, _, rest = last.rpartition("@")
        alias, _, jump_port = rest.partition(":")
        entry = DeviceEntry(
            transport="ssh", host=alias, user=user or None, port=int(jump_port) if jump_port.isdigit() else None
        )
        if before:
            raise NotReachable(f"{self._name}: a ProxyJump over several hosts is not supported: chain them by alias")
        client = self._connect(alias, config, entry, depth + 1)
        transport = client.get_transport()
        assert transport is not None
        return transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=CONNECT_TIMEOUT_S)

    def _channel(self) -> paramiko.Channel:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise DeviceLost(f"{self._name}: the SSH connection is gone")
        return transport.open_session(timeout=CONNECT_TIMEOUT_S)

    def _collect(self, channel: paramiko.Channel, deadline: float, program: str) -> Completed:
        out, err = bytearray(), bytearray()
        while True:
            # In turns: what comes without a pause must not keep the checks below from their turn.
            if channel.recv_ready():
                out += channel.recv(READ_BYTES)
            if channel.recv_stderr_ready():
                err += channel.recv_stderr(READ_BYTES)
            # The last data may come after the status: only the end of both streams is the end.
            if channel.exit_status_ready() and (channel.eof_received or channel.closed):
                break
            if time.monotonic() > deadline:
                raise NotReachable(f"{self._name}: {program} did not end in time")
            if len(out) + len(err) > transports.MOST_OUTPUT_BYTES:
                raise NotReachable(f"{self._name}: {program} prints without end")
            if not channel.recv_ready() and not channel.recv_stderr_ready():
                time.sleep(0.005)
        while channel.recv_ready():
            out += channel.recv(READ_BYTES)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(READ_BYTES)
        return Completed(channel.recv_exit_status(), bytes(out), bytes(err))

    def _lost(self) -> _Lost:
        return _Lost(self._name)


class _Lost:
    """Turns what paramiko raises on an opened connection into DeviceLost."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, EOFError, paramiko.SSHException, socket.timeout)):
            raise DeviceLost(f"{self._name}: SSH: {error or type(error).__name__}") from error


class SshProcess:
    """A process on the board; its stdin stays open as long as the channel."""

    def __init__(self, name: str, channel: paramiko.Channel, first_line: str) -> None:
        self._channel = channel
        self._output = Output(name)
        self.read_line, self.log_tail = self._output.read_line, self._output.log_tail
        channel.sendall((first_line + "\n").encode())
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_log)]
        for reader in self._readers:
            reader.start()

    def end(self) -> None:
        """Close stdin, which ends the agent, and the channel."""
        self._output.unheard()
        try:
            self._channel.shutdown_write()
            self._channel.status_event.wait(END_WAIT_S)
        except (OSError, EOFError):
            pass
        finally:
            self._channel.close()
        for reader in self._readers:
            reader.join(1.0)

    def _read(self) -> None:
        with self._channel.makefile("rb") as stream:
            self._output.lines_from(stream)

    def _read_log(self) -> None:
        with self._channel.makefile_stderr("rb") as stream:
            self._output.log_from(stream)


class _Refuse(paramiko.MissingHostKeyPolicy):
    """An unknown host key is refused with its fingerprint and the command that accepts it."""

    def __init__(self, name: str, place: str, port: int, last: bool) -> None:
        self._name, self._place, self._port, self._last = name, place, port, last

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Called by paramiko for a host that known_hosts does not have."""
        raise NotReachable(
            f"{self._name}: the host key of {self._place} is unknown ({_fingerprint(key)}): compare it with the "
            f"board's, then accept it with: ssh -p {self._port} {self._place}",
            "unknown host key",
            # A jump's key is not the device's to pin.
            f"{key.get_name()} {key.get_base64()}" if self._last else "",
        )


def _send_all(channel: paramiko.Channel, data: bytes) -> None:
    """One packet's worth a call: paramiko copies all that is left of a longer text for every packet."""
    step = channel.out_max_packet_size - PACKET_HEADER_BYTES
    for start in range(0, len(data), step):
        channel.sendall(data[start : start + step])


def _transport(*arguments: Any, **more: Any) -> paramiko.Transport:
    """paramiko's, with the faster ciphers first."""
    made = paramiko.Transport(*arguments, **more)
    offered = made.get_security_options()
    preferred = [cipher for cipher in PREFERRED_CIPHERS if cipher in offered.ciphers]
    offered.ciphers = (*preferred, *(cipher for cipher in offered.ciphers if cipher not in preferred))
    return made


def _pin(client: paramiko.SSHClient, name: str, place: str, text: str) -> None:
    """Accept that key and no other. NotReachable where the text is none."""
    line = paramiko.hostkeys.HostKeyEntry.from_line(f"{place} {text}") if len(text.split()) >= 2 else None
    if line is None or line.key is None:
        raise NotReachable(f"{name}: 'host_key' in devices.yaml is not a line like 'ssh-ed25519 AAAA…'")
    client.get_host_keys().add(place, line.key.get_name(), line.key)


def user_config() -> paramiko.SSHConfig:
    """`~/.ssh/config`, empty where there is none."""
    config = paramiko.SSHConfig()
    path = Path("~/.ssh/config").expanduser()
    if path.is_file():
        with path.open() as file:
            config.parse(file)
    return config


def _fingerprint(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def _entry_name(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"
