"""A suite of simulated models on this machine, whose speed a test controls; and a webhook that remembers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.integration.conftest import Bench, Ended

# Sleeps this long: that a busy machine wakes up late by a millisecond stays below what is looked for.
SLEEP_MS = 40.0
PLAN = "{processes: PROCESSES, min_runs: 8, max_runs: 8, min_time_s: 0, max_time_s: 1, cooldown_s: 0}"
# Start-up times of processes on a busy machine are nobody's regression here.
THRESHOLDS = "{load: 1000%, first_inference: 1000%, memory_peak: 50%}"


@dataclass(frozen=True)
class Told:
    """A night as its exit code, JSON, JUnit and page tell it."""

    ended: Ended
    night: dict[str, Any]
    failures: list[str]
    page: str

    @property
    def color(self) -> str:
        """The night's."""
        return str(self.night["color"])

    def alarms(self, color: str, state: str = "open") -> list[tuple[str, str]]:
        """(case, metric) of each such alarm."""
        found = [a for a in self.night["alarms"] if (a["color"], a["state"]) == (color, state)]
        return sorted((a["title"].split()[0], a["metric"]) for a in found)


@dataclass
class Lab:
    """A suite `sim` of models in one folder."""

    bench: Bench
    webhook: str = ""
    runtime: str = "null"
    extra: Sequence[str] = ()
    processes: int = 2
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def speed(self) -> Path:
        """A factor on everything that this device does."""
        return self.bench.home / "speed"

    def write(self) -> Path:
        """suite.yaml and its models, as they are now."""
        if not self.speed.exists():
            self.speed.write_text("1.0")
        for name, told in self.models.items():
            self.bench.null(name, **{"speed_file": str(self.speed), **told})
        file = self.bench.home / "suite.yaml"
        lines = [
            "suite: sim",
            "devices: [local]",
            "measure:",
            f"  - models: [{', '.join(f'{name}.null' for name in self.models)}]",
            f"    runtimes: ['{self.runtime}']",
            f"plan: {PLAN}".replace("PROCESSES", str(self.processes)),
            f"thresholds: {THRESHOLDS}",
            *([f"notify: {{webhook: '{self.webhook}'}}"] if self.webhook else []),
            *self.extra,
        ]
        file.write_text("\n".join(lines) + "\n")
        return file

    def night(self, label: str, *more: object) -> Told:
        """Measure one; every report of it."""
        home = self.bench.home
        reports = ("--junit", home / "j.xml", "--html", home / "n.html", "--format", "json")
        ended = self.bench("suite", "nightly", self.write(), "--night", label, *reports, *more)
        return read(ended, home)


def read(ended: Ended, home: Path) -> Told:
    """The reports that a night has left."""
    assert ended.code in (0, 1, 3), ended.stderr
    root = ElementTree.fromstring((home / "j.xml").read_bytes())
    failures = [str(case.get("name")) for case in root.iter("testcase") if case.find("failure") is not None]
    return Told(ended, ended.doc, failures, (home / "n.html").read_text())


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", told
    finally:
        server.shutdown()
        server.server_close()
