"""Software in the place of accelerators: `make test-accel` fetches it into build/accel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.accel.fetch import ICD
from tests.integration.conftest import ROOT, Bench, bench

__all__ = ["bench"]
FETCHED = ROOT / "build" / "accel"
# These take seconds a run, and a test machine is never quiet.
FEW = ("--processes", "1", "--min-runs", "8", "--min-time", "0", "--max-time", "60", "--cooldown", "0")


# A GPU in software, beside other tests.
PATIENCE_S = 500.0
_passed: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is simulated takes long."""
    for item in items:
        item.add_marker(pytest.mark.timeout(2 * PATIENCE_S))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what ran."""
    if report.when == "call" and report.passed:
        _passed.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where nothing could be fetched, nothing was shown: that is not green."""
    if session.testscollected and not _passed and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def needs(*names: str) -> pytest.MarkDecorator:
    """A mark for tests that want those folders."""
    missing = [name for name in names if not (FETCHED / name).is_dir()]
    reason = f"{', '.join(missing)} not in build/accel: make test-accel fetches it, where the registries have it"
    return pytest.mark.skipif(bool(missing), reason=reason)


def environment(*names: str) -> dict[str, str]:
    """What an agent needs in its environment to find those."""
    found: dict[str, str] = {}
    packages = [FETCHED / name for name in names if name != "swiftshader"]
    if packages:
        found["PYTHONPATH"] = os.pathsep.join(map(str, [*packages, *filter(None, [os.environ.get("PYTHONPATH")])]))
    if "swiftshader" in names:
        found |= vulkan(FETCHED / "swiftshader" / ICD, FETCHED / "swiftshader")
    return found


def vulkan(driver: Path, libraries: Path) -> dict[str, str]:
    """That Vulkan driver and no other; the loader lies in `libraries`."""
    return {"VK_ICD_FILENAMES": str(driver), "VK_DRIVER_FILES": str(driver), "LD_LIBRARY_PATH": str(libraries)}


def measure(
    bench: Bench,
    env: dict[str, str],
    model: Path,
    *delegates: str,
    setups: str = "{}",
    arguments: tuple[object, ...] = (),
) -> dict[str, dict[str, Any]]:
    """Results of a model by delegate, on a local device of that environment."""
    bench.timeout_s = PATIENCE_S
    (bench.home / "devices.yaml").write_text(
        f"devices:\n  local:\n    transport: local\n    delegates: {setups}\n    env: {json.dumps(env)}\n"
    )
    wanted = [argument for name in delegates for argument in ("--delegate", name)]
    ended = bench("--device", "local", "--model", model, *wanted, *FEW, *arguments, "--format", "json")
    assert ended.code in (0, 3), ended.stderr
    return {result["delegate"]["requested"]: result for result in ended.results}
