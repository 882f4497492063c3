"""`bench worker`: this host's part of a lab."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import click

from pocketbench.cli.options import run_options, store_option
from pocketbench.errors import UsageError


@click.command()
@click.option("--host", metavar="NAME", help="Which lab_host of devices.yaml this is; default: its host name.")
@store_option
@run_options
def worker(host: str | None, store: str | None, devices_file: Path | None, debug: bool) -> None:
    """Measure, on the devices that devices.yaml gives to this host (lab_host), what others ask for.

    Runs until Ctrl-C. The store must be a PostgreSQL that all hosts of the lab share.
    """
    from pocketbench.config import devices as config
    from pocketbench.farm.care import Care
    from pocketbench.farm.queue import needs_postgresql
    from pocketbench.farm.worker import Subprocess, Worker, claims_of
    from pocketbench.models import printable
    from pocketbench.store.store import Store

    if os.name == "nt":
        raise UsageError("a worker needs Linux or macOS: asyncio's processes and psycopg do not go together on Windows")
    path = config.find(devices_file)
    entries = config.load(path)
    claims = claims_of(entries, host or socket.gethostname())
    crowded = sum(entries[claim.device].transport == "local" for claim in claims) > 1

    def say(text: str) -> None:
        click.echo(printable(text), err=True)
        sys.stderr.flush()

    opened = Store(store)
    try:
        needs_postgresql(opened)
        body = Subprocess(store or "", path, claims[0].lab_host, crowded, say)
        mine = {claim.device: entries[claim.device] for claim in claims}
        Worker(opened, claims, body, say, Care(opened, mine, say)).run()
    finally:
        opened.close()
