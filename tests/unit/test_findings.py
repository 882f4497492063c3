"""What a comparison says in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pocketbench.figures import goal
from pocketbench.report import causes
from pocketbench.report.findings import findings, goal_lines, pareto
from pocketbench.results import Accuracy, Delegate, Model, OpShare, Result
from tests.unit import facts
from tests.unit.facts import MS


def variant(recipe: str, p50: float, size: int, accuracy: float, change: Any = None, **more: Any) -> Result:
    """Four processes about that p50, milliseconds; `change` is the difference with its interval."""
    difference, interval = change or (None, None)
    reference = None if difference is None else accuracy - difference
    model = Model(f"net-{recipe}", recipe.ljust(64, "0"), size, "onnx", recipe, None, None)
    made = facts.result(
        id=recipe,
        model=model,
        latency_ms=facts.timing(p50),
        samples_ns=tuple((round(p50 * MS * level),) * 9 for level in (1.0, 1.01, 0.99, 1.0)),
        accuracy=Accuracy("top-1", accuracy, None, 100, reference, difference, interval, True, {}),
    )
    return replace(made, **more)


FP32 = variant("fp32", 10.0, 4_000_000, 0.90)
INT8 = variant("int8-static", 5.0, 1_000_000, 0.895, (-0.005, (-0.016, 0.006)))
DYNAMIC = variant("int8-dynamic", 23.0, 1_000_000, 0.88, (-0.02, (-0.03, -0.01)))


def test_each_variant_in_one_sentence() -> None:
    told = findings([FP32, INT8, DYNAMIC], {"int8-static": "fp32", "int8-dynamic": "fp32"})
    assert told == [
        "net-int8-static (onnxruntime): 4.0x smaller, 2.00x faster, "
        "top-1 -0.50 [-1.60, +0.60] points: cannot tell from 0",
        "net-int8-dynamic (onnxruntime): 4.0x smaller, 2.30x slower, top-1 -2.00 [-3.00, -1.00] points; "
        "net-int8-static (onnxruntime) is as good or better in all of it",
    ]


def test_why_a_variant_is_slower_is_what_the_device_told() -> None:
    ran = Delegate("cpu", "cpu", "xnnpack", nodes=66, nodes_delegated=66, partitions=1, on_cpu={})
    left = replace(ran, nodes_delegated=49, partitions=18, on_cpu={"SOFTMAX": 1, "DEPTHWISE_CONV_2D": 17, "PAD": 2})
    fast, slow = replace(FP32, delegate=ran), replace(DYNAMIC, delegate=left)
    assert causes.slower(fast, slow) == " (xnnpack does not take 17 DEPTHWISE_CONV_2D and 2 PAD)"
    (told,) = findings([fast, slow], {"int8-dynamic": "fp32"})
    assert "2.30x slower (xnnpack does not take 17 DEPTHWISE_CONV_2D and 2 PAD), top-1" in told
    # As the original has them, or not known, or by other kernels: no cause.
    assert causes.slower(slow, slow) == causes.slower(fast, replace(slow, delegate=ran)) == ""
    assert causes.slower(FP32, slow) == causes.slower(fast, DYNAMIC) == ""


def test_why_a_variant_is_slower_is_what_its_profile_shows() -> None:
    before = replace(FP32, profile=[OpShare("Conv", "CPU", 52, 4.0, 0.9), OpShare("Clip", "CPU", 35, 0.4, 0.1)])
    after = replace(
        DYNAMIC,
        profile=[
            OpShare("Conv", "CPU", 40, 4.0, 0.4),
            OpShare("Conv", "CUDA", 12, 1.0, 0.1),
            OpShare("Cast", "CPU", 104, 3.0, 0.5),
            OpShare("Clip", "CPU", 35, 0.5, 0.1),
        ],
    )
    assert causes.slower(before, after) == " (profiled: Cast nothing -> 3.00 ms)"
    assert causes.slower(before, replace(after, profile=after.profile[:2])) == " (profiled: Conv 4.00 -> 5.00 ms)"  # type: ignore[index]
    assert causes.slower(FP32, after) == causes.slower(before, DYNAMIC) == causes.slower(before, before) == ""


def test_what_lost_most_of_its_accuracy_is_no_choice_however_small() -> None:
    ruined = variant("int4-weight", 40.0, 500_000, 0.05, (-0.85, (-0.9, -0.8)))
    half = variant("prune", 1.0, 500_000, 0.46, (-0.44, (-0.5, -0.4)))
    assert pareto([FP32, INT8, ruined]) == {"fp32", "int8-static"}
    assert pareto([FP32, INT8, half]) == {"fp32", "int8-static", "prune"}
    (told,) = findings([FP32, ruined], {"int4-weight": "fp32"})
    assert told.endswith("top-1 -85.00 [-90.00, -80.00] points: most of it is lost")


def test_what_did_not_run_well_is_not_praised() -> None:
    spoilt = replace(INT8, status="INVALID")
    assert findings([FP32, spoilt], {"int8-static": "fp32"}) == []
    assert findings([spoilt], {"int8-static": "gone"}) == []


def test_only_what_nothing_beats_is_marked() -> None:
    assert pareto([FP32, INT8, DYNAMIC]) == {"fp32", "int8-static"}
    # Faster but invalid; as good but on another device.
    assert pareto([FP32, INT8, replace(DYNAMIC, id="x", status="INVALID")]) == {"fp32", "int8-static"}
    assert pareto([FP32, INT8, replace(DYNAMIC, id="x", device="phone")]) == {"fp32", "int8-static", "x"}
    # Equal rows do not beat each other; without accuracy, time and size decide.
    assert pareto([INT8, replace(INT8, id="twin")]) == {"int8-static", "twin"}
    assert pareto([replace(FP32, accuracy=None), INT8]) == {"int8-static"}
    # A phone that was not scored says nothing of what was scored here.
    unscored = replace(DYNAMIC, id="x", device="phone", accuracy=None)
    assert pareto([FP32, INT8, unscored]) == {"fp32", "int8-static", "x"}


def test_a_goal_names_the_file_that_wins_or_what_is_missing() -> None:
    terms = goal.parse("accuracy>=-1pt,p50<=8ms")
    won = goal_lines(goal.judge(terms, [FP32, INT8]), "accuracy>=-1pt,p50<=8ms", {INT8.model.sha256: "a/net.onnx"})
    # By its value it holds; with its interval it may be a point and a half.
    assert won == [
        "goal accuracy>=-1pt,p50<=8ms on pi5: net-int8-static (onnxruntime) wins, though accuracy>=-1pt is not certain "
        "(-1.60 to +0.60pt): a/net.onnx"
    ]
    clear = goal_lines(goal.judge(goal.parse("accuracy>=-2pt"), [FP32, INT8]), "accuracy>=-2pt", {})
    assert clear == ["goal accuracy>=-2pt on pi5: net-int8-static (onnxruntime) wins"]
    terms = goal.parse("accuracy>=-1pt,p50<=4ms")
    lost = goal_lines(goal.judge(terms, [FP32, INT8]), "accuracy>=-1pt,p50<=4ms", {})
    assert lost == [
        "goal accuracy>=-1pt,p50<=4ms on pi5: none meets it; net-int8-static (onnxruntime) comes nearest and misses "
        "p50<=4ms (5.00 ms)"
    ]


def test_a_change_is_told_as_the_goal_counts_it() -> None:
    """Less of an error rate is better, so more of it is a loss."""
    assert INT8.accuracy is not None
    errs = replace(INT8.accuracy, value=0.06, reference=0.04, difference=0.02, difference_ci95=(0.005, 0.035))
    result = replace(INT8, accuracy=replace(errs, higher_is_better=False))
    (lost,) = goal_lines(goal.judge(goal.parse("accuracy>=-1pt"), [result]), "accuracy>=-1pt", {})
    assert lost.endswith("misses accuracy>=-1pt (-2.00pt)")
    (won,) = goal_lines(goal.judge(goal.parse("accuracy>=-3pt"), [result]), "accuracy>=-3pt", {})
    assert won.endswith("wins, though accuracy>=-3pt is not certain (-3.50 to -0.50pt)")
