"""The main job through the command line: tables, JSON, store, and lies that the verdict must catch."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.integration.conftest import DIGITS, QUICK, ROOT, SHARED, Bench

SCHEMA = json.loads((ROOT / "host" / "pocketbench" / "report" / "result.schema.json").read_text())
PROVENANCE = json.loads((DIGITS / "PROVENANCE.json").read_text())
MODELS = [
    argument
    for name in ("float.tflite", "int8.tflite", "float.onnx", "int8.onnx")
    for argument in ("--model", DIGITS / f"digits-{name}")
]


def codes(result: dict[str, Any], *severities: str) -> set[str]:
    """The reasons of a result, without the machine's own noise, which is true but not the test's matter."""
    noise = {"background_load", "unstable", "warm_up_not_steady", "drift"}
    found = {r["code"] for r in result["reasons"] if not severities or r["severity"] in severities}
    return found - noise


def test_the_digits_through_the_whole_path(bench: Bench) -> None:
    """Four files, real digits: JSON by its schema, every key there, accuracy as the provenance has it."""
    ended = bench(
        *("--device", "local", *MODELS, "--workload", ROOT / "examples" / "digits.py", "--label", "night=7"),
        *("--processes", "2", "--min-time", "0.1", "--cooldown", "0", "--format", "json"),
    )
    assert ended.code == 0, ended.stderr
    jsonschema.validate(ended.doc, SCHEMA)
    assert [r["status"] for r in ended.results] == ["OK"] * 4
    for result in ended.results:
        name = f"{result['model']['name']}.{result['model']['format']}"
        recorded = PROVENANCE["files"][name]
        assert result["model"]["sha256"] == recorded["sha256"]
        assert result["accuracy"]["value"] == pytest.approx(recorded["test_accuracy"], abs=5e-4)
        assert result["accuracy"]["n"] == 3000
        lo, hi = result["accuracy"]["ci95"]
        assert lo < result["accuracy"]["value"] < hi
        latency = result["latency_ms"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["max"]
        assert latency["ci95"][0] < latency["p50"] < latency["ci95"][1]
        assert latency["n"] == sum(map(len, result["samples_ns"])) >= 240
        assert latency["processes"] == 2
        memory = result["memory_mb"]
        assert 0 < memory["start"] <= memory["runtime"] <= memory["loaded"] <= memory["peak"]
        assert 0 < result["cpu_per_wall"] < 1.5
        assert [f["max_abs"] for f in result["fidelity"]] == [0.0]
        assert result["labels"] == {"night": "7"}
        assert not codes(result, "invalid", "warn")
        assert "inputs_random" not in codes(result), "the workload's own items feed the timed runs"
    ints = ended.results[1]["model"]["inputs"][0]
    assert (ints["dtype"], ints["quantization"]["zero_point"]) == ("int8", [-128])


def test_whole_frames_are_timed_where_the_workload_has_a_device_pipeline(bench: Bench) -> None:
    """Pre- and post-processing run on the device, around the inference, and never enter its latency."""
    workload = bench.home / "w.py"
    workload.write_text(
        "import numpy as np\nfrom pathlib import Path\nfrom pocketbench.workload import Score\n"
        "def score(predict):\n    predict(np.ones(predict.inputs[0].shape))\n    return Score('m', [1.0])\n"
        "def device_pipeline():\n"
        "    return Path(__file__).with_name('pipe.py'), [np.full(3, 7, np.uint8), np.full(3, 9, np.uint8)]\n"
    )
    (bench.home / "pipe.py").write_text(
        "import time\nimport numpy as np\n"
        "def pre(item, inputs):\n    time.sleep(0.004)\n    assert item.dtype == np.uint8\n"
        "    return np.full(inputs[0].shape, item[0])\n"
        "def post(outputs):\n    time.sleep(0.003)\n"
    )
    case = ("--device", "local", "--model", bench.null(sleep_ms=2), "--workload", workload, *QUICK)
    result = bench(*case, "--format", "json").results[0]
    frame = result["frame_ms"]
    assert result["status"] == "OK" and 2 <= result["latency_ms"]["p50"] < 4
    assert 7 <= frame["around"] < frame["p50"] - 1.9
    assert frame["per_s"] == pytest.approx(1000 / frame["p50"])
    assert "frames/s" in bench(*case).stdout
    (bench.home / "pipe.py").write_text("def pre(item, inputs):\n    raise KeyError('x')\ndef post(outputs): pass\n")
    failed = bench(*case, "--format", "json").results[0]
    assert (failed["status"], failed["stage"]) == ("FAILED", "frames")
    assert "pre() raised KeyError: 'x'" in failed["reasons"][0]["message"]
    workload.write_text(workload.read_text().replace("[np.full", "1 / 0, [np.full"))
    refused = bench(*case)
    assert refused.code == 2 and "w.py: device_pipeline() raised ZeroDivisionError" in refused.stderr


def test_every_format_says_the_same(bench: Bench) -> None:
    """Table, Markdown and CSV of one model; a file gets what stdout would."""
    case = ("--device", "local", "--model", bench.null(sleep_ms=2), *QUICK)
    table = bench(*case).stdout
    assert re.search(r"model +null 1 +1 +0.00 .* OK ", table)
    assert "notes: " in table
    markdown = bench(*case, "--format", "markdown").stdout
    assert re.search(r"\| model +\| null 1 +\| +1 \|", markdown)
    path = bench.home / "out.csv"
    written = bench(*case, "--format", "csv", "--output", path)
    assert written.stdout == ""
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) == 1
    assert 2 <= float(rows[0]["p50_ms"]) < 4
    assert rows[0]["accuracy"] == "", "unavailable is empty, never 0"


def test_output_is_written_when_a_case_fails(bench: Bench) -> None:
    """On every exit code but 2."""
    path = bench.home / "out.json"
    bad = bench.null(fail={"stage": "load"})
    assert bench("--device", "local", "--model", bad, *QUICK, "--format", "json", "--output", path).code == 3
    result = json.loads(path.read_text())["results"][0]
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert (result["status"], result["stage"], result["latency_ms"]) == ("FAILED", "load", None)


LIES: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "unsynchronised": ({"sleep_ms": 0.1, "read_ms": 5}, (), "INVALID"),
    "output_nan": ({"output": "nan"}, (), "INVALID"),
    "output_mismatch": ({"output": "noise"}, (), "INVALID"),
    "too_few_samples": ({"sleep_ms": 60}, ("--max-time", "0.2"), "INVALID"),
    "output_constant": ({"output": "constant"}, (), "OK"),
    "unstable": ({"sleep_ms": 3, "factors": [1, 1.4, 1, 1.4]}, ("--processes", "4"), "OK"),
    "drift": ({"sleep_ms": 3, "factors": [1, 1.1, 1.2, 1.3, 1.4]}, ("--processes", "5"), "OK"),
}


@pytest.mark.parametrize("code", LIES)
def test_a_planted_lie_is_caught(code: str, bench: Bench) -> None:
    """A model that misbehaves in one way gets that reason, and an invalid one is not OK."""
    told, more, status = LIES[code]
    ended = bench("--device", "local", "--model", bench.null(**told), *QUICK, *more, "--format", "json")
    result = ended.results[0]
    assert code in {reason["code"] for reason in result["reasons"]}
    assert result["status"] == status
    assert ended.code == (0 if status == "OK" else 3)


def test_fail_on_turns_a_reason_into_exit_code_1(bench: Bench) -> None:
    """And names the row."""
    case = ("--device", "local", "--model", bench.null(output="constant"), *QUICK)
    assert bench(*case).code == 0
    strict = bench(*case, "--fail-on", "output_constant")
    assert strict.code == 1
    assert "--fail-on output_constant: model (null, 1 thread)" in strict.stderr


def test_full_delegation_is_required_of_accelerators_only(bench: Bench) -> None:
    """The CPU needs no delegation; a delegate that is not here fails the check."""
    case = ("--device", "local", "--model", bench.null(), *QUICK, "--require-full-delegation")
    assert bench(*case).code == 0
    assert bench(*case, "--delegate", "gpu").code == 1


def test_a_provider_that_takes_no_node_is_a_fallback(bench: Bench) -> None:
    """Installed, accepted by the runtime without a word, and everything ran on the CPU."""
    model = DIGITS / "digits-float.onnx"
    ended = bench("--device", "local", "--model", model, "--delegate", "azure", *QUICK, "--format", "json")
    result = ended.results[0]
    assert (result["status"], ended.code) == ("FALLBACK", 3)
    assert result["delegate"]["nodes_delegated"] == 0
    assert result["delegate"]["coverage"] == "none"
    assert result["delegate"]["nodes"] > 0


def test_shapes_inputs_and_threads(bench: Bench) -> None:
    """Open dimensions closed by --shape, real inputs from an .npz, two thread counts."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = bench.home / "dynamic.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    np.savez(bench.home / "in.npz", x=np.ones((3, 4), np.float32))
    ended = bench(
        *("--device", "local", "--model", path, "--shape", "x=3x4", "--inputs", bench.home / "in.npz"),
        *("--threads", "1", "--threads", "2", *QUICK, "--format", "json"),
    )
    assert ended.code == 0, ended.stderr
    assert [r["threads"] for r in ended.results] == [1, 2]
    assert ended.results[0]["model"]["inputs"][0]["shape"] == [3, 4]
    assert "inputs_random" not in codes(ended.results[0])


DTYPES = ["float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "int32", "int64", "uint32", "bool"]


def test_inputs_of_every_dtype(bench: Bench) -> None:
    """Seeded inputs fit whatever the file declares."""
    import numpy as np
    import onnx
    from onnx import helper

    arguments: list[object] = []
    for dtype in DTYPES:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        x, y = (helper.make_tensor_value_info(name, kind, [2, 3]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
        path = bench.home / f"{dtype}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
        arguments += ["--model", path]
    ended = bench("--device", "local", *arguments, *QUICK, "--format", "json")
    assert {r["model"]["name"]: r["model"]["inputs"][0]["dtype"] for r in ended.results} == {d: d for d in DTYPES}
    assert {r["status"] for r in ended.results} == {"OK"}


def test_external_data_travels_with_its_model(bench: Bench) -> None:
    """Model and weights in two files: both are pushed, and the size is of both."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [4096], np.ones(4096, np.float32).tobytes(), raw=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4096]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    path = bench.home / "ext.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    ended = bench("--device", "local", "--model", path, *QUICK, "--format", "json")
    assert ended.code == 0, ended.stderr
    assert ended.results[0]["model"]["bytes"] == path.stat().st_size + 4 * 4096


def onnx_with_weights(folder: Path, weights: str, value: float) -> Path:
    """An ONNX file whose weights lie in another file of that name."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir()
    data = np.full(1024, value, np.float32)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1024], data.tobytes(), raw=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{folder.name}.onnx"
    onnx.save(made, str(path), save_as_external_data=True, location=weights, size_threshold=0)
    return path


def test_models_that_differ_in_their_weights_only(bench: Bench) -> None:
    """Equal graphs, other weights in another file: each has its own accuracy and reference."""
    ones = onnx_with_weights(bench.home / "ones", "w.bin", 1.0)
    half = onnx_with_weights(bench.home / "half", "w.bin", 0.5)
    workload = bench.home / "w.py"
    workload.write_text(
        "import numpy as np\nfrom pocketbench.workload import Score\n"
        "def score(predict):\n    print('to stderr')\n"
        "    return Score('m', [float(predict(np.ones(1024))[0].mean())])\n"
    )
    ended = bench(
        *("--device", "local", "--model", ones, "--model", half, "--workload", workload, *QUICK, "--format", "json")
    )
    assert [r["accuracy"]["value"] for r in ended.results] == [1.0, 0.5]
    assert [r["status"] for r in ended.results] == ["OK", "OK"]
    assert "to stderr" in ended.stderr


def test_a_model_cannot_bring_code(bench: Bench) -> None:
    """External data called numpy.py is data: neither the worker nor the agent imports it."""
    model = onnx_with_weights(bench.home / "evil", "numpy.py", 1.0)
    marker = bench.home / "pwned"
    (model.parent / "numpy.py").write_bytes(
        f"open({str(marker)!r}, 'w')\nraise SystemExit\n#".encode().ljust(4096, b"#")
    )
    (bench.home / "logging.py").write_text(f"open({str(marker)!r}, 'w')\n")
    import subprocess
    import sys

    # Not `python -m`, which would look into the working directory itself.
    program = "from pocketbench.cli.main import main; main()"
    arguments = ["--device", "local", "--model", str(model), *QUICK, "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        capture_output=True, text=True, cwd=bench.home, env=bench.env(), timeout=120, check=False,
    )  # fmt: skip
    assert not marker.exists()
    assert json.loads(done.stdout)["results"][0]["status"] in ("OK", "INVALID")


def test_a_model_that_fails_under_a_workload_fails_as_without(bench: Bench) -> None:
    """Status, stage and reason are the model's, not the workload's."""
    workload = bench.home / "w.py"
    workload.write_text(
        "import numpy as np\nfrom pocketbench.workload import Score\n"
        "def score(predict):\n    return Score('m', [predict(np.ones((1, 4)))[0].mean() for _ in range(9)])\n"
    )
    cut = bench.home / "cut.onnx"
    cut.write_bytes((DIGITS / "digits-float.onnx").read_bytes()[:9999])
    segv = bench.null("segv", fail={"stage": "run", "how": 11, "after": 2})
    for arguments, status, stage, code in (
        (("--model", cut), "FAILED", "load", "load_failed"),
        (("--model", segv), "CRASHED", "score", "worker_died"),
        (("--model", bench.null(), "--delegate", "gpu"), "SKIPPED", "load", "not_available"),
    ):
        ended = bench("--device", "local", *arguments, "--workload", workload, *QUICK, "--format", "json")
        result = ended.results[0]
        assert (result["status"], result["stage"], result["reasons"][0]["code"]) == (status, stage, code)


def test_a_workload_that_calls_exit_is_a_failed_case(bench: Bench) -> None:
    """And not a success without a report."""
    workload = bench.home / "w.py"
    workload.write_text("import sys\ndef score(predict):\n    sys.exit(0)\n")
    case = ("--device", "local", "--model", bench.null(), "--workload", workload, *QUICK, "--format", "json")
    assert bench(*case).results[0]["reasons"][0]["code"] == "workload_failed"
    workload.write_text("import sys\nsys.exit(0)\n")
    assert bench(*case).code == 2


def test_a_reader_that_goes_away_is_no_failure(bench: Bench) -> None:
    """`bench … | true` keeps its exit code."""
    import subprocess

    command = bench.command("--device", "local", "--model", bench.null(), *QUICK, "--format", "json")
    piped = 'set -o pipefail; "$@" | true; exit ${PIPESTATUS[0]}'
    done = subprocess.run(
        ["bash", "-c", piped, "bash", *command],
        capture_output=True, text=True, cwd=bench.home, env=bench.env(), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_history_rerun_and_compare(bench: Bench) -> None:
    """What was measured is listed, measured again, and compared: paired within a run, widened between sessions."""
    fast, slow = bench.null("fast", sleep_ms=2), bench.null("slow", sleep_ms=3)
    plan = ("--processes", "3", "--min-time", "0.05", "--cooldown", "0")
    first = bench("--device", "local", "--model", fast, "--model", slow, *plan, "--format", "json")
    a, b = (result["id"] for result in first.results)
    listed = bench("history").stdout
    assert a in listed
    assert b in listed
    assert bench("history", "local", "fast").stdout.count("fast") == 1
    paired = bench("compare", a, b).stdout
    assert "B is slower" in paired
    assert "paired by the rounds of one run" in paired
    again = bench("rerun", first.doc["run_id"], "--format", "json")
    assert again.code == 0
    assert len(again.results) == 2
    assert [r["model"]["name"] for r in again.results] == ["fast", "slow"]
    between = bench("compare", a, again.results[0]["id"]).stdout
    assert "no difference shown" in between
    assert "between-session spread of 2.0%" in between
    assert "B is slower" in bench("compare", a, again.results[1]["id"]).stdout
    now = bench("compare", a, b, "--rerun")
    assert now.code == 0, now.stderr
    assert "B is slower" in now.stderr
    fast.write_text("{}")
    changed = bench("rerun", a)
    assert (changed.code, "sha256 differs" in changed.stderr) == (2, True)


def test_a_runtime_in_a_folder_of_its_own(bench: Bench) -> None:
    """tflite-runtime wants numpy < 2: it lives on the worker's path, and its quantized nodes stay off XNNPACK."""
    model = DIGITS / "digits-int8.tflite"
    ended = bench(
        *("--device", "local", "--model", model, "--runtime", "tflite-runtime", "--runtime", "litert"),
        *(*QUICK, "--format", "json"),
    )
    old, new = ended.results
    if "cannot be installed" in ended.stderr:
        pytest.skip(f"no package index here: {ended.stderr.splitlines()[0]}")
    assert (old["status"], new["status"]) == ("OK", "OK"), ended.stderr
    assert (old["runtime"]["name"], old["runtime"]["version"]) == ("tflite-runtime", "2.14.0")
    assert old["environment"]["numpy"].startswith("1.")
    assert new["environment"]["numpy"].startswith("2.")
    assert new["delegate"]["accelerated_by"] == "xnnpack"
    assert new["delegate"]["nodes_delegated"] > old["delegate"]["nodes_delegated"]


def test_help_is_as_documented(bench: Bench) -> None:
    """The whole help text; a changed option is a changed contract."""
    golden = Path(__file__).with_name("help.txt")
    assert bench("--help", COLUMNS="100").stdout == golden.read_text()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real models are not here")
def test_real_models(bench: Bench) -> None:
    """MobileNet and YOLOv5n in two runtimes, one and two threads: all OK."""
    models = ("tflite/mobilenet_v1_0.25_128_quant.tflite", "tflite/yolov5n-int8.tflite", "onnx/yolov5n-fp16.onnx")
    arguments = [argument for name in models for argument in ("--model", SHARED / name)]
    threads = ("--threads", "1", "--threads", "2")
    plan = ("--processes", "1", "--min-runs", "10", "--min-time", "0.1", "--max-time", "2", "--cooldown", "0")
    ended = bench("--device", "local", *arguments, *threads, *plan, "--format", "json")
    assert ended.code == 0, ended.stderr
    assert [r["status"] for r in ended.results] == ["OK"] * 6
    inputs = ended.results[2]["model"]["inputs"][0]
    assert (inputs["dtype"], inputs["shape"]) == ("uint8", [1, 640, 640, 3])


def test_an_unreachable_device_harms_no_other(bench: Bench) -> None:
    """Nobody listens there: its cases are SKIPPED with what to do, the local ones are measured."""
    (bench.home / "devices.yaml").write_text(
        "devices:\n  gone: {transport: ssh, host: 127.0.0.1, port: 1}\n"
        "  phone: {transport: adb, address: '127.0.0.1:1'}\n"
    )
    ended = bench(
        *("--device", "gone", "--device", "phone", "--device", "local", "--model", bench.null()),
        *(*QUICK, "--format", "json"),
    )
    assert ended.code == 3
    assert [r["status"] for r in ended.results] == ["SKIPPED", "SKIPPED", "OK"]
    assert {r["reasons"][0]["code"] for r in ended.results[:2]} == {"not_available"}


def test_debug_keeps_the_jobs(bench: Bench) -> None:
    """With their events and files, until a week later; otherwise nothing stays."""
    jobs = bench.home / "xdg_cache_home" / "pocketbench" / "agent" / "jobs"
    model = bench.null(sleep_ms=1)
    assert bench("--device", "local", "--model", model, *QUICK).code == 0
    assert not list(jobs.iterdir())
    done = bench("--device", "local", "--model", model, *QUICK, "--debug")
    assert done.code == 0
    (job,) = [path for path in jobs.iterdir() if path.name.endswith(".0.1")]
    assert f"in home/jobs/{job.name.partition('.')[0]}.*" in done.stderr
    assert (job / "events").stat().st_size > 1000


def test_a_profile_by_op(bench: Bench) -> None:
    """ONNX Runtime tells where the time goes, in a session of its own; LiteRT does not, and has none."""
    models = ("--model", DIGITS / "digits-float.onnx", "--model", DIGITS / "digits-float.tflite")
    case = ("--device", "local", *models)
    ended = bench(*case, *QUICK, "--profile", "--format", "json")
    jsonschema.validate(ended.doc, SCHEMA)
    onnx, tflite = ended.results
    assert (onnx["status"], tflite["status"], tflite["profile"]) == ("OK", "OK", None)
    ops = {op["op"]: op for op in onnx["profile"]}
    # Which convolution it is depends on the processor.
    assert sum(op["nodes"] for name, op in ops.items() if "Conv" in name) == 6
    assert {op["runs_on"] for op in ops.values()} == {"CPU"}
    assert sum(op["share"] for op in ops.values()) == pytest.approx(1)
    # The parts are no more than the whole, profiling's own cost aside.
    assert sum(op["ms"] for op in ops.values()) < 5 * onnx["latency_ms"]["p50"]
    assert [op["ms"] for op in onnx["profile"]] == sorted((op["ms"] for op in onnx["profile"]), reverse=True)
    table = bench(*case, *QUICK, "--profile").stdout
    assert "where the time of an inference goes" in table
    assert re.search(r"Conv +CPU +6 ", table)
