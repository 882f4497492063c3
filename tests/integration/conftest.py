"""The real command line in a process of its own, with a home of its own: agent, workers, store and all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration import zygote

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
PACKED = ROOT / "build" / "cache" / "packed"
SHARED = ROOT.parent / "shared" / "models"
# A plan that takes a second a case; `--cooldown 0` because a test machine is never quiet.
QUICK = ("--processes", "1", "--min-time", "0.05", "--max-time", "0.3", "--cooldown", "0")
TIMEOUT_S = 180


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def doc(self) -> Any:
        """Its stdout as JSON."""
        return json.loads(self.stdout)

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results in its JSON."""
        found: list[dict[str, Any]] = self.doc["results"]
        return found


@dataclass
class Bench:
    """`bench` with its own home; everything that it starts is gone afterwards."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S

    def __call__(self, *arguments: object, **environment: str) -> Ended:
        """Run to the end."""
        words, env = list(map(str, arguments)), self.env(**environment)
        done: zygote.Done | subprocess.CompletedProcess[str]
        if zygote.can_run(env, words):
            done = zygote.run(words, self.home, env, self.timeout_s)
        else:
            done = subprocess.run(
                self.command(*words),
                capture_output=True,
                text=True,
                cwd=self.home,
                env=env,
                timeout=self.timeout_s,
                check=False,
            )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start it and go on."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.env(),
            start_new_session=True,
        )

    def command(self, *arguments: object) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "pocketbench", *map(str, arguments)]

    def env(self, **more: str) -> dict[str, str]:
        """An environment whose every folder lies in the home."""
        folders = {
            name: str(self.home / name.lower()) for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
        }
        made = {**os.environ, "HOME": str(self.home), **folders, **self.environment, **more}
        _share(Path(made["XDG_CACHE_HOME"]) / "pocketbench")
        return made

    def null(self, name: str = "model", **told: object) -> Path:
        """A `.null` model."""
        path = self.home / f"{name}.null"
        path.write_text(json.dumps(told))
        return path

    def agents(self) -> list[int]:
        """Process ids of agents and workers that this home's commands started."""
        return [pid for pid in _processes("pocketbench_agent") if _environ(pid).get("HOME") == str(self.home)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench of its own; fails the test that leaves an agent or a worker behind."""
    with benched(tmp_path) as made:
        yield made


@contextmanager
def benched(home: Path) -> Iterator[Bench]:
    """The same, where the test says."""
    made = Bench(home)
    yield made
    left = wait_until(lambda: not made.agents(), 15)
    orphans = made.agents()
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    assert left, f"processes left behind: {orphans}"


def _share(cache: Path) -> None:
    """What is packed for devices lies there under names that say all that it is of: one packing serves all tests."""
    for name in ("runtimes", "agents"):
        # Some tests have a cache that nothing can be made in.
        with suppress(OSError):
            (PACKED / name).mkdir(parents=True, exist_ok=True)
            cache.mkdir(parents=True, exist_ok=True)
            (cache / name).symlink_to(PACKED / name)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Did it become true in time?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def workers(bench: Bench) -> list[int]:
    """Process ids of this home's workers."""
    return [pid for pid in bench.agents() if "pocketbench_agent.worker" in _command(pid)]


def command_lines() -> list[str]:
    """Of all processes of this machine."""
    return [_command(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _processes(word: str) -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and word in _command(int(p.name))]


def _command(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _environ(pid: int) -> dict[str, str]:
    try:
        text = (Path("/proc") / str(pid) / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)
