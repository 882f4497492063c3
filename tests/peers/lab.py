"""A lab on one machine, for a person to try: PostgreSQL, three worker hosts, twelve devices; `make lab`.

The devices are this machine's own agent, each in a folder of its own; half of them are of one kind, half of another.
Where network namespaces can be had (root, iproute2), each host has a network and a cable of its own.
What to type stands on stdout, what the workers say on stderr; Ctrl-C ends all of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.peers import netns
from tests.peers.faults import faults
from tests.peers.postgresql import postgresql, why_not

HOSTS = ("north", "south", "attic")
DEVICES = 12
KINDS = ("red", "blue")
START_S = 60.0
STOP_S = 60.0


def devices_yaml(folder: Path) -> str:
    """Twelve devices, four a host."""
    lines = ["devices:"]
    for number in range(DEVICES):
        host, kind = HOSTS[number % len(HOSTS)], KINDS[number % len(KINDS)]
        words = (
            f"transport: local, lab_host: {host}, kind: {kind}, tags: [bench], workdir: {folder / f'dev{number + 1}'}"
        )
        lines.append(f"  dev{number + 1}: {{{words}}}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Serving:
    """A lab that serves: what a person needs to use it."""

    devices: Path
    url: str
    """Of the store, from here."""
    cables: Mapping[str, str]
    """The interface of each host that has a network of its own."""


@contextmanager
def lab(folder: Path) -> Iterator[Serving]:
    """Start one; ended afterwards."""
    devices = folder / "devices.yaml"
    devices.write_text(devices_yaml(folder))
    with postgresql(durable=True) as server, ExitStack() as stack:
        url = server.database()
        cables = {} if netns.why_not() else {host: stack.enter_context(netns.cable()) for host in HOSTS}
        urls = dict.fromkeys(HOSTS, url)
        for host, cable in cables.items():
            # The server listens on loopback alone, and no other network needs to see it.
            relay = stack.enter_context(faults(server.port, near=cable.near_address))
            urls[host] = url.replace(f"127.0.0.1:{server.port}", f"{cable.near_address}:{relay.port}")
        workers: list[subprocess.Popen[str]] = []
        stack.callback(_end, workers)
        for host in HOSTS:
            command = [sys.executable, "-m", "pocketbench", "worker", "--host", host]
            command += ["--devices", str(devices), "--store", urls[host]]
            workers.append(
                subprocess.Popen(
                    cables[host].command(command) if host in cables else command,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=_environment(folder, host),
                    start_new_session=True,
                )
            )
        for host, worker in zip(HOSTS, workers, strict=True):
            assert worker.stderr is not None
            _serving(host, worker.stderr)
        yield Serving(devices, url, {host: cable.near_name for host, cable in cables.items()})


def _end(workers: list[subprocess.Popen[str]]) -> None:
    """All at once; each takes what it has begun to its end."""
    for worker in workers:
        worker.send_signal(signal.SIGINT)
    for worker in workers:
        worker.wait(STOP_S)


def _environment(folder: Path, host: str) -> dict[str, str]:
    """Each host has folders of its own, as another machine would."""
    names = ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
    return {**os.environ, **{name: str(folder / host / name.lower()) for name in names}}


def _serving(host: str, stream: IO[str]) -> None:
    """Pass on what a worker says; returns once it serves. RuntimeError where it does not."""
    serves = threading.Event()

    def read() -> None:
        for line in stream:
            print(f"[{host}] {line}", end="", file=sys.stderr, flush=True)
            if line.startswith("serves"):
                serves.set()

    threading.Thread(target=read, daemon=True).start()
    if not serves.wait(START_S):
        raise RuntimeError(f"the worker of {host} does not serve")


def main() -> int:
    """Until Ctrl-C."""
    why = why_not()
    if why is not None:
        print(why, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="pocketbench-lab-") as name, lab(Path(name)) as serving:
        model = Path(name) / "model.null"
        model.write_text('{"sleep_ms": 10}')
        store = f"--store '{serving.url}'"
        print(f"export POCKETBENCH_DEVICES={serving.devices}")
        print(f"bench --device dev1 --device any:red --device any:blue --model {model} --cooldown 0 {store}")
        print(f"bench --device bench --model {model} --processes 2 --cooldown 0 {store}    # all twelve")
        print(f"bench queue {store}")
        print(f"bench devices {store}")
        for host, name in serving.cables.items():
            print(f"ip link set {name} down    # pulls the cable of {host}; 'up' puts it back")
        sys.stdout.flush()
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        while not stop.is_set():
            time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
