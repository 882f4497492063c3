"""Lies that take minutes to be found: a model that hangs, a device that stays warm, a warm-up that never ends.

All of it happens at once, and while the other tests run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import QUICK, Bench, benched, wait_until

END_S = 420
FOUND = {
    "timed_out": ("TIMEOUT", "invalid"),
    "hot_start": ("OK", "warn"),
    "warm_up_not_steady": ("OK", "warn"),
}


@pytest.fixture(scope="session")
def waits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A command for each, under way."""
    with ExitStack() as stack:
        benches = {code: stack.enter_context(benched(tmp_path_factory.mktemp(code))) for code in FOUND}
        begun = {
            "timed_out": _start(benches["timed_out"], {"fail": {"stage": "run", "how": "hang", "after": 2}}),
            "warm_up_not_steady": _start(benches["warm_up_not_steady"], {"sleep_ms": 5, "growth": 1.01}),
            "hot_start": _warming(benches["hot_start"]),
        }
        yield begun
        for process in begun.values():
            process.kill()
            process.communicate()


def _start(bench: Bench, told: dict[str, Any], *more: object) -> subprocess.Popen[str]:
    return bench.start("--device", "local", "--model", bench.null(**told), *(more or QUICK), "--format", "json")


def _warming(bench: Bench) -> subprocess.Popen[str]:
    """A device that is ten degrees warmer after its first process, and does not cool down."""
    zone = bench.home / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("40000\n")
    bench.environment["POCKETBENCH_ROOT"] = str(bench.home / "root")
    running = _start(bench, {"sleep_ms": 5}, "--processes", "2", "--min-time", "0.5", "--max-time", "1")
    jobs: Path = bench.home / "xdg_cache_home" / "pocketbench" / "agent" / "jobs"
    assert wait_until(lambda: any(jobs.glob("*.0.1")), 60)
    (zone / "temp").write_text("50000\n")
    return running


@pytest.mark.timeout(600)
@pytest.mark.parametrize("code", FOUND)
def test_what_takes_minutes(waits: dict[str, subprocess.Popen[str]], code: str) -> None:
    """Each ends by itself, with its reason."""
    stdout, stderr = waits[code].communicate(timeout=END_S)
    (result,) = json.loads(stdout)["results"]
    found = {reason["code"]: reason["severity"] for reason in result["reasons"]}
    assert (result["status"], found.get(code)) == FOUND[code], (result["reasons"], stderr)
