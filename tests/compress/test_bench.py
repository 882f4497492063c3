"""The whole story through the command line: compress, run, score, compare, and say who wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compress.workloads import BARS
from tests.integration.conftest import Bench

QUICK = ("--device", "local", "--processes", "2", "--min-runs", "20", "--min-time", "0.05", "--cooldown", "0")
SCORE = """
def score(predict):
    from pocketbench.workload import Score
    inputs, labels = bars(200, 3)
    found = [predict(inputs[at : at + 1].numpy())[0].argmax() for at in range(200)]
    return Score("top-1", [float(one == label) for one, label in zip(found, labels.tolist())])
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """With time for torch to be imported."""
    return Bench(tmp_path, timeout_s=400)


@pytest.fixture
def workload(bench: Bench) -> Path:
    """Bars, with a score."""
    path = bench.home / "bars.py"
    path.write_text(BARS.replace("def score(predict):\n    raise NotImplementedError\n", SCORE))
    return path


def test_from_a_network_to_a_table(bench: Bench, workload: Path) -> None:
    """The original is measured though nobody asked for it; a format without a way is said and does not fail the run."""
    recipes = ("--recipe", "int8-static", "--recipe", "prune:0.5+int8-weight")
    ended = bench("--workload", workload, *recipes, "--goal", "accuracy>=-5pt", *QUICK, "--format", "json")
    assert ended.code == 0, ended.stderr
    rows = {(r["model"]["recipe"], r["model"]["format"]): r for r in ended.results}
    assert set(rows) == {
        *(("fp32", form) for form in ("onnx", "tflite")),
        *(("int8-static", form) for form in ("onnx", "tflite")),
        ("prune:0.5+int8-weight", "tflite"),
    }
    for (recipe, form), row in rows.items():
        assert row["status"] == "OK"
        accuracy = row["accuracy"]
        if recipe == "fp32":
            assert accuracy["difference"] is None
            continue
        original = rows["fp32", form]
        assert row["model"]["bytes"] < original["model"]["bytes"]
        assert accuracy["reference"] == original["accuracy"]["value"] > 0.9
        assert accuracy["difference"] == pytest.approx(accuracy["value"] - accuracy["reference"])
        lo, hi = accuracy["difference_ci95"]
        assert lo <= accuracy["difference"] <= hi and lo < hi
    assert "prune:0.5+int8-weight for onnx: not made: int8-weight has no way to onnx" in ended.stderr
    assert "prune:0.5+int8-weight for tflite: 5" in ended.stderr, "the share of multiplications that is gone"
    won = next(line for line in ended.stderr.splitlines() if line.startswith("goal accuracy>=-5pt on local: bars-"))
    assert Path(won.rpartition(": ")[2]).is_file()
    again = bench("--workload", workload, *recipes, *QUICK, "--resume")
    assert again.code == 2 and "no unfinished run" in again.stderr
    assert "bars: int8-static for onnx: taken from the cache\n" in again.stderr
    assert "bars: int8-static for onnx\n" not in again.stderr, "kept stages are not made again"


def test_a_goal_that_none_meets_and_recipes_that_come_to_nothing(bench: Bench, workload: Path) -> None:
    base = ("--workload", workload, "--to", "onnx", *QUICK)
    missed = bench(*base, "--recipe", "fp32", "--goal", "size<=0.001MB")
    assert missed.code == 1
    assert "none meets it; bars-fp32 (onnxruntime) comes nearest and misses size<=0.001MB (0.0" in missed.stdout
    nothing = bench(*base, "--recipe", "int8-dynamic")
    assert nothing.code == 3
    assert "int8-dynamic: not made: int8-dynamic: ONNX Runtime quantizes the weights" in nothing.stdout


def test_what_was_learnt_from_is_not_scored(bench: Bench, workload: Path) -> None:
    workload.write_text(workload.read_text().replace("bars(200, 3)", "bars(32, 1)").replace("range(200)", "range(32)"))
    ended = bench("--workload", workload, "--recipe", "int8-static", "--to", "onnx", *QUICK, "--format", "json")
    assert ended.code == 3
    for row in ended.results:
        (reason,) = row["reasons"]
        assert reason["code"] == "workload_failed"
        assert "32 of the 32 items that score() gives" in reason["message"]
        assert "calibration_batches()" in reason["message"]


def test_what_cannot_be_asked(bench: Bench, workload: Path) -> None:
    for arguments, told in (
        (("--recipe", "int8-static"), "--recipe needs --workload FILE"),
        (
            ("--workload", workload, "--recipe", "int8-statik"),
            "(did you mean 'int8-static'?)",
        ),
        (("--model", "x.onnx", "--to", "onnx"), "--to says in which formats recipes are made"),
        (("--workload", workload, "--recipe", "fp16", "--goal", "p50<16"), "'p50<16' is no bound"),
        (("--workload", workload, "--recipe", "fp16", "--runtime", "null"), "reads none of onnx, tflite"),
    ):
        ended = bench(*QUICK, *arguments)
        assert ended.code == 2 and told in ended.stderr, ended.stderr


@pytest.mark.timeout(600)
def test_a_search_tries_and_measures_what_is_worth_it(bench: Bench, workload: Path) -> None:
    """Its waves are short looks; what it prints was measured together, with the plan that was asked for."""
    log = bench.home / "scored.log"
    workload.write_text(
        workload.read_text().replace("    return Score(", f"    open({str(log)!r}, 'a').write('.')\n    return Score(")
    )
    base = ("--workload", workload, "--to", "tflite", *QUICK)
    ended = bench(*base, "--search", "1", "--goal", "accuracy>=-5pt", "--format", "json")
    assert ended.code == 0, ended.stderr
    waves = [line for line in ended.stderr.splitlines() if line.startswith("search: ") and " left)" in line]
    assert "int8-static, int8-dynamic" in waves[0]
    assert "taken from the cache" not in ended.stderr, "what this search has made itself is no news"
    tried = next(line for line in ended.stderr.splitlines() if "nothing beats" in line)
    rows = {row["model"]["recipe"]: row for row in ended.results}
    assert "fp32" in rows and len(rows) >= 2
    assert int(tried.partition(" of ")[2].split()[0]) + 1 == len(log.read_text()), (
        "each is scored once, the original too"
    )
    assert set(tried.rpartition("nothing beats ")[2].split(", ")) == set(rows) - {"fp32"}
    assert len({row["plan"]["run_id"] for row in rows.values()}) == 1
    assert "goal accuracy>=-5pt on local: bars-" in ended.stderr
    short = bench(*base, "--search", "0.001", "--format", "json")
    assert short.code == 0 and "int8-qat: there was no time left for it" in short.stderr, short.stderr


def test_a_search_chooses_the_recipes(bench: Bench, workload: Path) -> None:
    refused = bench("--workload", workload, "--search", "5", "--recipe", "fp16", *QUICK)
    assert refused.code == 2 and "--search chooses the recipes" in refused.stderr
    alone = bench("--search", "5", *QUICK)
    assert alone.code == 2 and "--search needs --workload" in alone.stderr
