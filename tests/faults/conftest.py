"""A run that something is done to, and what none of it may cost: every test here ends in the same check."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Bench, Ended, bench, wait_until, workers
from tests.slow.stories import Log

__all__ = ["bench", "wait_until"]
# Two processes of a fifth of a second: what is tried here is not how exact a number is.
PLAN = ("--processes", "2", "--min-runs", "8", "--max-runs", "40", "--min-time", "0.1", "--max-time", "0.3")
JSON = ("--cooldown", "0", "--format", "json")
QUICK = (*PLAN, *JSON)
# Six processes of about a second: long enough to be in the middle of.
LONG = ("--processes", "6", "--min-runs", "8", "--min-time", "0.4", "--max-time", "0.5", *JSON)
# How long a run of these may take by itself on a busy machine, and how much longer a fault may make it.
DEADLINE_S = 60.0
GRACE_S = 30.0
# How much longer than usual a device may rest between two processes because another one has a fault.
DELAY_S = 1.0
OK = ("OK", None)
Rows = dict[tuple[str, str], str]


@dataclass
class Running:
    """A command under way, and what the store held when it began."""

    process: subprocess.Popen[str]
    before: Rows
    begun_s: float = field(default_factory=time.monotonic)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal to all of its process group, as a terminal sends it."""
        os.killpg(self.process.pid, number)


@dataclass
class Lab:
    """A bench of devices on this machine, each with a home of its own, whose programs can be made to lie."""

    bench: Bench
    store: Path | None = None

    @property
    def home(self) -> Path:
        """Where everything lies."""
        return self.bench.home

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.store or self.home / "xdg_data_home" / "pocketbench" / "results.db"

    @property
    def spool(self) -> list[Path]:
        """What waits for the database."""
        return sorted((self.home / "xdg_state_home" / "pocketbench" / "spool").glob("*"))

    def devices(self, **entries: Mapping[str, object]) -> None:
        """Write devices.yaml; `transport: local` unless an entry says otherwise."""
        lines = ["devices:"]
        for name, told in entries.items():
            whole = {"transport": "local", "workdir": str(self.home / "devices" / name), **told}
            lines.append(f"  {name}: {json.dumps(whole)}")
        (self.home / "devices.yaml").write_text("\n".join([*lines, ""]))

    def lying(self, code: str, where: str = "pocketbench_agent") -> dict[str, str]:
        """An environment in which `python -m WHERE` runs that code before itself."""
        folder = self.home / "lies" / str(len(list((self.home / "lies").glob("*"))))
        folder.mkdir(parents=True)
        guarded = f"import sys\nif sys.orig_argv[1:3] == ['-m', {where!r}]:\n{textwrap.indent(code, '    ')}\n"
        (folder / "sitecustomize.py").write_text(guarded)
        return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}

    def log(self, device: str) -> Log:
        """What the agent of a device of ours did and when."""
        return Log(self.home / "devices" / device / "home" / "agent.log")

    def start(self, *arguments: object) -> Running:
        """Begin a command."""
        return Running(self.bench.start(*arguments), self.rows())

    def workers(self, device: str | None = None) -> list[int]:
        """Process ids of the workers, of one device or of all."""
        found = workers(self.bench)
        folder = str(self.home / "devices" / device) if device else ""
        return [pid for pid in found if folder in _words(pid)]

    def agents(self, device: str) -> list[int]:
        """Process ids of a device's agent."""
        home = str(self.home / "devices" / device / "home")
        return [pid for pid in self.bench.agents() if f"{home} " in _words(pid) and pid not in workers(self.bench)]

    def rows(self) -> Rows:
        """Every committed result: (run, case) and its document."""
        return {(run, key): doc for run, key, doc in self.query("select run_id, case_key, doc from result")}

    def query(self, statement: str) -> list[Any]:
        """Of the database, if there is one."""
        if not self.database.is_file():
            return []
        connection = sqlite3.connect(self.database, timeout=20)
        try:
            return connection.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            connection.close()

    def processes(self) -> int:
        """How many processes are stored."""
        return sum(count for (count,) in self.query("select count(*) from process"))

    def in_the_middle(self, stored: int = 1) -> None:
        """Wait until so many processes are stored and another one runs."""
        assert wait_until(lambda: self.processes() >= stored and bool(self.workers()), DEADLINE_S)

    def check(
        self,
        running: Running,
        code: int,
        cases: Mapping[str, tuple[str, str | None]],
        beside: str | None = None,
        deadline_s: float = DEADLINE_S,
        leaves: Collection[str] = (),
    ) -> Ended:
        """Wait for its end, and see what it cost.

        `cases` is the (status, reason) of each "device/model" that has to be in its report, of one device its model
        alone; `beside` the device that nothing may delay; `leaves` is what cannot be helped: `scratch` of a host that
        was killed, the `jobs` and the `lease` of a device that is out of reach, rows in the `spool`.
        """
        left_s = deadline_s + GRACE_S - (time.monotonic() - running.begun_s)
        try:
            stdout, stderr = running.process.communicate(timeout=max(left_s, 1.0))
        except subprocess.TimeoutExpired:
            running.kill()
            stdout, stderr = running.process.communicate()
            pytest.fail(f"it hangs past its deadline: {stderr}")
        return self.judge(
            Ended(running.process.returncode, stdout, stderr), running.before, code, cases, beside, leaves
        )

    def judge(
        self,
        ended: Ended,
        before: Rows,
        code: int,
        cases: Mapping[str, tuple[str, str | None]],
        beside: str | None = None,
        leaves: Collection[str] = (),
    ) -> Ended:
        """The same of a command that has ended."""
        assert "Traceback" not in ended.stderr and "a defect of pocketbench" not in ended.stderr, ended.stderr
        assert ended.code == code, ended.stderr
        results = json.loads(ended.stdout)["results"] if ended.stdout.startswith("{") else []
        assert outcome(results, cases) == dict(cases), ended.stderr
        self._nothing_is_lost(results, before)
        if beside is not None:
            gaps = self.log(beside).gaps()
            assert gaps and max(gaps) < statistics.median(gaps) + DELAY_S, gaps
        self.nothing_is_left(leaves)
        return ended

    def _nothing_is_lost(self, results: Sequence[Mapping[str, Any]], before: Rows) -> None:
        """Whole, with all that it had, and with what was printed, once; unless the rows still wait."""
        after = self.rows()
        assert before.items() <= after.items(), "a committed result was lost or changed"
        stored = [json.loads(doc)["id"] for doc in after.values()]
        assert len(stored) == len(set(stored))
        if not self.spool and self.database.is_file():
            assert {result["id"] for result in results} <= set(stored)
        assert self.query("pragma integrity_check") in ([], [("ok",)])
        strays = "select count(*) from metric where result_id not in (select id from result)"
        assert self.query(strays) in ([], [(0,)])

    def nothing_is_left(self, leaves: Collection[str] = ()) -> None:
        """No process (and so no port), no lease, no file but those that belong there."""
        assert wait_until(lambda: not self._family(), 20), self._family()
        scratch = [path.name for path in (self.home / "tmp").iterdir()]
        assert "scratch" in leaves or not scratch, scratch
        assert not [path for path in self.spool if path.suffix != ".json" or "spool" not in leaves]
        if "lease" not in leaves:
            assert self.query(f"select * from lease where expires_s > {time.time()}") == []
            for path in self.home.rglob("lease.json"):
                assert json.loads(path.read_text())["owner"] == "", path
        folders = [path for name in ("jobs", "scores", "handover") for path in self.home.rglob(f"home/{name}/*")]
        assert "jobs" in leaves or not folders, folders
        assert "jobs" in leaves or not list(self.home.rglob("blobs/*.part"))

    def _family(self) -> list[str]:
        """Whatever runs with this home, ended ones that nobody waits for aside."""
        mine = f"HOME={self.home}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mine in (process / "environ").read_bytes().split(b"\0"):
                    found.append(f"{process.name}: {_words(int(process.name))}")
            except OSError:
                continue
        return found


def outcome(
    results: Sequence[Mapping[str, Any]], wanted: Mapping[str, tuple[str, str | None]]
) -> dict[str, tuple[str, str | None]]:
    """(status, the reason that ended it or is wanted) of each result, by the names of `wanted`."""
    found = {}
    for result in results:
        names = (f"{result['device']}/{result['model']['name']}", result["model"]["name"])
        name = next((one for one in names if one in wanted), names[0])
        assert name not in found, f"{name} twice"
        codes = [reason["code"] for reason in result["reasons"] if reason["severity"] == "invalid"]
        _, reason = wanted.get(name, ("", None))
        found[name] = (result["status"], reason if reason in codes else next(iter(codes), None))
    return found


@pytest.fixture
def lab(bench: Bench) -> Lab:
    """A lab of its own."""
    (bench.home / "tmp").mkdir()
    bench.environment["TMPDIR"] = str(bench.home / "tmp")
    return Lab(bench)


@pytest.fixture
def pair(lab: Lab) -> Iterator[Lab]:
    """Two devices on this machine: `a`, that something happens to, and `b`, that it must not disturb."""
    lab.devices(a={}, b={})
    yield lab


def in_a_namespace(lab: Lab, mount: str, *arguments: object, keep: bool = False) -> subprocess.Popen[str]:
    """Begin a command where that shell line has mounted something first; `keep` has the shell wait for it."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here: a disk of its own cannot be made")
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel allows no mount namespace: a disk of its own cannot be made")
    words = [
        "unshare",
        "-Urm",
        "sh",
        "-c",
        f'{mount} && {"" if keep else "exec "}"$@"',
        "sh",
        *lab.bench.command(*arguments),
    ]
    return piped(lab, words)


def piped(lab: Lab, words: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """Begin any program as the bench begins its own."""
    pipe = subprocess.PIPE
    environ = lab.bench.env(**environment)
    return subprocess.Popen(
        words, stdout=pipe, stderr=pipe, text=True, cwd=lab.home, env=environ, start_new_session=True
    )


def python() -> str:
    """The interpreter of the tests."""
    return sys.executable


def _words(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
