"""A month of nights on a simulated device: what happened is red or amber on its night, and nothing else ever is."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import pocketbench_agent
from tests.integration.conftest import Bench, Ended, benched, wait_until
from tests.integration.nights import SLEEP_MS, Lab, Told, read, webhook

NIGHTS = 30
# A month takes minutes of two cores: SEEDS="1" does one.
SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "1 2 3").split()]
# None before its series have learnt, and none in the night after another: what one leaves behind is looked at.
FIRST, APART = 12, 4
STEP, SLOWER_RUNTIME, SPIKE, NEW_SYSTEM = "step", "slower runtime", "spike", "new system"


def drawn(seed: int) -> Mapping[int, str]:
    """Which night brings what."""
    chosen = random.Random(seed)
    events = [STEP, SLOWER_RUNTIME, SPIKE, NEW_SYSTEM]
    chosen.shuffle(events)
    return {FIRST + APART * place + chosen.randrange(APART - 1): event for place, event in enumerate(events)}


def system(bench: Bench, name: str) -> None:
    """What the device calls its system."""
    root = Path(bench.environment["POCKETBENCH_ROOT"])
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc" / "os-release").write_text(f'PRETTY_NAME="{name}"\n')


def spiked(lab: Lab, label: str) -> Told:
    """The device is 15 % slower while the night is measured, and as it always was when it is measured again."""
    home = lab.bench.home
    lab.speed.write_text("1.15")
    reports = ("--junit", home / "j.xml", "--html", home / "n.html", "--format", "json", "--output", home / "n.json")
    said = []
    with lab.bench.start("suite", "nightly", lab.write(), "--night", label, *reports) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if "2 of 2 cases" in line:
                lab.speed.write_text("1.0")
    stdout = (home / "n.json").read_text()
    return read(Ended(process.returncode, stdout, "".join(said)), home)


@pytest.mark.timeout(1500)
def test_thirty_nights(tmp_path: Path) -> None:
    """Seeds side by side: they sleep half of the time."""
    failures: list[str] = []

    def guarded(seed: int) -> None:
        try:
            with benched(tmp_path / str(seed)) as bench:
                month(bench, seed)
        except BaseException as error:
            failures.append(f"seed {seed}: {type(error).__name__}: {error}")

    threads = []
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        threads.append(threading.Thread(target=guarded, args=(seed,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert not failures, "\n".join(failures)


def month(bench: Bench, seed: int) -> None:
    """Thirty nights; whatever is red or amber is accepted before the next one."""
    bench.timeout_s = 900
    bench.environment["POCKETBENCH_ROOT"] = str(bench.home / "root")
    system(bench, "Simulated 1")
    events = drawn(seed)
    with webhook() as (address, posted):
        models: dict[str, dict[str, Any]] = {
            "a": {"sleep_ms": SLEEP_MS},
            "b": {"sleep_ms": 1.5 * SLEEP_MS, "versions": {"2": 1.08}},
        }
        lab = Lab(bench, address, models=models)
        for number in range(NIGHTS):
            label, event, before = f"n{number:02}", events.get(number), len(posted)
            if event == STEP:
                models["a"]["sleep_ms"] = round(1.05 * SLEEP_MS, 1)
            elif event == SLOWER_RUNTIME:
                lab.runtime = "null==2"
            elif event == NEW_SYSTEM:
                system(bench, "Simulated 2")
            told = spiked(lab, label) if event == SPIKE else lab.night(label)
            notes = [f"{one['title']} {one['metric']}: {one['note']}" for one in told.night["series"] if one["note"]]
            where = f"seed {seed}, {label}, {event}: {told.night['alarms']} {told.night['remarks']} {notes}"
            red = {STEP: [("a", "latency_p50")], SLOWER_RUNTIME: [("b", "latency_p50")]}.get(event or "", [])
            amber = [("local", "os")] if event == NEW_SYSTEM else []
            assert told.alarms("red") == red, where
            assert told.alarms("amber") == amber, where
            # Every form of the night says the same.
            color = "red" if red else "amber" if amber else "ok"
            assert (told.color, told.ended.code) == (color, 1 if red else 0), where
            assert len(told.failures) == len(red), where
            assert f'class="verdict {color}"' in told.page, where
            assert len(posted) - before == (1 if red or amber else 0), where
            if red or amber:
                assert posted[-1]["color"] == color and posted[-1]["night"] == label
                assert bench("baseline", "accept", "sim", "all").code == 0


def test_an_agent_that_slows_everything_down_is_paired_with_the_one_before(bench: Bench) -> None:
    """Both agents run the same file the same night."""
    sources = Path(pocketbench_agent.__file__).parent
    slower = bench.home / "slower" / "pocketbench_agent"
    shutil.copytree(sources, slower, ignore=shutil.ignore_patterns("__pycache__"))
    null = slower / "runtimes" / "null.py"
    text = null.read_text()
    assert "/ 1e3 * factors" in text
    null.write_text(text.replace("/ 1e3 * factors", "/ 1e3 * 1.3 * factors"))
    lab = Lab(bench, models={"a": {"sleep_ms": SLEEP_MS}})
    lab.night("n1")
    bench.environment["PYTHONPATH"] = str(slower.parent)
    red = lab.night("n2")
    assert red.alarms("red") == [("a", "latency_p50")], (red.ended.stderr, red.night["remarks"])
    assert red.night["alarms"][0]["why"].endswith("changed: agent")


def test_what_is_accepted_is_the_baseline(bench: Bench) -> None:
    lab = Lab(bench, models={"a": {"sleep_ms": SLEEP_MS}}, runtime="null")
    lab.night("n1")
    lab.models["a"]["versions"] = {"2": 1.3}
    lab.runtime = "null==2"
    red = lab.night("n2")
    assert red.alarms("red") == [("a", "latency_p50"), ("a", "size")] and "runtime" in red.night["alarms"][0]["why"]
    accepted = bench("baseline", "accept", "sim", "all")
    assert accepted.code == 0 and accepted.stdout.count("accepted") == 2 and accepted.stdout.count("pinned") == 1
    calm = lab.night("n3")
    assert (calm.ended.code, calm.color, calm.night["alarms"]) == (0, "ok", [])
    assert "accepted" in bench("baseline", "show", "sim").stdout


def test_a_model_that_breaks_is_red_and_one_that_is_optional_is_not(bench: Bench) -> None:
    lab = Lab(bench, models={"a": {"sleep_ms": 1}, "b": {"sleep_ms": 1}})
    lab.night("n1")
    lab.models["a"]["fail"] = {"stage": "run", "how": "error"}
    broken = lab.night("n2")
    assert (broken.ended.code, broken.alarms("red")) == (1, [("a", "status")])
    assert [(c["status"], c["optional"]) for c in broken.night["cases"]] == [("FAILED", False)]
    file = lab.write()
    file.write_text(
        file.read_text().replace("    runtimes:", "    optional: true\n    runtimes:").replace("sim", "other")
    )
    ended = bench("suite", "run", file, "--format", "json")
    assert ended.code == 0 and sorted(r["status"] for r in ended.results) == ["FAILED", "OK"]


def test_a_night_that_was_cut_goes_on_where_it_was(bench: Bench) -> None:
    lab = Lab(bench, models={name: {"sleep_ms": 20} for name in "abcdef"}, extra=["budget: 2h"])
    lab.models |= {name: {"sleep_ms": 20} for name in "ghijkl"}
    command = ("suite", "nightly", lab.write(), "--night", "n1", "--format", "json")
    process = bench.start(*command)
    store = bench.home / "xdg_data_home" / "pocketbench" / "results.db"
    # A batch of eight ends before the next one begins.
    assert wait_until(lambda: store.exists() and _results(store) >= 8, 120)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = _results(store)
    assert 8 <= before < 12
    refused = bench(*command)
    assert refused.code == 2 and "was cut: --resume goes on with it" in refused.stderr
    resumed = bench(*command, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert resumed.doc["measured"] == 12 and _results(store) == 12
    over = bench(*command)
    assert over.code == 2 and "is over" in over.stderr


def _results(store: Path) -> int:
    with sqlite3.connect(store) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM result").fetchone()[0])
        except sqlite3.OperationalError:
            return 0
