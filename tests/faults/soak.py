"""A lab under random faults for as long as it takes: nothing is lost, nothing is measured twice, nothing grows.

    python -m tests.faults.soak --minutes 60 [--seed N]

Six devices (four on this machine, one behind a real SSH server, one behind the ADB daemon, both with links that break)
measure simulated models in one long run, while workers and agents are killed and stopped, links cut and silent, the
database locked and the host frozen. At the end each case has one result, no job was begun twice, and the memory and
open files of the host and of its agents have stayed flat: from the second quarter of a process's life to the last one,
its middle grows by no more than KEPT for each case in between and a SLACK.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.faults.conftest import JSON, Lab
from tests.faults.test_links import PYTHON
from tests.integration.adb_clients import daemon, free_port
from tests.integration.conftest import benched
from tests.peers.faults import Faults, faults
from tests.peers.sshd import SSHD, sshd

PLAN = ("--processes", "1", "--min-runs", "8", "--max-runs", "30", "--min-time", "0.05", "--max-time", "0.2", *JSON)
LOCAL = ("a", "b", "c", "d")
# What all six get through in a minute on two cores; the run lasts as long as its cases do.
MODELS_A_MINUTE = 32
PAUSE_S = (1.0, 5.0)
LOOK_S = 2.0
# What a host keeps of a case until its report: its samples, its result. An agent keeps nothing.
KEPT = {"host": (60.0, 0.005), "agents": (1.0, 0.005)}
# kB and open files that come and go with a link that breaks, whatever the number of cases.
SLACK = (2048.0, 3.0)
MANY_CASES = 20
# Killed workers end their cases; an agent that was killed twice in one case, too. A worker that stands still for longer
# than its plan lets it run has too few samples, and says so.
ENDS = {("OK", None), ("CRASHED", "worker_died"), ("LOST", "device_lost"), ("INVALID", "too_few_samples")}


@dataclass
class Looks:
    """(cases so far, kB, open files) of each long-lived process over time, by its process id."""

    seen: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)

    def take(self, pids: list[int], cases: int) -> None:
        """One look at each."""
        for pid in pids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except OSError:
                continue
            rss = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
            self.seen.setdefault(pid, []).append((cases, rss, files))

    def growth(self, pid: int) -> tuple[float, float, float] | None:
        """Cases, kB and files between its second quarter and its last; None where it did not live for long enough."""
        seen = np.array(self.seen[pid], float)
        quarter = len(seen) // 4
        if quarter < 5:
            return None
        cases, kb, files = np.median(seen[-quarter:], axis=0) - np.median(seen[quarter : 2 * quarter], axis=0)
        return (float(cases), float(kb), float(files)) if cases >= MANY_CASES else None


@contextmanager
def lab(home: Path) -> Iterator[tuple[Lab, list[Faults]]]:
    """The devices, and the knobs of the links that can be spoilt."""
    (home / "tmp").mkdir()
    with ExitStack() as stack:
        made = Lab(stack.enter_context(benched(home)))
        made.bench.environment.update(TMPDIR=str(home / "tmp"), ANDROID_ADB_SERVER_PORT=str(free_port()))
        entries: dict[str, dict[str, object]] = {name: {} for name in LOCAL}
        far = {"python": PYTHON, "env": {"HOME": str(home)}}
        phone = stack.enter_context(daemon(home / "phone"))
        links = [stack.enter_context(faults(int(phone.address.rpartition(":")[2])))]
        entries["phone"] = {"transport": "adb", "address": f"127.0.0.1:{links[0].port}", "adb": "direct", **far}
        if SSHD is not None and os.geteuid() == 0:
            server = stack.enter_context(sshd(home / "server"))
            links.append(stack.enter_context(faults(server.port)))
            told = {"host": "127.0.0.1", "port": links[1].port, "user": server.user, "key": str(server.key)}
            key = server.host_key.with_suffix(".pub").read_text().strip()
            entries["board"] = {"transport": "ssh", **told, "host_key": key, **far}
        made.devices(**entries)
        yield made, links


def injections(made: Lab, links: list[Faults], host: int, dice: random.Random) -> dict[str, Callable[[], None]]:
    """What can happen, by its name; each returns when it is over."""

    def one(pids: list[int], number: signal.Signals) -> None:
        if pids:
            _signal(dice.choice(pids), number)

    def stop(pids: list[int], seconds: float) -> None:
        if pids:
            pid = dice.choice(pids)
            _signal(pid, signal.SIGSTOP)
            time.sleep(seconds)
            _signal(pid, signal.SIGCONT)

    def hole() -> None:
        link = dice.choice(links)
        link.hole = True
        time.sleep(4)
        link.hole = False

    def lock() -> None:
        other = sqlite3.connect(made.database, isolation_level=None, timeout=20)
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(2)
        other.execute("ROLLBACK")
        other.close()

    def agents() -> list[int]:
        names = LOCAL
        return [pid for name in names for pid in made.agents(name)]

    return {
        "a worker is killed": lambda: one(made.workers(), signal.SIGKILL),
        "a worker crashes": lambda: one(made.workers(), signal.SIGSEGV),
        "a worker stands still": lambda: stop(made.workers(), 2),
        "an agent is killed": lambda: one(agents(), signal.SIGKILL),
        "an agent stands still": lambda: stop(agents(), 2),
        "a link is cut": lambda: dice.choice(links).cut(),
        "a link is silent": hole,
        "the database is locked": lock,
        "the host stands still": lambda: stop([host], 2),
    }


def soak(home: Path, minutes: float, seed: int) -> list[str]:
    """What was wrong at the end, in lines; none where all was well."""
    dice = random.Random(seed)
    with lab(home) as (made, links):
        names = [*LOCAL, "phone", *(["board"] if len(links) > 1 else [])]
        print("devices:", *names, "" if "board" in names else "(no SSH server here, or not root)", flush=True)
        models = [made.bench.null(f"m{n}", sleep_ms=1 + n % 5) for n in range(max(2, round(minutes * MODELS_A_MINUTE)))]
        words = [word for name in names for word in ("--device", name)]
        words += [word for model in models for word in ("--model", str(model))]
        output = home / "report.json"
        command = made.bench.command(*words, *PLAN, "--output", output)
        with (home / "stderr").open("w") as log:
            run = subprocess.Popen(command, stderr=log, cwd=home, env=made.bench.env(), start_new_session=True)
        looks, happened = Looks(), Counter[str]()
        known = injections(made, links, run.pid, dice)
        # A link that is cut while a device is set up is no riddle: that device is lost, and says so.
        ready = False
        next_s = next_look_s = time.monotonic()
        deadline_s = next_s + 60 * minutes * 5 + 600
        while run.poll() is None and time.monotonic() < deadline_s:
            now = time.monotonic()
            if now >= next_look_s:
                next_look_s = now + LOOK_S
                long_lived = [pid for pid in made.bench.agents() if pid not in made.workers()]
                looks.take([run.pid, *long_lived], _cases(made))
            ready = ready or all(made.log(name).begun() for name in names)
            if ready and now >= next_s:
                next_s = now + dice.uniform(*PAUSE_S)
                what = dice.choice(sorted(known))
                happened[what] += 1
                known[what]()
            time.sleep(0.1)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        code, stderr = run.wait(), (home / "stderr").read_text()
        print(f"{sum(happened.values())} faults: {dict(happened.most_common())}")
        wrong = [f"it ended with {code}: {stderr[-2000:]}"] if code not in (0, 3) else []
        wrong += ["a traceback"] if "Traceback" in stderr else []
        wrong += _account(made, output, names, len(models))
        wrong += flat(looks, run.pid)
        try:
            made.nothing_is_left(leaves=("jobs", "lease"))
        except AssertionError as error:
            wrong.append(f"left behind: {error}")
        return wrong


def _cases(made: Lab) -> int:
    """How far it is: a case is half done once its process is stored, and done with its result."""
    ((results,),) = made.query("select count(*) from result") or [(0,)]
    return (made.processes() + int(results)) // 2


def _account(made: Lab, output: Path, names: list[str], models: int) -> list[str]:
    """Every case once, in the report and in the store; every job begun once."""
    if not output.exists():
        return ["no report"]
    results = json.loads(output.read_text())["results"]
    cases = Counter((result["device"], result["model"]["name"]) for result in results)
    print(f"{len(results)} results: {dict(Counter(result['status'] for result in results))}")
    ended = Counter(f"{r['device']}: {r['reasons'][0]['message'][:120]}" for r in results if r["status"] != "OK")
    print("\n".join(f"  {count} x {text}" for text, count in ended.most_common(12)))
    wrong = [f"{len(cases)} of {len(names) * models} cases have a result"] if len(cases) != len(names) * models else []
    wrong += [f"{case}: {count} results" for case, count in cases.items() if count != 1]
    for result in results:
        why = next((reason["code"] for reason in result["reasons"] if reason["severity"] == "invalid"), None)
        if (result["status"], why) not in ENDS:
            wrong.append(f"{result['device']}/{result['model']['name']}: {result['status']} {why}")
    stored = sorted(json.loads(doc)["id"] for doc in made.rows().values())
    wrong += [] if stored == sorted(result["id"] for result in results) else ["the store has other results"]
    for name in names:
        twice = [job for job, count in made.log(name).begun().items() if count != 1]
        wrong += [f"{name}: begun more than once: {twice}"] if twice else []
    return wrong


def flat(looks: Looks, host: int) -> list[str]:
    """What has grown, in lines."""
    wrong, judged = [], set()
    for pid in looks.seen:
        grown = looks.growth(pid)
        if grown is None:
            continue
        judged.add(pid == host)
        who = "host" if pid == host else "agents"
        cases, *grew = grown
        allowed = [cases * kept + slack for kept, slack in zip(KEPT[who], SLACK, strict=True)]
        line = f"{who} {pid}: {grew[0]:+.0f} kB and {grew[1]:+g} files in {cases:.0f} cases"
        print(f"{line}, {allowed[0]:.0f} and {allowed[1]:.1f} allowed")
        wrong += [line] if any(one > bound for one, bound in zip(grew, allowed, strict=True)) else []
    return wrong if judged == {True, False} else [*wrong, "no host or no agent lived for long enough to be judged"]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def main() -> int:
    """0 where all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    told = parser.parse_args()
    print(f"seed {told.seed}, {told.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        wrong = soak(Path(folder), told.minutes, told.seed)
    for line in wrong:
        print(f"WRONG: {line}")
    print("all is well" if not wrong else f"seed {told.seed} shows it again, as far as chance allows")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
