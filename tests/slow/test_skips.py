"""The rule that nothing here is skipped silently."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT
from tests.slow.conftest import ALLOWED_SKIPS, NO_MODELS

ALLOWED = "test_phone_runs.py"


@pytest.mark.parametrize(
    ("name", "source", "code", "told"),
    [
        (ALLOWED, f"def test_a_detector(): pytest.skip('{NO_MODELS}')", 0, None),
        (ALLOWED, "def test_a_detector(): pytest.skip('no qemu')", 1, "::test_a_detector: no qemu"),
        (ALLOWED, f"def test_another(): pytest.skip('{NO_MODELS}')", 1, f"::test_another: {NO_MODELS}"),
        ("test_x.py", "@pytest.mark.skipif(True, reason='no VM')\ndef test_a(): pass", 1, "::test_a: no VM"),
        ("test_x.py", "pytest.skip('no VM', allow_module_level=True)", 1, ": no VM"),
        ("test_x.py", "def test_a(): pass", 0, None),
        ("test_x.py", "@pytest.mark.xfail(reason='known')\ndef test_a(): assert False", 0, None),
    ],
)
def test_a_skip_fails_the_run(tmp_path: Path, name: str, source: str, code: int, told: str | None) -> None:
    """Unless that test may be skipped for that reason."""
    (tmp_path / name).write_text(f"import pytest\n\ndef test_runs(): pass\n\n{source}\n")
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", f"--rootdir={tmp_path}", "-p", "no:cacheprovider"]
    command += ["-p", "tests.slow.conftest", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == code, done.stdout
    if told is None:
        assert "not allowed" not in done.stdout
    else:
        assert f"FAILED, because skipped: {name}{told}" in done.stdout


def test_the_list_names_tests_that_exist() -> None:
    """A test that was renamed is not allowed any more, and neither is its place in the list."""
    for pattern, _ in ALLOWED_SKIPS:
        file, _, function = pattern.removeprefix("*/").partition("::")
        source = (Path(__file__).parent / file).read_text()
        assert function == "*" or f"def {function}(" in source, pattern
