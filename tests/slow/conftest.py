"""The slow suite's house rule, and what its tests share: no test may be skipped but those of a literal list."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.integration.conftest import Bench, bench
from tests.slow.emulated import TIMEOUT_S
from tests.slow.stories import stories
from tests.slow.test_reasons import waits

__all__ = ["bench", "stories", "waits"]
PATIENCE, REASONS = "test_patience.py", "test_reasons.py"

NO_MODELS, NO_ROOM, NO_ROOT = "no ../shared/models here", "GB are free here", "takes root"
# Which test may be skipped, and what it then says; all else is an untested story, and fails the run.
ALLOWED_SKIPS = (
    ("*/test_board_runs.py::test_three_devices_in_one_table", NO_MODELS),
    ("*/test_phone_runs.py::test_a_detector", NO_MODELS),
    ("*/test_large_models.py::*", NO_ROOM),
    ("*/test_transfers.py::*", NO_ROOT),
    ("*/test_patience.py::*", NO_ROOT),
    ("*/test_mtu.py::*", NO_ROOT),
)
_unexpected: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test, or its fixture, that skipped."""
    if not hasattr(report, "wasxfail"):
        _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A whole file that skipped."""
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped:
        return
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    told = told.removeprefix("Skipped: ")
    if not any(fnmatch(f"/{report.nodeid}", name) and re.search(why, told) for name, why in ALLOWED_SKIPS):
        _unexpected.append(f"{report.nodeid}: {told}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Not green."""
    if _unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which."""
    if _unexpected:
        terminalreporter.section("skips that are not allowed here", red=True)
        for told in _unexpected:
            terminalreporter.line(f"FAILED, because skipped: {told}", red=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for minutes is looked at last."""
    items.sort(key=lambda item: item.path.name in (PATIENCE, REASONS))


@pytest.fixture(scope="session", autouse=True)
def _begun(request: pytest.FixtureRequest) -> None:
    """And begins first."""
    if any(item.path.name == REASONS for item in request.session.items):
        request.getfixturevalue("waits")
    if any(item.path.name == PATIENCE for item in request.session.items) and os.geteuid() == 0:
        request.getfixturevalue("stories")


@pytest.fixture
def ready(bench: Bench, cache: Path) -> Bench:
    """A bench with the suite's cache, and patience: emulated, and on a busy machine, all takes long."""
    bench.environment["XDG_CACHE_HOME"] = str(cache)
    bench.timeout_s = TIMEOUT_S
    return bench


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed agents and runtimes are made once."""
    return tmp_path_factory.mktemp("cache")
