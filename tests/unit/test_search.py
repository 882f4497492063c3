"""What a search tries next, and what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pocketbench.compress.search import ON_FILE, Search
from pocketbench.figures import goal
from pocketbench.results import Result, Runtime
from tests.unit import facts
from tests.unit.test_findings import FP32, variant

TRAINS = ("model", "calibration_batches", "train_batches", "loss")
# Time, size, accuracy and its change by recipe; the original takes 10 ms and 4 MB.
Told = Mapping[str, tuple[float, int, float]]
FILES: Told = {
    "int8-static": (2.5, 1_000_000, 0.0),
    "int8-dynamic": (20.0, 1_000_000, 0.0),
    "int8-weight": (10.1, 1_010_000, -0.001),
    "fp16": (10.0, 2_000_000, 0.001),
    "int4-weight": (40.0, 500_000, -0.3),
}


def learnt(search: Search, wave: Sequence[str], told: Told) -> None:
    """A wave in which each recipe gave that, give or take half a point."""
    rows = [
        variant(recipe, time, size, 0.9 + change, (change, (change - 0.005, change + 0.005)))
        for recipe, (time, size, change) in told.items()
        if recipe in wave
    ]
    search.learn(wave, [FP32, *rows], {row.id: "fp32" for row in rows})


def test_cheap_ones_first_then_networks_one_by_one_with_what_follows() -> None:
    search = Search(TRAINS)
    first = search.wave()
    assert first == ON_FILE
    learnt(search, first, FILES)
    assert search.dropped == {"int4-weight": "loses too much accuracy"}
    assert search.wave() == ("prune:0.3",)
    learnt(search, ("prune:0.3",), {"prune:0.3": (7.0, 2_800_000, -0.002)})
    follow = search.wave()
    assert follow[0] == "prune:0.3+int8-static" and "prune:0.3+int4-weight" not in follow
    learnt(search, follow, {"prune:0.3+int8-static": (1.8, 700_000, -0.004)})
    # What could not be made is said, and the rest goes on.
    assert search.dropped["prune:0.3+fp16"] == "no row of it is OK"
    assert search.wave() == ("int8-qat",)
    learnt(search, ("int8-qat",), {"int8-qat": (2.4, 1_000_000, -0.05)})
    assert search.wave() == ("prune:0.5",)
    learnt(search, ("prune:0.5",), {"prune:0.5": (5.0, 2_000_000, -0.2)})
    assert search.wave() == (), "nothing follows what has lost too much"
    assert search.best() == ("int8-static", "fp16", "prune:0.3+int8-static")


def test_a_branch_that_cannot_get_better_is_not_tried() -> None:
    search = Search(TRAINS)
    learnt(search, search.wave(), {**FILES, "int8-static": (1.0, 200_000, 0.0)})
    search.wave()
    # Not smaller after all: with int8-static on top it is foreseen at 1.0 ms and 0.2 MB, and less accurate.
    learnt(search, ("prune:0.3",), {"prune:0.3": (10.0, 4_000_000, -0.03)})
    assert search.dropped["prune:0.3+int8-static"] == "could not be better than what there is"
    assert "prune:0.3+int8-static" not in search.wave()


def test_a_goal_says_how_much_may_be_lost() -> None:
    strict = Search(TRAINS, goal.parse("accuracy>=-1pt"))
    loose = Search(TRAINS, goal.parse("accuracy>=0.5"))
    for search, dropped in ((strict, {"int4-weight", "int8-static"}), (loose, set())):
        learnt(search, search.wave(), {**FILES, "int8-static": (2.5, 1_000_000, -0.02)})
        assert set(search.dropped) == dropped


def test_an_error_rate_is_lost_by_what_it_gains() -> None:
    def errs(recipe: str, rate: float) -> Result:
        made = variant(recipe, 5.0, 1_000_000, rate, (rate - 0.05, (rate - 0.055, rate - 0.045)))
        assert made.accuracy is not None
        return replace(made, accuracy=replace(made.accuracy, higher_is_better=False))

    rows = [errs("int8-static", 0.07), errs("fp16", 0.04), errs("int8-weight", 0.3)]
    for text, dropped in (
        ("accuracy>=-1pt", {"int8-static", "int8-weight"}),
        ("accuracy>=0.08", {"int8-weight"}),
        ("p50<=9ms", {"int8-weight"}),
    ):
        search = Search(TRAINS, goal.parse(text))
        search.learn([row.id for row in rows], [FP32, *rows], {row.id: "fp32" for row in rows})
        assert set(search.dropped) == dropped, text


def test_rows_of_two_runtimes_are_compared_by_their_milliseconds() -> None:
    """LiteRT's is the smaller share of its original, and slower all the same."""
    other = Runtime("litert", "2.3.0", "as stored")
    fp32, onnx = variant("fp32", 0.43, 400_000, 0.9), variant("int8-static", 0.36 * 0.43, 100_000, 0.9, (0.0, None))
    original = replace(fp32, id="fp32 there", runtime=other, latency_ms=facts.timing(0.575))
    tflite = replace(variant("int8-dynamic", 0.30 * 0.575, 100_000, 0.9, (0.0, None)), runtime=other)
    search = Search(TRAINS)
    search.learn(
        ("int8-static", "int8-dynamic"),
        [fp32, onnx, original, tflite],
        {"int8-static": "fp32", "int8-dynamic": "fp32 there"},
    )
    assert search.best() == ("int8-static",)


def test_what_the_workload_cannot_do_is_not_tried() -> None:
    assert "int8-static" not in Search(("model",)).wave()
    untrained = Search(("model", "calibration_batches"))
    learnt(untrained, untrained.wave(), FILES)
    assert untrained.wave() == ("prune:0.1",)
    with_student = Search((*TRAINS, "student"))
    with_student.give_up(with_student.wave(), "there was no time left for it")
    assert [with_student.wave() for _ in range(4)] == [("prune:0.3",), ("int8-qat",), ("distill",), ()]
    assert with_student.best() == () and with_student.dropped["fp16"] == "there was no time left for it"
