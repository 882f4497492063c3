"""Programs that convert: what becomes of them when they fail, hang or are interrupted, and where they live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pocketbench.compress.recipe import StepFailed
from pocketbench.convert import programs

# Makes an environment of nothing but itself; its pip does as it is told.
PYTHON = """#!/bin/sh
echo "$*" >> {log}
case "$3" in
venv) mkdir -p "$4/bin"; cp "$0" "$4/bin/python";;
pip) {pip};;
esac
"""
# Starts another, as pip does for builds.
HANGS = "sleep 1000 & echo $! > {pid}; wait"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was asked of Python."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "log"


def python(log: Path, monkeypatch: pytest.MonkeyPatch, pip: str) -> None:
    path = log.with_name("python")
    path.write_text(PYTHON.format(log=log, pip=pip))
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def tools(log: Path) -> list[str]:
    return sorted(path.name for path in (log.parent / "cache" / "pocketbench" / "tools").iterdir())


def gone(file: Path) -> bool:
    """Is the process whose id stands there?"""
    for _ in range(100):
        try:
            os.kill(int(file.read_text()), 0)
        except (ProcessLookupError, ValueError, FileNotFoundError):
            return file.is_file()
        time.sleep(0.05)
    return False


def test_it_is_installed_once_and_only_whole(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python(log, monkeypatch, "true")
    said: list[str] = []
    made = programs.onnx2tf(said.append)
    assert made.is_file() and len(said) == 1 and "about 700 MB" in said[0] and str(made.parents[1]) in said[0]
    assert tools(log) == [made.parents[1].name]
    asked = log.read_text().splitlines()
    assert len(asked) == 2 and "onnx2tf==2.6.9" in asked[1]
    assert ("--ignore-requires-python" in asked[1]) == (sys.version_info < (3, 12))
    assert programs.onnx2tf(said.append) == made and len(said) == 1
    made.unlink()
    made.symlink_to("/nowhere")
    assert programs.onnx2tf(said.append) == made and made.is_file() and len(said) == 2, "its Python was taken away"


def test_two_at_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second leaves what the first has made, and may be using."""
    python(log, monkeypatch, "true")
    first = programs.onnx2tf(print)
    used = first.parent / "used"
    first.rename(used)
    python(log, monkeypatch, f"mv {used} {first}")
    assert programs.onnx2tf(print) == first and not used.exists()
    assert f"mv {used}" not in first.read_text() and tools(log) == [first.parents[1].name]


def test_a_registry_that_cannot_be_reached(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "WARNING: Retrying", "ERROR: No matching distribution found for onnx2tf==2.6.9", "and more"
    python(log, monkeypatch, "; ".join(f"echo '{line}' >&2" for line in lines) + "; exit 1")
    with pytest.raises(StepFailed) as raised:
        programs.onnx2tf(print)
    assert str(raised.value) == f"onnx2tf 2.6.9 could not be installed: {lines[1]}"
    assert tools(log) == []


def test_no_environment_can_be_made(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StepFailed, match=r"onnx2tf 2\.6\.9 could not be installed: .*No such file"):
        programs.onnx2tf(print)
    assert tools(log) == []


def test_an_installation_that_hangs_leaves_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = log.with_name("pid")
    python(log, monkeypatch, HANGS.format(pid=pid))
    monkeypatch.setattr(programs, "TIMEOUT_S", 1)
    with pytest.raises(StepFailed, match=r"could not be installed: .* timed out after 1 seconds"):
        programs.onnx2tf(print)
    assert gone(pid) and tools(log) == []


def test_an_interrupted_installation_leaves_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, real = log.with_name("pid"), sys.executable
    python(log, monkeypatch, HANGS.format(pid=pid))
    code = f"import sys; sys.executable = {sys.executable!r}\nfrom pocketbench.convert import programs\n"
    process = subprocess.Popen([real, "-c", f"{code}programs.onnx2tf(print)"], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(200):
            if pid.is_file() and pid.read_text():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert gone(pid) and tools(log) == []
