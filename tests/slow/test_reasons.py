"""Lies that take minutes to be found: a model that hangs, a device that stays warm, a warm-up that never ends.

All of it happens at once, and while the other tests run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import DIGITS, QUICK, ROOT, Bench, benched, wait_until

END_S = 420
# What is planted, the reason that is found, and what becomes of the case.
FOUND = {
    "a model that hangs": ("timed_out", "TIMEOUT", "run"),
    "a delegate that hangs while it is loaded": ("timed_out", "TIMEOUT", "load"),
    "a device that stays warm": ("hot_start", "OK", None),
    "a warm-up that never ends": ("warm_up_not_steady", "OK", None),
}
CC = shutil.which("cc") or shutil.which("gcc")


@pytest.fixture(scope="session")
def waits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A command for each, under way."""
    with ExitStack() as stack:
        model, delegate, warm, endless = (
            stack.enter_context(benched(tmp_path_factory.mktemp(name.split()[1]))) for name in FOUND
        )
        commands = (
            _start(model, {"fail": {"stage": "run", "how": "hang", "after": 2}}),
            _hanging(delegate),
            _warming(warm),
            _start(endless, {"sleep_ms": 5, "growth": 1.01}, *QUICK, "--min-runs", "8", "--max-time", "20"),
        )
        begun = dict(zip(FOUND, commands, strict=True))
        yield begun
        for process in begun.values():
            process.kill()
            process.communicate()


def _start(bench: Bench, told: dict[str, Any], *more: object) -> subprocess.Popen[str]:
    return bench.start("--device", "local", "--model", bench.null(**told), *(more or QUICK), "--format", "json")


def _hanging(bench: Bench) -> subprocess.Popen[str]:
    """A library that never makes its delegate."""
    library = bench.home / "libstub.so"
    subprocess.run([str(CC), "-shared", "-fPIC", "-o", library, ROOT / "tests/peers/stub_delegate.c"], check=True)
    stub = "{library: libstub.so, options: {hang: true}}"
    (bench.home / "devices.yaml").write_text(
        f"devices:\n  local:\n    transport: local\n    delegates: {{stub: {stub}}}\n"
    )
    model = DIGITS / "digits-int8.tflite"
    return bench.start("--device", "local", "--model", model, "--delegate", "stub", *QUICK, "--format", "json")


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
@pytest.mark.parametrize("name", FOUND)
def test_what_takes_minutes(waits: dict[str, subprocess.Popen[str]], name: str) -> None:
    """Each ends by itself, with its reason."""
    stdout, stderr = waits[name].communicate(timeout=END_S)
    (result,) = json.loads(stdout)["results"]
    code, status, stage = FOUND[name]
    assert code in {reason["code"] for reason in result["reasons"]}, (result["reasons"], stderr)
    assert result["status"] == status
    assert stage is None or result["stage"] in (stage, "first", "probe")
