"""Programs that convert: each ends with us, and onnx2tf has an environment of its own, for it pins what it needs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pocketbench.compress.recipe import Say, StepFailed

ONNX2TF = "2.6.9"
TIMEOUT_S = 900
# The first Python that onnx2tf says it is for. On one before it runs as well, but pip has to be told.
OLDEST_PYTHON = (3, 12)


def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """What it said. OSError: it cannot be started; TimeoutExpired. Nothing that it started is left behind."""
    # A group of its own, for what it starts in turn: pip has builds, a virtual environment has pip.
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, said = process.communicate(timeout=TIMEOUT_S)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def onnx2tf(say: Say) -> Path:
    """The Python that has it; made once. StepFailed says why it cannot be."""
    import platformdirs

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    tools = Path(platformdirs.user_cache_dir("pocketbench")) / "tools"
    home = tools / f"onnx2tf-{ONNX2TF}-py{version}"
    python = Path("Scripts", "python.exe") if os.name == "nt" else Path("bin", "python")
    # A link into nowhere once the Python that it was made with is gone.
    if not (home / python).exists():
        say(f"onnx2tf {ONNX2TF} is installed, once: about 700 MB in {home}, a minute or less")
        tools.mkdir(parents=True, exist_ok=True)
        # It has its name when it is whole, not before.
        with tempfile.TemporaryDirectory(dir=tools) as scratch:
            made = Path(scratch) / "made"
            _done([sys.executable, "-I", "-m", "venv", str(made)], tools)
            pip = [str(made / python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            older = ["--ignore-requires-python"] if sys.version_info < OLDEST_PYTHON else []
            _done([*pip, *older, f"onnx2tf=={ONNX2TF}"], tools)
            # Another may have been faster, and may be using it.
            if not (home / python).exists():
                shutil.rmtree(home, ignore_errors=True)
                made.replace(home)
    return home / python


def _done(command: Sequence[str], folder: Path) -> None:
    try:
        done = run(command, folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepFailed(f"onnx2tf {ONNX2TF} could not be installed: {error}") from error
    if done.returncode:
        raise StepFailed(f"onnx2tf {ONNX2TF} could not be installed: {last_said(done)}")


def last_said(done: subprocess.CompletedProcess[str]) -> str:
    """The last line with an error in it, or the last line."""
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout.strip()).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]
