"""A lab for tests: a real PostgreSQL, real workers, and the command line of yet another host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pocketbench.store.store import Store
from tests.integration.conftest import Bench, Ended, benched, wait_until
from tests.peers import postgresql

# Each has a folder of its own, as devices of their own would.
DEVICES = """devices:
  a1: {transport: local, lab_host: lab-a, kind: box, workdir: HOME/a1}
  a2: {transport: local, lab_host: lab-a, workdir: HOME/a2, power_cycle: [CYCLE, HOME/cycled]}
  b1: {transport: local, lab_host: lab-b, kind: box, workdir: HOME/b1}
  sick: {transport: ssh, host: 127.0.0.1, port: 1, user: nobody, lab_host: lab-b}
  away: {transport: local, lab_host: nowhere}
"""
HOSTS = ("lab-a", "lab-b")
QUICK = ("--processes", "2", "--min-time", "0.05", "--max-time", "0.3", "--cooldown", "0")
LONGER = ("--processes", "3", "--min-time", "1", "--max-time", "2", "--cooldown", "0", "--format", "json")


@dataclass
class Lab:
    """A server, and a home that its workers and everybody else share."""

    bench: Bench
    server: postgresql.Server
    url: str
    workers: dict[str, subprocess.Popen[str]]

    def __call__(self, *arguments: object) -> Ended:
        """A command of a user."""
        return self.bench(*arguments, "--store", self.url)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """The same, and go on."""
        return self.bench.start(*arguments, "--store", self.url)

    def begin(self, host: str) -> None:
        """Its worker, serving."""
        log = (self.bench.home / f"{host}.log").open("a")
        command = self.bench.command("worker", "--host", host, "--store", self.url)
        self.workers[host] = subprocess.Popen(
            command, stderr=log, cwd=self.bench.home, env=self.bench.env(), start_new_session=True, text=True
        )
        log.close()
        assert wait_until(lambda: "serves" in self.log(host), 30), self.log(host)

    def log(self, host: str) -> str:
        """What its worker said."""
        return (self.bench.home / f"{host}.log").read_text()

    def queue(self) -> list[dict[str, Any]]:
        """What waits and runs."""
        found: list[dict[str, Any]] = json.loads(self("queue", "--format", "json").stdout)["queue"]
        return found

    def rows(self, query: str, **named: object) -> list[Any]:
        """Of the store."""
        store = Store(self.url)
        with store.database.reading() as connection:
            rows = list(connection.execute(text(query), named))
        store.close()
        return rows

    def bodies(self) -> list[int]:
        """Process ids of shares that are being measured."""
        found = []
        for path in Path("/proc").iterdir():
            try:
                if path.name.isdigit() and b"pocketbench.farm.body" in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def newest_run(self) -> str:
        """That is not finished."""
        query = "SELECT id FROM run WHERE finished_utc IS NULL ORDER BY created_utc DESC LIMIT 1"
        assert wait_until(lambda: bool(self.rows(query)), 30)
        return str(self.rows(query)[0][0])

    def kill_body(self) -> None:
        """The one there is."""
        assert wait_until(lambda: bool(self.bodies()), 30)
        body = self.bodies()[0]
        os.kill(body, signal.SIGKILL)
        assert wait_until(lambda: body not in self.bodies(), 10)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts of three devices."""
    with _two_hosts(tmp_path_factory.mktemp("lab")) as made:
        yield made


@contextmanager
def _two_hosts(home: Path) -> Iterator[Lab]:
    """Two hosts of three devices, with that home; everything ends well."""
    why = postgresql.why_not()
    if why is not None:
        pytest.skip(why)
    cycle = home / "cycle"
    cycle.write_text('#!/bin/sh\necho once >> "$1"\n')
    cycle.chmod(0o755)
    (home / "devices.yaml").write_text(DEVICES.replace("CYCLE", str(cycle)).replace("HOME", str(home)))
    with postgresql.postgresql(durable=True) as server, benched(home) as bench:
        made = Lab(bench, server, server.database(), {})
        try:
            for host in HOSTS:
                made.begin(host)
            yield made
        finally:
            # Shown where a test fails.
            for host in HOSTS:
                print(f"[{host}]\n{made.log(host)}")
            for worker in made.workers.values():
                worker.send_signal(signal.SIGINT)
            codes = [worker.wait(60) for worker in made.workers.values()]
        assert codes == [0] * len(codes)
        assert made.bodies() == []
        assert not any("Traceback" in made.log(host) for host in HOSTS)
