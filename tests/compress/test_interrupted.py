"""Ctrl-C and a full disk while a network is trained, exported or kept: nothing is lost that was whole."""

from __future__ import annotations

import gc
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")

from pocketbench.compress import failures
from tests.compress.test_failures import FULL, cache, command, left, run
from tests.compress.workloads import BARS

__all__ = ["cache"]
UNTRAINED = BARS.replace("train(network(16))", "network(16).eval()")
# Where the folder has a file `wait`, what it says is where this waits, and says that it does.
WAITS = """
import time
from pathlib import Path
FOLDER = Path(__file__).parent

def wait(where):
    told = FOLDER / "wait"
    if told.is_file() and told.read_text() == where:
        (FOLDER / "waiting").touch()
        time.sleep(60)

class Waits(nn.Module):
    def forward(self, x):
        if torch.compiler.is_exporting():
            wait("export")
        return x

def network(width):
    return nn.Sequential(Waits(), *plain(width))

def train_batches():
    for batch in batches():
        yield batch
        wait("training")
"""


def waiting(folder: Path) -> Path:
    """A workload that waits where it is told."""
    path = folder / "bars.py"
    text = UNTRAINED.replace("def network(", "def plain(").replace("def train_batches(", "def batches(")
    path.write_text(text + WAITS)
    return path


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("form", "where", "kept"), [("onnx", "training", False), ("onnx", "export", True), ("tflite", "export", True)]
)
def test_ctrl_c(tmp_path: Path, cache: Path, form: str, where: str, kept: bool) -> None:
    """Exit code 130; the next run says what it takes up, and ends with the bytes of one that nobody disturbed."""
    work = waiting(tmp_path)
    asked = command(work, "--recipe", "sparse:0.5", "--to", form)
    (tmp_path / "wait").write_text(where)
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "waiting").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and told.endswith("interrupted\n") and "Traceback" not in told, told
    assert [Path(name).suffix for name in left(cache)] == [".json", ".pt"] * kept
    assert left(tmp_path / "out") == [] and not [path for path in cache.iterdir() if path.is_dir()]
    (tmp_path / "wait").unlink()
    again = run(asked)
    assert again.returncode == 0, again.stderr
    assert ("bars: sparse:0.5: taken from the cache" in again.stderr) == kept
    (first,) = [path.read_bytes() for path in (tmp_path / "out").glob(f"*.{form}")]
    shutil.rmtree(cache)
    assert run(asked).returncode == 0
    assert [path.read_bytes() for path in (tmp_path / "out").glob(f"*.{form}")] == [first]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("form", "recipe", "size"), [("onnx", "sparse:0.5", 20_000), ("onnx", "fp32", 2000), ("tflite", "fp32", 2000)]
)
def test_a_disk_that_fills_up(tmp_path: Path, cache: Path, form: str, recipe: str, size: int) -> None:
    """As a trained network is kept, and as each exporter writes: LiteRT's ended the process without a word."""
    work = tmp_path / "bars.py"
    work.write_text(UNTRAINED)
    asked = ("--recipe", recipe, "--to", form)
    ended = run(command(work, *asked, code=FULL.format(size=size)))
    assert ended.returncode == 2, ended.stderr
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("Error")]
    assert error == f"Error: {cache}: cannot be written: File too large"
    assert left(cache) == left(tmp_path / "out") == []
    again = run(command(work, *asked))
    assert again.returncode == 0, again.stderr
    assert len(left(tmp_path / "out")) == 2


def test_ctrl_c_that_is_lost_comes_again() -> None:
    """What the garbage collector calls may raise nothing."""
    sent: list[bool] = []

    def called(*_: object) -> None:
        if not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(called)
    try:
        with pytest.raises(KeyboardInterrupt), failures.interruptible():
            gc.collect()
            end = time.monotonic() + 20
            while time.monotonic() < end:
                time.sleep(0.01)
    finally:
        gc.callbacks.remove(called)
