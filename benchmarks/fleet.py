"""What many devices at once cost: in wall time, in the host's CPU time, and in order.

First part: `bench` measures one sleeping model (`null`, 10 ms) in the default plan on one local agent and on eight in
parallel, in turns, start-up included. A sleeping model takes no core, so that what grows is the host's and the agents'
own work. The host's CPU seconds are those of its process alone (proc(5), utime + stime), agents and workers apart.

Second part: forty agents run ten cases each from one `bench`, while a second `bench` asks for the same devices again
and again. Every 10 ms the process table is searched for workers, by the home of their agent: two of one home at a time
are an overlap. The second host must be refused each time, by whom and until when.

A pass: the median of the eight-agent times is at most 1.2 of the median with one; 400 cases OK, no overlap.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from conditions import conditions  # type: ignore[import-not-found]

BOUND = 1.2
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Short processes: what is looked at is the order of things, not their latency.
BRIEF = ("--processes", "1", "--min-runs", "8", "--min-time", "0.05", "--max-time", "0.2", "--cooldown", "0")


@dataclass(frozen=True)
class Ran:
    """One `bench` that ended."""

    wall_s: float
    cpu_s: float
    results: Sequence[dict[str, Any]]
    code: int
    errors: str


def main() -> int:
    """Measure; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="counted repetitions of the first part")
    parser.add_argument("--devices", type=int, default=8, help="agents of the first part")
    parser.add_argument("--agents", type=int, default=40, help="agents of the second part")
    parser.add_argument("--cases", type=int, default=10, help="cases an agent of the second part")
    arguments = parser.parse_args()
    print(conditions(("grpcio", "sqlalchemy")))
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        missed = [
            *_scale(Path(name), arguments.repeat, arguments.devices),
            *_order(Path(name), arguments.agents, arguments.cases),
        ]
    print(conditions(("grpcio", "sqlalchemy")))
    for line in missed:
        print(f"MISSED: {line}")
    if not missed:
        print("PASS")
    return 1 if missed else 0


def _scale(folder: Path, repeat: int, devices: int) -> Sequence[str]:
    model = _model(folder, 0)
    ran: dict[int, list[Ran]] = {1: [], devices: []}
    for round_ in range(repeat + 1):
        for count in random.sample([1, devices], 2):
            done = _bench(folder, _names(count), [model], ())
            if done.code:
                raise SystemExit(f"{count} devices: exit code {done.code}: {done.errors[-2000:]}")
            if round_:
                ran[count].append(done)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    walls = {count: median(one.wall_s for one in ran[count]) for count in ran}
    cpus = {count: median(one.cpu_s for one in ran[count]) for count in ran}
    for count in ran:
        spread = sorted(one.wall_s for one in ran[count])
        told = f"{walls[count]:.2f} s ({spread[0]:.2f} to {spread[-1]:.2f}), host {cpus[count]:.2f} CPU s"
        print(f"  {count:2d} agents: {told}")
    ratio = walls[devices] / walls[1]
    each = (cpus[devices] - cpus[1]) / (devices - 1)
    print(f"  ratio {ratio:.3f}; each further device costs the host {each:.2f} CPU s")
    return [f"{devices} agents take {ratio:.2f} of the time of one, the bound is {BOUND}"] if ratio > BOUND else []


def _order(folder: Path, agents: int, cases: int) -> Sequence[str]:
    names = _names(agents)
    models = [_model(folder, number) for number in range(cases)]
    watch = Watch(folder)
    refused: Counter[str] = Counter()
    ended = threading.Event()

    def second() -> None:
        # Only once the first host has them all.
        while watch.seen < agents and not ended.wait(0.1):
            pass
        while not ended.wait(2.0):
            done = _bench(folder, names[: agents // 4], models[:1], BRIEF)
            refused.update(reason["code"] for result in done.results for reason in result["reasons"][:1])

    disturbing = threading.Thread(target=second)
    watch.start()
    disturbing.start()
    done = _bench(folder, names, models, BRIEF)
    ended.set()
    disturbing.join()
    watch.stop()
    statuses = Counter(result["status"] for result in done.results)
    told = f"{len(done.results)} cases in {done.wall_s:.1f} s: {dict(statuses)}; host {done.cpu_s:.1f} CPU s"
    print(f"  {agents} agents, {told}")
    print(f"  a second host meanwhile: {dict(refused)}")
    print(f"  process table searched {watch.looks} times; workers seen {watch.seen}, overlaps {watch.overlaps}")
    missed = []
    if statuses != Counter(OK=agents * cases):
        missed.append(f"of {agents * cases} cases: {dict(statuses)}: {done.errors[-2000:]}")
    if watch.overlaps:
        missed.append(f"{watch.overlaps} overlaps on a device")
    if not watch.seen:
        missed.append("no worker was seen: the search does not work")
    return missed


class Watch:
    """Looks for two workers of one agent at a time."""

    def __init__(self, folder: Path) -> None:
        self.looks = self.overlaps = 0
        self._workers: set[int] = set()
        self._folder, self._ended = str(folder), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.start = self._thread.start

    @property
    def seen(self) -> int:
        """Different worker processes."""
        return len(self._workers)

    def stop(self) -> None:
        """No more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            self.looks += 1
            homes: Counter[str] = Counter()
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"pocketbench_agent.worker" in words and self._folder.encode() in words[-2]:
                    self._workers.add(int(entry.name))
                    homes[words[-2].decode().partition("/jobs/")[0]] += 1
            self.overlaps += sum(count > 1 for count in homes.values())


def _bench(folder: Path, names: Sequence[str], models: Sequence[Path], more: Sequence[str]) -> Ran:
    devices = folder / "devices.yaml"
    if not devices.exists():
        lines = [f"  {name}: {{transport: local, workdir: {folder}/{name}}}\n" for name in _names(99)]
        devices.write_text("devices:\n" + "".join(lines))
    words = [sys.executable, "-m", "pocketbench", "--devices", str(devices), "--format", "json", *more]
    words += [word for name in names for word in ("--device", name)]
    words += [word for model in models for word in ("--model", str(model))]
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(words, stdout=out, stderr=err, env=environment, cwd=folder)
        # Left as a zombie for the moment that it takes to read its own time, without its children's.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall_s = time.perf_counter() - begin
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.wait()
        out.seek(0)
        err.seek(0)
        text = out.read()
        told = json.loads(text)["results"] if text else []
        return Ran(wall_s, (int(fields[11]) + int(fields[12])) * TICK_S, told, process.returncode, err.read())


def _model(folder: Path, number: int) -> Path:
    path = folder / f"sleep{number}.null"
    path.write_text(json.dumps({"sleep_ms": 10 + number / 1e6}))
    return path


def _names(count: int) -> list[str]:
    return [f"d{number:02d}" for number in range(count)]


if __name__ == "__main__":
    sys.exit(main())
