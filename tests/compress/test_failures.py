"""What goes wrong at a stage ends as one error, leaves nothing half-written, and does not have to be done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pocketbench.compress import artifact, onnx_graph, pipeline
from tests.compress import nets
from tests.compress.test_pipeline import TORCH, onnx_workload
from tests.compress.workloads import made

ROOT = nets.ROOT
# At most so many bytes in a file, as a disk that fills up while one is written.
FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from pocketbench.cli.main import main
sys.argv = ["bench", *sys.argv[1:]]
main()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of stages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pocketbench" / "artifacts"


def command(work: Path, *more: str, code: str = "") -> list[str]:
    start = ["-c", code] if code else ["-m", "pocketbench"]
    out = work.parent / "out"
    out.mkdir(exist_ok=True)
    form = () if "--to" in more else ("--to", "onnx")
    return [sys.executable, *start, "compress", str(work), *form, "--output", str(out), *more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


@pytest.mark.parametrize(("recipe", "size"), [("fp32", 2000), ("int8-static", 7000), ("fp16", 7000)])
def test_a_disk_that_fills_up(tmp_path: Path, cache: Path, recipe: str, size: int) -> None:
    """One line that names the place; the same command goes on when there is room."""
    work = onnx_workload(tmp_path)
    assert 2000 < (tmp_path / "net.onnx").stat().st_size < 7000
    ended = run(command(work, "--recipe", recipe, code=FULL.format(size=size)))
    assert ended.returncode == 2, ended.stderr
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("Error")]
    assert "cannot be written: File too large" in error
    whole = [name for name in left(cache) if name.endswith(".json")]
    assert len(left(cache)) == 2 * len(whole) and left(tmp_path / "out") == []
    again = run(command(work, "--recipe", recipe))
    assert again.returncode == 0, again.stderr
    assert len(left(tmp_path / "out")) == 2


def test_the_folder_for_the_files_is_full(tmp_path: Path) -> None:
    work = onnx_workload(tmp_path)
    assert run(command(work, "--recipe", "fp32")).returncode == 0
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    ended = run(command(work, "--recipe", "fp32", code=FULL.format(size=2000)))
    assert ended.returncode == 2 and "cannot be written: File too large" in ended.stderr
    assert left(tmp_path / "out") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
@pytest.mark.parametrize("kib", [200, 400, 700, 1000])
def test_a_disk_without_room(tmp_path: Path, kib: int) -> None:
    """Whichever library writes: ONNX Runtime's own code has errors of its own for it."""
    work = onnx_workload(tmp_path, nets.linear(tmp_path / "net.onnx"))
    small = tmp_path / "cache"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        ended = run(command(work, "--recipe", "int8-static"))
        assert ended.returncode == 2, ended.stderr
        (error,) = [line for line in ended.stderr.splitlines() if line.startswith("Error")]
        assert "cannot be written: No space left on device" in error
        kept = left(small / "pocketbench")
        assert len(kept) == 2 * len([name for name in kept if name.endswith(".json")])
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        again = run(command(work, "--recipe", "int8-static"))
        assert again.returncode == 0, again.stderr
        assert left(tmp_path / "out") == ["net-int8-static.onnx", "net-int8-static.onnx.json"]
    finally:
        subprocess.run(["umount", str(small)], check=False)


def test_an_interrupted_run_goes_on(tmp_path: Path, cache: Path) -> None:
    """Ctrl-C while it calibrates: what was whole is not made again, and the bytes are those of an undisturbed run."""
    work = onnx_workload(tmp_path)
    slow = "import pocketbench.compress.calibrators as c, time\nc.choose = lambda *_: time.sleep(60)\n"
    code = slow + "import sys\nfrom pocketbench.cli.main import main\nsys.argv = ['bench', *sys.argv[1:]]\nmain()\n"
    arguments = command(work, "--recipe", "int8-static", code=code)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "int8-static for onnx" in line:
                break
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in rest and "Traceback" not in rest
    assert [Path(name).suffix for name in left(cache)] == [".json", ".onnx"] and left(tmp_path / "out") == []
    again = run(command(work, "--recipe", "int8-static"))
    assert again.returncode == 0
    assert again.stderr.splitlines()[-2:] == ["net: fp32 for onnx: taken from the cache", "net: int8-static for onnx"]
    first = (tmp_path / "out" / "net-int8-static.onnx").read_bytes()
    for path in cache.iterdir():
        path.unlink()
    assert run(command(work, "--recipe", "int8-static")).returncode == 0
    assert (tmp_path / "out" / "net-int8-static.onnx").read_bytes() == first


def test_a_stage_without_its_manifest_is_made_again(tmp_path: Path, cache: Path) -> None:
    """Killed between file and manifest."""
    work = onnx_workload(tmp_path)
    before, _, _ = made(work, ["fp16"], ["onnx"])
    for path in cache.glob("*.json"):
        path.unlink()
    for path in cache.glob("*.onnx"):
        path.write_bytes(path.read_bytes()[:100])
    after, _, said = made(work, ["fp16"], ["onnx"])
    assert after[0].sha256 == before[0].sha256 and len(said) == 3


def test_a_library_that_raises_ends_its_recipe_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("the truth value is ambiguous\nand more")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", broken)
    found, failed, _ = made(onnx_workload(tmp_path), ["int8-static", "fp16"], ["onnx"])
    assert [one.recipe for one in found] == ["fp16"]
    assert [one.why for one in failed] == ["its library raised ValueError: the truth value is ambiguous"]


def test_a_detector_whose_scores_are_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in int8, as the library does it by itself; the cosine over the whole output is above 0.998."""
    work = onnx_workload(tmp_path, nets.detector(tmp_path / "net.onnx"))
    found, _, _ = made(work, ["int8-static"], ["onnx"])
    assert len(found) == 1
    monkeypatch.setattr(onnx_graph, "tail", lambda model: [])
    monkeypatch.setattr(pipeline, "_code", lambda: "other")
    _, failed, _ = made(work, ["int8-static"], ["onnx"])
    assert failed[0].why == (
        "output 0: 3 of its channels do not move any more (first: 3), where those of its source do"
    )


def test_without_samples_nothing_is_compared_and_it_says_so(tmp_path: Path) -> None:
    work = onnx_workload(tmp_path)
    work.write_text(work.read_text().replace("def calibration_batches", "def other"))
    found, failed, _ = made(work, ["fp16"], ["onnx"])
    assert not failed
    assert found[0].findings == ("outputs were not compared with those of its source: no calibration_batches()",)


def test_an_open_dimension_takes_any_size(tmp_path: Path) -> None:
    import onnx

    path = nets.conv(tmp_path / "net.onnx")
    model = onnx.load(path)
    for at in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[at].dim_param = f"d{at}"
    onnx.save(model, path)
    found, failed, _ = made(onnx_workload(tmp_path, path), ["int8-static"], ["onnx"])
    assert len(found) == 1 and not failed


def test_a_new_file_beside_the_model_is_another_source(tmp_path: Path) -> None:
    """The .onnx file is the same, its weights are not."""
    import onnx

    path = nets.conv(tmp_path / "net.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0)
    work = onnx_workload(tmp_path, path)
    (before,), _, _ = made(work, ["fp32"], ["onnx"])
    first = before.sha256
    assert artifact.read(before.path) is not None and not onnx_graph.files(before.path)[1:]
    data = bytearray((tmp_path / "net.data").read_bytes())
    data[0:4] = b"\x00\x00\x80\x3f"
    (tmp_path / "net.data").write_bytes(data)
    (after,), _, _ = made(work, ["fp32"], ["onnx"])
    assert after.sha256 != first


CONTROL_FLOW = """
import torch
import numpy as np
def score(predict):
    raise NotImplementedError
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)
    def forward(self, x):
        x = self.fc(x)
        if x.sum() > 0:
            x = -x
        return x
def model():
    torch.manual_seed(0)
    return Net()
def calibration_batches():
    yield torch.rand(8, 4)
"""


@pytest.mark.parametrize(("form", "what"), [("onnx", "exported to ONNX"), ("tflite", "converted to LiteRT")])
def test_a_network_that_cannot_be_traced(tmp_path: Path, form: str, what: str) -> None:
    """The line of the user's file that is in the way."""
    pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")
    work = tmp_path / "w.py"
    work.write_text(CONTROL_FLOW)
    _, failed, _ = made(work, ["fp32"], [form])
    why = failed[0].why
    assert f"the network cannot be {what}: " in why and 'w.py", line 12, in forward' in why, why


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_an_operator_that_a_format_does_not_have(tmp_path: Path, form: str) -> None:
    """The operator, and the line of the user's file."""
    pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")
    work = tmp_path / "w.py"
    work.write_text(
        CONTROL_FLOW.replace("if x.sum() > 0:", "if True:")
        .replace("x = -x", "x = torch.linalg.eigvals(x.T @ x).real")
        .replace("torch.rand(8, 4)", "torch.rand(1, 4)")
    )
    _, failed, _ = made(work, ["fp32"], [form])
    assert "aten.linalg_eig" in failed[0].why and 'w.py", line 13, in forward' in failed[0].why, failed[0].why


def test_samples_that_a_torch_network_does_not_take(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="pip install 'pocketbench[compress]'")
    work = tmp_path / "w.py"
    work.write_text(TORCH.replace("(1, 3, 16, 16)", "(1, 4, 16, 16)"))
    _, failed, _ = made(work, ["fp32"], ["onnx"])
    assert "to have 3 channels, but got 4 channels" in failed[0].why


def test_an_exporter_that_writes_an_old_operator_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints a trace and writes something else than it was asked for: what was written is looked at."""
    torch = pytest.importorskip("torch", reason="pip install 'pocketbench[compress]'")
    import shutil

    written = nets.conv(tmp_path / "old.onnx")
    import onnx

    model = onnx.load(written)
    model.opset_import[0].version = 17
    onnx.save(model, written)
    monkeypatch.setattr(torch.onnx, "export", lambda net, example, target, **_: shutil.copy(written, target))
    work = tmp_path / "w.py"
    work.write_text(TORCH)
    _, failed, _ = made(work, ["fp32"], ["onnx"])
    assert "the exporter wrote operator set 17" in failed[0].why
