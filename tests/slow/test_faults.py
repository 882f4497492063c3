"""Faults that take their time: what tests/faults does, with more patience."""

from __future__ import annotations

import os
import socket
import sqlite3
import time

from tests.faults.conftest import JSON, LONG, OK, QUICK, Lab, lab, wait_until
from tests.integration.nights import Lab as Nights

__all__ = ["lab"]


def test_a_lease_that_is_shorter_than_a_job(lab: Lab) -> None:
    """It is renewed from the running job: nobody else gets the device meanwhile."""
    short = """
import pocketbench.session.session as session, pocketbench.store.lease as lease
session.LEASE_TTL_S, session.RENEW_S, lease.TTL_S = 5, 600.0, 3
"""
    lab.devices(a={})
    lab.bench.environment.update(lab.lying(short, "pocketbench"))
    slow = ("--min-time", "14", "--max-time", "15", "--processes", "1", *JSON)
    running = lab.start("--device", "a", "--model", lab.bench.null("m", sleep_ms=10), *slow)
    assert wait_until(lambda: bool(lab.workers("a")), 60)
    time.sleep(5.2)
    honest = os.environ.get("PYTHONPATH", "")
    other = lab.bench("--device", "a", "--model", lab.bench.null("c"), *QUICK, "--store", "other.db", PYTHONPATH=honest)
    assert (other.code, other.results[0]["reasons"][0]["code"]) == (3, "device_busy"), other.stderr
    assert "use by" in other.stderr
    ended = lab.check(running, 0, {"m": OK})
    assert ended.results[0]["attempt"] == 1


def test_a_database_that_is_locked_for_longer_than_a_write_waits(lab: Lab) -> None:
    """Rows are spooled, and stored when it is free again; the run is not held up for longer."""
    running = lab.start("--device", "local", "--model", lab.bench.null("m", sleep_ms=10), *LONG)
    lab.in_the_middle()
    other = sqlite3.connect(lab.database, isolation_level=None, timeout=20)
    other.execute("BEGIN EXCLUSIVE")
    time.sleep(15)
    assert lab.spool
    other.execute("ROLLBACK")
    other.close()
    ended = lab.check(running, 0, {"m": OK})
    assert ended.results[0]["latency_ms"]["processes"] == lab.processes() == 6


def test_a_webhook_that_never_answers(lab: Lab) -> None:
    """It takes the connection, and that is all: given up after ten seconds, and the night is what it was."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/secret"
        nights = Nights(lab.bench, address, models={"a": {"sleep_ms": 1}, "b": {"sleep_ms": 1}})
        assert nights.night("n1").ended.code == 0
        nights.models["a"]["fail"] = {"stage": "run", "how": "error"}
        begin = time.monotonic()
        told = nights.night("n2")
        assert told.ended.code == 1 and "the webhook was not told: timed out" in told.ended.stderr
        assert time.monotonic() - begin < 60 and "secret" not in told.ended.stderr
