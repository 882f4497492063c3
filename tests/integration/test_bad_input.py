"""Bad input: a clear error that names the offending thing, the right exit code, and nothing else harmed.

One table: what is typed, the stage where it must be found, the exit code, and what the first line of stderr
must name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.integration.conftest import DIGITS, QUICK, ROOT, Bench

Make = Callable[[Path], list[object]]


@dataclass(frozen=True)
class Bad:
    """One row: `stage` None means found before anything runs."""

    name: str
    make: Make
    code: int
    names: str
    stage: str | None = None
    status: str | None = None
    reason: str | None = None


def model(path: object, *more: object) -> list[object]:
    """The arguments for one model on this machine."""
    return ["--device", "local", "--model", path, *more]


def written(folder: Path, name: str, data: bytes) -> Path:
    """A file with that content."""
    path = folder / name
    path.write_bytes(data)
    return path


def null(folder: Path, text: str = "{}") -> Path:
    """A .null file."""
    return written(folder, "m.null", text.encode())


def part(name: str, share: float) -> bytes:
    """The beginning of one of the digits models."""
    data = (DIGITS / name).read_bytes()
    return data[: int(len(data) * share)]


def flipped(name: str) -> bytes:
    """A digits model with its head's bits flipped."""
    data = bytearray((DIGITS / name).read_bytes())
    for position in range(4, 64):
        data[position] ^= 0xFF
    return bytes(data)


def onnx_file(folder: Path, name: str, op: str = "Relu", shape: tuple[int | str, ...] = (1, 4)) -> Path:
    """A one-node ONNX model."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def external(folder: Path, location: str, keep: bool) -> Path:
    """An ONNX model whose weights lie in another file, which may be missing."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [256], np.ones(256, np.float32).tobytes(), raw=True)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [256])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [256])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "ext.onnx"
    onnx.save(made, str(path), save_as_external_data=True, location="ext.onnx.data", size_threshold=0)
    if not keep:
        (folder / "ext.onnx.data").unlink()
    if location != "ext.onnx.data":
        path.write_bytes(path.read_bytes().replace(b"ext.onnx.data", location.encode()))
    return path


def npz(folder: Path, **arrays: object) -> Path:
    """An .npz for the digits models."""
    path = folder / "in.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def workload(folder: Path, text: str) -> Path:
    """A workload file."""
    return written(folder, "w.py", text.encode())


def devices(folder: Path, text: str) -> Path:
    """A devices.yaml."""
    return written(folder, "d.yaml", text.encode())


FLOAT = DIGITS / "digits-float.onnx"
SCORE = "from pocketbench.workload import Score\nimport numpy as np\ndef score(predict):\n    "

BEFORE = [
    Bad("missing model", lambda d: model("nosuch.tflite"), 2, "nosuch.tflite"),
    Bad("folder as model", lambda d: model(d), 2, "is a folder"),
    Bad("unreadable suffix", lambda d: model(written(d, "m.pt", b"x")), 2, ".pt"),
    Bad("no model", lambda d: ["--device", "local"], 2, "--model"),
    Bad("no device", lambda d: ["--model", null(d)], 2, "--device"),
    Bad("model without its option", lambda d: [null(d)], 2, "m.null"),
    Bad("unknown option", lambda d: ["--modle", "x"], 2, "--model"),
    Bad("unknown subcommand", lambda d: ["histroy"], 2, "histroy"),
    Bad("option before a subcommand", lambda d: ["--device", "local", "history"], 2, "--device"),
    Bad("unknown device", lambda d: ["--device", "locl", "--model", null(d)], 2, "did you mean 'local'"),
    Bad("unknown delegate", lambda d: model(null(d), "--delegate", "gpuu"), 2, "did you mean 'gpu'"),
    Bad("unknown runtime", lambda d: model(null(d), "--runtime", "lite"), 2, "did you mean 'litert'"),
    Bad("runtime that reads another format", lambda d: model(null(d), "--runtime", "onnxruntime"), 2, "onnxruntime"),
    Bad("unknown runtime version", lambda d: model(FLOAT, "--runtime", "onnxruntime==0.1"), 2, "onnxruntime==0.1"),
    Bad("no threads", lambda d: model(null(d), "--threads", "0"), 2, "--threads"),
    Bad("odd cores", lambda d: model(null(d), "--cpus", "a-b"), 2, "--cpus"),
    Bad("odd shape", lambda d: model(null(d), "--shape", "x=1xx3"), 2, "--shape"),
    Bad("zero in shape", lambda d: model(null(d), "--shape", "x=0x3"), 2, "--shape"),
    Bad("odd label", lambda d: model(null(d), "--label", "nightly"), 2, "--label"),
    Bad("odd cooldown", lambda d: model(null(d), "--cooldown", "soon"), 2, "soon"),
    Bad("minimum above maximum", lambda d: model(null(d), "--min-runs", "20", "--max-runs", "10"), 2, "--min-runs"),
    Bad("unknown reason", lambda d: model(null(d), "--fail-on", "unstabel"), 2, "did you mean 'unstable'"),
    Bad("output in no folder", lambda d: model(null(d), "--output", d / "no" / "x"), 2, "--output"),
    Bad("output is a folder", lambda d: model(null(d), "--output", d), 2, "--output"),
    Bad("unknown format", lambda d: model(null(d), "--format", "xml"), 2, "--format"),
    Bad("store in no folder", lambda d: model(null(d), "--store", "/proc/no/x.db"), 2, "/proc/no/x.db"),
    Bad("store is no database", lambda d: model(null(d), "--store", written(d, "s.db", b"x" * 999)), 2, "s.db"),
    Bad("missing inputs", lambda d: model(null(d), "--inputs", "no.npz"), 2, "no.npz"),
    Bad("missing workload", lambda d: model(null(d), "--workload", "no.py"), 2, "no.py"),
    Bad("workload lacks score", lambda d: model(null(d), "--workload", workload(d, "x = 1")), 2, "score"),
    Bad("workload does not import", lambda d: model(null(d), "--workload", workload(d, "import nosuch")), 2, "w.py:1"),
    Bad("nothing to resume", lambda d: model(null(d), "--resume"), 2, "--resume"),
    Bad("unknown result", lambda d: ["compare", "abc", "def"], 2, "abc"),
    Bad("unknown run", lambda d: ["rerun", "abc"], 2, "abc"),
    Bad("external data missing", lambda d: model(external(d, "ext.onnx.data", False)), 2, "ext.onnx.data"),
    Bad("external data outside", lambda d: model(external(d, "../../etc/abc", True)), 2, "../../etc/abc"),
    Bad("devices file missing", lambda d: ["--devices", "no.yaml", *model(null(d))], 2, "no.yaml"),
    Bad("devices file not YAML", lambda d: ["--devices", devices(d, "a: [1\nb: 2"), *model(null(d))], 2, "d.yaml:2"),
    Bad(
        "devices file with an unknown key",
        lambda d: ["--devices", devices(d, "devices:\n  pi:\n    transport: ssh\n    hots: pi.lan\n"), *model(null(d))],
        2,
        "d.yaml:4: unknown key 'hots' (did you mean 'host'?)",
    ),
    Bad(
        "devices file with an unknown transport",
        lambda d: ["--devices", devices(d, "devices:\n  pi:\n    transport: telnet\n"), *model(null(d))],
        2,
        "d.yaml:3",
    ),
]

DURING = [
    Bad("empty tflite", lambda d: model(written(d, "e.tflite", b"")), 3, "e.tflite", "load", "FAILED", "load_failed"),
    Bad("empty onnx", lambda d: model(written(d, "e.onnx", b"")), 3, "e.onnx", "load", "FAILED", "load_failed"),
    Bad(
        "truncated tflite",
        lambda d: model(written(d, "t.tflite", part("digits-float.tflite", 0.4))),
        *(3, "t.tflite", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "truncated onnx",
        lambda d: model(written(d, "t.onnx", part("digits-float.onnx", 0.4))),
        *(3, "t.onnx", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "flipped tflite",
        lambda d: model(written(d, "f.tflite", flipped("digits-int8.tflite"))),
        *(3, "f.tflite", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "wrong format",
        lambda d: model(written(d, "w.tflite", part("digits-float.onnx", 1))),
        *(3, "w.tflite", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "unsupported op",
        lambda d: model(onnx_file(d, "op.onnx", "NoSuchOp")),
        *(3, "NoSuchOp", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "open dimensions",
        lambda d: model(onnx_file(d, "dyn.onnx", shape=("batch", 4))),
        *(3, "--shape 'x=Nx4'", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "shape for no input",
        lambda d: model(onnx_file(d, "m.onnx"), "--shape", "z=1x4"),
        *(3, "'z'", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "shape against the file",
        lambda d: model(onnx_file(d, "m.onnx"), "--shape", "x=1x5"),
        *(3, "x=1x5", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "signature of an onnx",
        lambda d: model(onnx_file(d, "m.onnx"), "--signature", "s"),
        *(3, "--signature", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "unknown signature",
        lambda d: model(DIGITS / "digits-int8.tflite", "--signature", "s"),
        *(3, "--signature 's'", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "inputs by a wrong name",
        lambda d: model(onnx_file(d, "m.onnx"), "--inputs", npz(d, q=np.ones((1, 4), np.float32))),
        *(3, "'q'", "inputs", "FAILED", "load_failed"),
    ),
    Bad(
        "inputs of a wrong dtype",
        lambda d: model(onnx_file(d, "m.onnx"), "--inputs", npz(d, x=np.ones((1, 4)))),
        *(3, "float64", "inputs", "FAILED", "load_failed"),
    ),
    Bad(
        "inputs of a wrong shape",
        lambda d: model(onnx_file(d, "m.onnx"), "--inputs", npz(d, x=np.ones((1, 5), np.float32))),
        *(3, "1x5", "inputs", "FAILED", "load_failed"),
    ),
    Bad(
        "inputs that are no npz",
        lambda d: model(onnx_file(d, "m.onnx"), "--inputs", written(d, "i.npz", b"PK nonsense")),
        *(3, ".npz", "inputs", "FAILED", "load_failed"),
    ),
    Bad(
        "a core that is not there",
        lambda d: model(null(d), "--cpus", "900"),
        *(3, "--cpus 900", "start", "FAILED", "load_failed"),
    ),
    Bad("null file is no JSON", lambda d: model(null(d, "{")), 3, "m.null", "load", "FAILED", "load_failed"),
    Bad("null file with odd keys", lambda d: model(null(d, '{"slep": 1}')), 3, "slep", "load", "FAILED", "load_failed"),
    Bad(
        "no such delegate here",
        lambda d: model(null(d), "--delegate", "gpu"),
        3,
        "'gpu'",
        "load",
        "SKIPPED",
        "not_available",
    ),
    Bad(
        "provider that is not installed",
        lambda d: model(FLOAT, "--delegate", "npu"),
        *(3, "'npu'", "load", "SKIPPED", "not_available"),
    ),
    Bad(
        "out of memory",
        lambda d: model(null(d, '{"fail": {"stage": "load", "how": "memory"}}')),
        *(3, "out of memory", "load", "FAILED", "load_failed"),
    ),
    Bad(
        "worker killed",
        lambda d: model(null(d, '{"fail": {"stage": "run", "how": 9, "after": 20}}')),
        *(3, "SIGKILL", "warm_up", "CRASHED", "worker_died"),
    ),
    Bad(
        "worker crashes",
        lambda d: model(null(d, '{"fail": {"stage": "run", "how": 11}}')),
        *(3, "SIGSEGV", "first", "CRASHED", "worker_died"),
    ),
    Bad(
        "worker ends without a word",
        lambda d: model(null(d, '{"fail": {"stage": "load", "how": "exit"}}')),
        *(3, "no result", "load", "CRASHED", "worker_died"),
    ),
    Bad(
        "workload raises",
        lambda d: model(null(d), "--workload", workload(d, SCORE + "raise RuntimeError('ouch')")),
        *(3, "ouch (w.py:4)", None, "FAILED", "workload_failed"),
    ),
    Bad(
        "workload returns NaN",
        lambda d: model(null(d), "--workload", workload(d, SCORE + "return Score('m', [float('nan')])")),
        *(3, "NaN", None, "FAILED", "workload_failed"),
    ),
    Bad(
        "workload returns nothing",
        lambda d: model(null(d), "--workload", workload(d, SCORE + "pass")),
        *(3, "NoneType", None, "FAILED", "workload_failed"),
    ),
    Bad(
        "workload feeds a wrong shape",
        lambda d: model(null(d), "--workload", workload(d, SCORE + "predict(np.ones((2, 2)))")),
        *(3, "[1, 4]", None, "FAILED", "workload_failed"),
    ),
]


@pytest.mark.parametrize("bad", BEFORE, ids=lambda bad: bad.name)
def test_found_before_anything_runs(bad: Bad, bench: Bench) -> None:
    """Exit code 2, the first line of stderr names it, and the agent was never started."""
    ended = bench(*bad.make(bench.home))
    first = ended.stderr.splitlines()[0]
    assert (ended.code, ended.stdout) == (bad.code, "")
    assert first.startswith("Error: ")
    assert bad.names in first
    assert not (bench.home / "xdg_cache_home" / "pocketbench" / "agent").exists()


@pytest.mark.parametrize("bad", DURING, ids=lambda bad: bad.name)
def test_found_by_the_device(bad: Bad, bench: Bench) -> None:
    """The case ends with status, stage and reason; the case beside it is measured all the same."""
    beside = bench.home / "beside.null"
    beside.write_text("{}")
    arguments = bad.make(bench.home)
    private = any(option in arguments for option in ("--inputs", "--shape", "--signature", "--workload", "--cpus"))
    if not private and "--delegate" not in arguments:
        arguments += ["--model", beside]
    ended = bench(*arguments, *QUICK, "--format", "json")
    assert ended.code == bad.code, ended.stderr
    assert bad.names in ended.stderr.splitlines()[0]
    result = ended.results[0]
    assert (result["status"], result["stage"]) == (bad.status, bad.stage)
    assert bad.reason in [reason["code"] for reason in result["reasons"]]
    if len(ended.results) > 1:
        assert ended.results[1]["status"] == "OK"


def test_truncations_never_take_the_agent_down(bench: Bench) -> None:
    """Forty truncations of each format in one run: each is its own case, and the whole model beside them is OK."""
    arguments: list[object] = ["--device", "local", "--model", DIGITS / "digits-int8.tflite"]
    for name in ("digits-int8.tflite", "digits-int8.onnx"):
        for step in range(1, 21):
            cut = written(bench.home, f"cut{step}-{name}", part(name, step / 21))
            arguments += ["--model", cut]
    ended = bench(*arguments, *QUICK, "--max-time", "0.05", "--format", "json")
    statuses = [result["status"] for result in ended.results]
    assert ended.code == 3
    assert statuses[0] == "OK"
    assert set(statuses[1:]) <= {"FAILED", "CRASHED"}


def test_output_that_cannot_be_written(bench: Bench) -> None:
    """A file without write rights is found before anything runs."""
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    path = written(bench.home, "out.txt", b"")
    path.chmod(0o444)
    assert bench(*model(null(bench.home)), "--output", path).code == 2


def test_hostile_names_are_labels(bench: Bench) -> None:
    """Spaces, dashes, unicode, newlines and escapes in a file name end up neither in a shell nor in a table."""
    for name in ("-rf.null", "a b.null", "übung.null", "x\ny.null", "\x1b[31mred.null", "$(touch pwned).null"):
        path = written(bench.home, name, b"{}")
        ended = bench("--device", "local", f"--model={path}", *QUICK)
        assert ended.code == 0, ended.stderr
        assert "\x1b" not in ended.stdout
        assert len([line for line in ended.stdout.splitlines() if " OK " in line]) == 1
    assert not (bench.home / "pwned").exists()
    assert ROOT.exists()
