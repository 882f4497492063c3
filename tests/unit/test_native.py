"""Parsers of the vendors' tools: recorded outputs, and what is left of them when lines are missing or out of order."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.native import Ask, Tool, benchmark_litert_model, benchmark_model, benchncnn, perf_test, tool
from pocketbench_agent.native.onnx_inputs import open_input

DATA = Path(__file__).resolve().parents[1] / "data" / "native"
FIXTURES = sorted(DATA.glob("*.txt"))
NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?")


def ask(**told: Any) -> Ask:
    """A question about a file called model."""
    return Ask(**{"model": Path("/job/model.param"), "scratch": Path("/nowhere"), **told})


def module(path: Path) -> Tool:
    """Whose output that is."""
    return tool(path.name.partition("-")[0])


def numbers(value: Any) -> Iterator[float]:
    """Every number that a parser returned."""
    if is_dataclass(value):
        for field in fields(value):
            yield from numbers(getattr(value, field.name))
    elif isinstance(value, tuple):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def parse(path: Path, text: str) -> Any:
    """By the tool's own parser."""
    return module(path).parse(text)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_each_fixture_says_whose_it_is(path: Path) -> None:
    """Tool, version and the public source of its format, in the first line."""
    head = path.read_text().splitlines()[0]
    assert head.startswith(f"# {path.name.partition('-')[0]}")
    assert "format: " in head


@given(st.data())
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_nothing_is_invented(path: Path, data: st.DataObject) -> None:
    """Whatever lines are cut off, left out or out of order: no crash, and no number that the text does not hold."""
    lines = path.read_text().splitlines(keepends=True)[1:]
    shuffled = data.draw(st.booleans())
    if shuffled:
        random.Random(data.draw(st.integers(0, 2**32))).shuffle(lines)
    kept = [line for line in lines if data.draw(st.booleans())] if data.draw(st.booleans()) else lines
    text = "".join(kept)
    text = text[: data.draw(st.integers(0, len(text)))]
    held = {float(found) for found in NUMBERS.findall(text)}
    # The one sum: operations on the GPU and on the CPU are told apart.
    assert set(numbers(parse(path, text))) <= held
    told = module(path).told(text, ask(delegate="npu" if "npu" in path.stem else "gpu"))
    if told.timed is not None and told.timed.mean_ns is not None:
        assert told.timed.mean_ns > 0


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """None of them crashes on what is no output at all."""
    for name in ("benchmark_model", "benchmark_litert_model", "onnxruntime_perf_test", "benchncnn"):
        assert tool(name).told(text, ask()).timed is None
    assert perf_test.samples(text) == ()


def test_all_forms_of_a_line_of_statistics() -> None:
    """With and without median, one run, runs that are all the same, none, an average with an exponent."""
    forms = {
        "count=50 first=9 curr=7 min=5 max=11 avg=7.5 std=1": (50, 7.5, 5, 11, None),
        "INFO: count=50 first=9 curr=7 min=5 max=11 avg=7.5 std=1 p5=5 median=7 p95=10": (50, 7.5, 5, 11, 7),
        "count=50 first=9 curr=7 min=5 max=11 avg=1.23457e+06 std=1": (50, 1234570, 5, 11, None),
        "count=1 curr=1234": (1, 1234, 1234, 1234, 1234),
        "count=50 curr=1234(all same)": (50, 1234, 1234, 1234, 1234),
    }
    begin = "Running benchmark for at least 1 iterations\n"
    for line, (runs, mean, least, most, median) in forms.items():
        timed = benchmark_model.parse(f"{begin}{begin}{line}\n").timed
        assert timed is not None, line
        assert (timed.runs, timed.mean, timed.least, timed.most, timed.median) == (runs, mean, least, most, median)
    for line in ("count=0", "count=50 first=9 curr=7 min=5", "count=50 first=9,5 curr=7 min=5 max=11 avg=7,5 std=1"):
        assert benchmark_model.parse(f"{begin}{begin}{line}\n").timed is None, line


def test_a_tool_that_contradicts_itself() -> None:
    """The mean stands in two lines; samples of one run cannot become those of another."""
    text = (DATA / "benchmark_model-2.19-gpu-full.txt").read_text()
    assert benchmark_model.told(text, ask()).trouble == ""
    lied = text.replace("Inference (avg): 3861.27", "Inference (avg): 38.6127")
    assert "contradicts itself" in benchmark_model.told(lied, ask()).trouble
    text = (DATA / "benchmark_litert_model-2.1-npu.txt").read_text()
    assert benchmark_litert_model.told(text, ask(delegate="npu")).trouble == ""
    assert "contradicts" in benchmark_litert_model.told(text.replace("(50 runs)", "(5 runs)"), ask()).trouble


def test_coverage_by_delegate() -> None:
    """Asked for one delegate, what another took is the CPU's."""
    text = (DATA / "benchmark_model-2.13-gpu-partial.txt").read_text()
    by_gpu = benchmark_model.told(text, ask(delegate="gpu")).placement
    by_xnnpack = benchmark_model.told(text, ask(delegate="xnnpack")).placement
    assert by_gpu is not None
    assert by_xnnpack is not None
    assert (by_gpu.nodes, by_gpu.delegated, by_gpu.used) == (297, 97, "gpu")
    assert (by_xnnpack.nodes, by_xnnpack.delegated) == (208, 190)
    silent = benchmark_model.told("INFO: Initialized session in 5ms.\n", ask(delegate="gpu")).placement
    assert silent is not None
    assert (silent.coverage, silent.used) == ("none", "cpu"), "a delegate that was never applied is not named at all"
    whole = "INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.\n"
    uncounted = benchmark_model.told(whole, ask(delegate="gpu")).placement
    assert uncounted is not None
    assert (uncounted.coverage, uncounted.nodes, uncounted.used) == ("full", 0, "gpu")


def test_a_node_that_failed_to_dispatch_is_not_delegated() -> None:
    """LiteRT counts nodes as replaced before it loads the dispatch library."""
    text = (DATA / "benchmark_litert_model-2.1-npu-fallback.txt").read_text()
    placed = benchmark_litert_model.told(text, ask(delegate="npu")).placement
    assert placed is not None
    assert (placed.nodes, placed.delegated, placed.used) == (1, 0, "cpu")


def test_arguments(tmp_path: Path) -> None:
    """What each is called with, and what each refuses."""
    (tmp_path / "m.onnx").write_bytes(b"")
    external = benchmark_model.arguments(ask(delegate="external", library=Path("/job/lib.so"), options={"a": "1"}))
    assert {"--external_delegate_path=/job/lib.so", "--external_delegate_options=a:1"} <= set(external)
    shaped = benchmark_model.arguments(ask(shapes={"x": (1, 8), "y": (2,)}))
    assert {"--input_layer=x,y", "--input_layer_shape=1,8:2"} <= set(shaped)
    options = {"backend_path": "libQnnHtp.so", "session.disable_cpu_ep_fallback": "1"}
    qnn = perf_test.arguments(ask(model=tmp_path / "m.onnx", delegate="npu", options=options, loops=5, warm_up_runs=2))
    assert qnn[qnn.index("-i") + 1] == "backend_path|libQnnHtp.so"
    assert qnn[qnn.index("-C") + 1] == "session.disable_cpu_ep_fallback|1"
    assert qnn[qnn.index("-r") + 1] == "7"
    for refused in (benchmark_model, benchmark_litert_model, perf_test, benchncnn):
        with pytest.raises(NotAvailable):
            refused.arguments(ask(delegate="azure"))
    with pytest.raises(StageError, match="has no option speed"):
        benchncnn.arguments(ask(options={"speed": "2"}))
    with pytest.raises(NotAvailable):
        tool("snpe-net-run")


def test_open_dimensions_are_not_made_one_in_silence(tmp_path: Path) -> None:
    """By name, or without one; a file that is none says nothing here."""
    known: dict[tuple[str | int | None, ...], str] = {(1, 3): "", (2**40, 3): ""}
    shapes = {**known, ("N", 3): "x", (None, 3): "x", (0, 3): "x", (-1, 3): "x"}
    for dims, found in shapes.items():
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims))
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
        content = helper.make_model(graph).SerializeToString()
        assert open_input(content) == found, dims
        for end in range(len(content)):
            open_input(content[:end])
    model = tmp_path / "m.onnx"
    model.write_bytes(content)
    with pytest.raises(StageError, match="'x' has open dimensions"):
        perf_test.arguments(ask(model=model))


def test_ncnn_takes_widths_first(tmp_path: Path) -> None:
    """Sizes of the file, or of --shape; a batch of one is left out."""
    model = tmp_path / "m.param"
    model.write_text("7767517\n1 1\nInput in0 0 1 in0 0=227 1=224 2=3\n")
    assert benchncnn.arguments(ask(model=model))[-1] == "shape=[227,224,3]"
    assert benchncnn.arguments(ask(model=model, shapes={"in0": (1, 3, 8, 16)}))[-1] == "shape=[16,8,3]"
    model.write_text("7767517\n1 1\nInput in0 0 1 in0\n")
    with pytest.raises(StageError, match="give --shape"):
        benchncnn.arguments(ask(model=model))


def test_samples_of_perf_test() -> None:
    """The folder's name may hold commas; a line that broke off is none."""
    assert perf_test.samples("a,b,0.5,100,48,0\nfiles,1.5e-05,100,-1,1\n\nMin Latency: 1 s\nfiles,0.7,1") == (
        0.5,
        1.5e-05,
    )
