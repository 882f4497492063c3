"""A lab on one machine, for a person to try: PostgreSQL, three worker hosts, twelve devices; `make lab`.

The devices are this machine's own agent, each in a folder of its own; half of them are of one kind, half of another.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


@contextmanager
def lab(folder: Path) -> Iterator[tuple[Path, str]]:
    """(devices.yaml, URL of the store) of one that serves; ended afterwards."""
    devices = folder / "devices.yaml"
    devices.write_text(devices_yaml(folder))
    with postgresql(durable=True) as server:
        url = server.database()
        workers = []
        try:
            for host in HOSTS:
                command = [sys.executable, "-m", "pocketbench", "worker", "--host", host]
                words = ["--devices", str(devices), "--store", url]
                workers.append(
                    subprocess.Popen(
                        [*command, *words],
                        stderr=subprocess.PIPE,
                        text=True,
                        env=_environment(folder, host),
                        start_new_session=True,
                    )
                )
            for host, worker in zip(HOSTS, workers, strict=True):
                assert worker.stderr is not None
                _serving(host, worker.stderr)
            yield devices, url
        finally:
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
    with tempfile.TemporaryDirectory(prefix="pocketbench-lab-") as name, lab(Path(name)) as (devices, url):
        model = Path(name) / "model.null"
        model.write_text('{"sleep_ms": 10}')
        store = f"--store '{url}'"
        print(f"export POCKETBENCH_DEVICES={devices}")
        print(f"bench --device dev1 --device any:red --device any:blue --model {model} --cooldown 0 {store}")
        print(f"bench --device bench --model {model} --processes 2 --cooldown 0 {store}    # all twelve")
        print(f"bench queue {store}")
        print(f"bench devices {store}", flush=True)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        while not stop.is_set():
            time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
