"""The matrix of cases, the order of its rounds, and what makes two invocations the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench import plan
from pocketbench.errors import UsageError
from pocketbench.plan import Case, Plan, Request, RuntimeChoice, matrix, original, parse_runtime
from tests.unit import facts

TFLITE = facts.model_file("a.tflite", sha256="01" * 32)
ONNX = facts.model_file("b.onnx", sha256="02" * 32)
NULL = facts.model_file("c.null", sha256="03" * 32)


def test_the_matrix_has_every_combination_once() -> None:
    cases = matrix(["pi5", "pixel8"], [TFLITE, ONNX], [], ["cpu", "gpu"], [1, 4])
    assert len(cases) == 16
    assert Counter((c.device, c.model.name, c.delegate, c.threads) for c in cases).most_common(1)[0][1] == 1
    assert {c.runtime.name for c in cases if c.model is TFLITE} == {"litert"}
    assert {c.runtime.name for c in cases if c.model is ONNX} == {"onnxruntime"}


def test_what_is_given_twice_is_measured_once() -> None:
    twin = facts.model_file("a.tflite", sha256="01" * 32)
    assert len(matrix(["pi5", "pi5"], [TFLITE, twin], [], ["cpu", "cpu"], [1, 1])) == 1


def test_models_that_differ_in_their_bytes_alone_are_two() -> None:
    assert len(matrix(["pi5"], [TFLITE, facts.model_file("a.tflite", sha256="99" * 32)], [], ["cpu"], [1])) == 2


def test_a_model_runs_on_each_chosen_runtime_that_reads_it() -> None:
    chosen = [RuntimeChoice("litert"), RuntimeChoice("tflite-runtime"), RuntimeChoice("onnxruntime", "1.31")]
    cases = matrix(["pi5"], [TFLITE, ONNX], chosen, ["cpu"], [1])
    assert [(c.model.name, str(c.runtime)) for c in cases] == [
        ("a", "litert"),
        ("a", "tflite-runtime"),
        ("b", "onnxruntime==1.31"),
    ]


def test_two_versions_of_a_runtime_are_two_cases() -> None:
    chosen = [RuntimeChoice("onnxruntime", "1.31"), RuntimeChoice("onnxruntime", "1.32")]
    assert len({c.key for c in matrix(["pi5"], [ONNX], chosen, ["cpu"], [1])}) == 2


def test_a_runtime_without_a_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--runtime null reads \.null files"):
        matrix(["pi5"], [TFLITE], [RuntimeChoice("litert"), RuntimeChoice("null")], ["cpu"], [1])


def test_a_model_without_a_runtime_is_refused() -> None:
    with pytest.raises(UsageError, match=r"b\.onnx: --runtime litert does not read \.onnx; onnxruntime, native does"):
        matrix(["pi5"], [TFLITE, ONNX], [RuntimeChoice("litert")], ["cpu"], [1])


@pytest.mark.parametrize(("name", "shown"), [("net.pt", r"\.pt"), ("net", "a file without a suffix")])
def test_a_file_that_nothing_reads_is_refused(name: str, shown: str) -> None:
    with pytest.raises(UsageError, match=rf"no runtime reads {shown}; known: \.tflite"):
        matrix(["pi5"], [facts.model_file(name)], [], ["cpu"], [1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("litert", RuntimeChoice("litert")),
        ("onnxruntime==1.32.0", RuntimeChoice("onnxruntime", "1.32.0")),
        ("onnxruntime==", RuntimeChoice("onnxruntime")),
    ],
)
def test_parse_runtime(text: str, expected: RuntimeChoice) -> None:
    assert parse_runtime(text) == expected


@pytest.mark.parametrize(
    ("text", "hint"), [("lite-rt", "litert"), ("onnxruntim==1", "onnxruntime"), ("tflite_runtime", "tflite-runtime")]
)
def test_an_unknown_runtime_gets_the_nearest_name(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean '{hint}'\?\); known: litert"):
        parse_runtime(text)


def test_a_word_that_is_near_to_nothing_gets_no_hint() -> None:
    with pytest.raises(UsageError, match=r"unknown runtime 'zzzzzz'; known"):
        parse_runtime("zzzzzz")


def test_check_delegate() -> None:
    assert plan.check_delegate("gpu") == "gpu"
    with pytest.raises(UsageError, match="did you mean 'vulkan'"):
        plan.check_delegate("vulcan")


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31))
def test_every_round_has_every_key_once(count: int, rounds: int, seed: int) -> None:
    keys = [f"k{index}" for index in range(count)]
    order = plan.order(keys, rounds, seed)
    assert [sorted(chosen) for chosen in order] == [sorted(keys)] * rounds
    assert order == plan.order(keys, rounds, seed)


def test_the_order_differs_by_round_and_by_seed() -> None:
    keys = [f"k{index}" for index in range(12)]
    order = plan.order(keys, 6, 1)
    assert len({tuple(chosen) for chosen in order}) == 6
    assert order != plan.order(keys, 6, 2)


def test_no_place_of_a_round_belongs_to_a_case() -> None:
    first = Counter(chosen[0] for chosen in plan.order(["a", "b", "c"], 600, 3))
    assert min(first.values()) > 150


def test_the_key_tells_every_property_of_a_case() -> None:
    plain = facts.case()
    others = [
        replace(plain, device="x"),
        replace(plain, model=facts.model_file(sha256="00" * 32)),
        replace(plain, runtime=RuntimeChoice("onnxruntime", "1")),
        replace(plain, delegate="gpu"),
        replace(plain, threads=2),
        replace(plain, cpus=(1,)),
        replace(plain, shapes=(("x", (1, 2)),)),
        replace(plain, signature="serve"),
        replace(plain, scenario="paced"),
    ]
    assert len({case.key for case in [plain, *others]}) == 10
    assert facts.case().key == plain.key


def request() -> Request:
    return Request((facts.case(), facts.case(threads=2)), Plan(seed=1))


def test_the_digest_ignores_the_seed_and_the_labels() -> None:
    again = replace(request(), plan=Plan(seed=2), labels={"night": "12"})
    assert request().digest == again.digest


def test_the_digest_tells_what_would_be_measured() -> None:
    others = [
        replace(request(), plan=Plan(processes=7, seed=1)),
        replace(request(), plan=Plan(max_time_s=1, seed=1)),
        replace(request(), cases=request().cases[:1]),
        replace(request(), inputs="inputs.npz"),
        replace(request(), workload="digits.py"),
    ]
    assert len({one.digest for one in [request(), *others]}) == 6


def test_the_deadline_leaves_room_for_the_longest_phases() -> None:
    long = Plan(warm_up_max_time_s=100, max_time_s=500)
    assert long.deadline_s >= 600 + 60
    assert Plan().deadline_s >= 60


def test_the_label_is_for_people() -> None:
    assert facts.case(threads=4, delegate="gpu").label == "net.onnx onnxruntime gpu x4"
    assert facts.case().label == "net.onnx onnxruntime x1"


def test_what_a_compressed_case_is_compared_with() -> None:
    def case(recipe: str | None, name: str = "n.onnx", **changes: Any) -> Case:
        return facts.case(model=replace(facts.model_file(name), recipe=recipe), **changes)

    plain, fp32, int8 = case(None), case("fp32"), case("int8-static")
    other_format, other_device = case("fp32", "n.tflite"), case("fp32", device="phone")
    two, on_gpu = case("fp32", threads=2), case("fp32", delegate="gpu")
    assert original(int8, [plain, other_format, other_device, two, on_gpu, fp32, int8]) == fp32
    assert original(case("int8-static", threads=2), [fp32, two]) == two
    # An accelerator's own rounding is part of what is lost there.
    assert original(case("int8-static", delegate="gpu"), [on_gpu, fp32]) == fp32
    assert original(case("int8-static", delegate="gpu"), [on_gpu]) == on_gpu
    assert original(int8, [plain, other_format, other_device]) is None
    assert original(fp32, [fp32]) is None and original(plain, [fp32]) is None
