"""Steps on torch networks, chained before the file: what they did, what is kept, what is refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="pip install 'pocketbench[compress]'")

import torch

from pocketbench.compress import artifact, distill, onnx_quantize, prune, qat, source, sparse, tflite_quantize, training
from pocketbench.compress.recipe import NetworkContext, StepFailed
from pocketbench.workload import load
from tests.compress import workloads
from tests.compress.workloads import made

FROM_FILE = """net = network({width})
    net.load_state_dict(torch.load("{path}"))
    return net"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of stages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pocketbench" / "artifacts"


@pytest.fixture
def bars(tmp_path: Path) -> ModuleType:
    """The workload's module."""
    module: ModuleType = load(workloads.write(tmp_path)).module
    return module


def context(module: ModuleType, *functions: str) -> NetworkContext:
    """With these of the workload's functions."""
    samples = [(image.numpy()[None],) for image in next(iter(module.calibration_batches()))]
    return NetworkContext(samples, {name: getattr(module, name) for name in functions}, module.model(), print)


def hits(run: Any, module: ModuleType) -> float:
    """The share that is told apart rightly."""
    inputs, labels = module.bars(200, 3)
    found = [int(np.argmax(run(one[None].numpy()))) for one in inputs]
    return float((np.array(found) == labels.numpy()).mean())


def eager(network: Any) -> Any:
    return lambda array: training.outputs(network, [array])[0].numpy()


def test_a_chain_says_what_each_step_did(tmp_path: Path, cache: Path) -> None:
    """Its network is kept and not trained again, also where only the last file is missing; the same bytes again."""
    path = workloads.write(tmp_path)
    (found,), failed, said = made(path, ["sparse:0.5+int8-static"], ["onnx"])
    assert not failed and found.path.name == "bars-sparse_0.5+int8-static.onnx"
    assert [line for line in said if "model()" not in line] == [
        "bars: sparse:0.5",
        "bars: sparse:0.5 for onnx",
        "bars: sparse:0.5+int8-static for onnx",
    ]
    told = artifact.read(found.path)
    assert told is not None and told["recipe"] == "sparse:0.5+int8-static"
    assert told["did"]["sparse:0.5"]["zeros"] == pytest.approx(0.5, abs=0.01) and told["did"]["int8_share"] == 1.0
    assert any("file size and latency stay as they are" in one for one in found.findings)
    before = found.sha256
    for one in [*cache.glob("*.onnx"), *(path.with_suffix(".json") for path in cache.glob("*.onnx"))]:
        one.unlink()
    (again,), _, said = made(path, ["sparse:0.5+int8-static"], ["onnx"])
    assert again.sha256 == before and "bars: sparse:0.5" not in said
    for one in cache.iterdir():
        one.unlink()
    (anew,), _, _ = made(path, ["sparse:0.5+int8-static"], ["onnx"])
    assert anew.sha256 == before


def test_an_interrupted_step_is_begun_anew(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workloads.write(tmp_path)

    def interrupted(*_: object, **__: object) -> Iterator[None]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(path, ["sparse:0.5"], ["onnx"])
    assert not list(cache.glob("*.json"))
    (found,), _, _ = made(path, ["sparse:0.5"], ["onnx"])
    assert found.path.is_file()


def test_what_the_workload_raises_while_it_trains(tmp_path: Path) -> None:
    path = workloads.write(tmp_path, workloads.BARS.replace("return functional.cross_entropy", "1 / 0 #"))
    text = path.read_text().replace("return train(network(16))", "return network(16)")
    path.write_text(text)
    from pocketbench.errors import UsageError

    with pytest.raises(
        UsageError, match=r"bars\.py: loss\(\) raised ZeroDivisionError: division by zero \(bars\.py:\d+\)"
    ):
        made(path, ["sparse:0.5"], ["onnx"])
    assert "score" in source.functions(load(path))


def test_a_loss_that_is_not_finite_ends_the_step(tmp_path: Path) -> None:
    path = workloads.write(
        tmp_path,
        workloads.BARS.replace("cross_entropy(outputs, targets)", "cross_entropy(outputs, targets) / 0").replace(
            "train(network(16))", "network(16)"
        ),
    )
    _, failed, said = made(path, ["sparse:0.5"], ["onnx", "tflite"])
    assert [one.why for one in failed] == ["sparse:0.5: the loss became inf after 0 steps"] * 2
    assert said.count("bars: sparse:0.5") == 1, "not trained again for the second format"


def test_sparse(bars: ModuleType) -> None:
    step, given = sparse.Sparse(0.8), context(bars, "train_batches", "loss")
    after, done = step.apply(given.original, given)
    checked = step.check(given.original, after, given)
    assert done.facts["epochs"] == training.EPOCHS and checked.facts["zeros"] > 0.78
    assert checked.facts["gzip_bytes"] < 0.5 * checked.facts["gzip_bytes_before"]
    assert hits(eager(after), bars) > 0.95
    alone, _ = step.apply(given.original, context(bars))
    assert sparse.zeros(alone) == sparse.zeros(after), "training leaves the zeros"
    assert sparse.zeros(given.original) == 0, "the network given stays as it is"


def test_sparse_that_did_nothing_is_refused(bars: ModuleType) -> None:
    step, given = sparse.Sparse(0.8), context(bars)
    with pytest.raises(StepFailed, match=r"sparse:0\.8: only 0% of the weights are zero"):
        step.check(given.original, copy.deepcopy(given.original), given)
    with pytest.raises(StepFailed, match="has no layer of 256 weights or more"):
        step.apply(torch.nn.Conv2d(1, 1, 3), given)
    dead = copy.deepcopy(given.original)
    with torch.no_grad():
        for one in dead.parameters():
            one.zero_()
    with pytest.raises(StepFailed, match="output 0 is the same for every input: the network is dead"):
        step.check(given.original, dead, given)


def test_the_file_is_the_network(tmp_path: Path, bars: ModuleType) -> None:
    (found,), _, _ = made(workloads.write(tmp_path), ["sparse:0.5"], ["onnx"])
    run = onnx_quantize.runner(found.path)
    assert hits(lambda array: run({"input": array})[0], bars) > 0.95


def test_prune_that_trains(bars: ModuleType) -> None:
    """A quarter of the multiplications is what it says; the last layer's channels are the output's and stay."""
    step, given = prune.Prune(0.5), context(bars, "train_batches", "loss")
    after, done = step.apply(given.original, given)
    checked = step.check(given.original, after, given)
    assert done.facts["ignored_layers"] == ["7"] and done.facts["importance"] == "magnitude"
    assert done.facts["cut"] == pytest.approx(0.5, abs=0.2) and done.facts["recovery"]["epochs"] == training.EPOCHS
    assert checked.facts["multiplications"] < 0.7 * checked.facts["multiplications_before"]
    assert "of the multiplications are gone" in checked.findings[0]
    assert hits(eager(after), bars) > 0.95


def test_prune_without_labels(bars: ModuleType) -> None:
    """By least squares; what it could not make up for is said."""
    step, given = prune.Prune(0.2), context(bars)
    after, done = step.apply(given.original, given)
    step.check(given.original, after, given)
    assert done.facts["importance"] == "sensitivity of the outputs"
    recovery = done.facts["recovery"]
    assert recovery["method"] == "least squares" and recovery["noise"] < recovery["noise_before"]
    assert "look at its accuracy first" in done.findings[0]
    assert hits(eager(after), bars) > 0.9


def test_prune_that_did_nothing_is_refused(bars: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    step, given = prune.Prune(0.5), context(bars)
    with pytest.raises(StepFailed, match=r"prune:0\.5: only 0% of the multiplications are gone"):
        step.check(given.original, copy.deepcopy(given.original), given)
    # The library, where every layer is a head.
    monkeypatch.setattr(prune, "heads", lambda network, example: ["0", "3", "7"])
    after, _ = step.apply(given.original, given)
    with pytest.raises(StepFailed, match="only 0% of the multiplications are gone"):
        step.check(given.original, after, given)


class Detector(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """Two heads on one trunk, with a residual and a depthwise layer; its shape must not depend on what was pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 16, 3, 2, 1)
        self.deep = torch.nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.wide = torch.nn.Conv2d(16, 16, 1)
        self.boxes = torch.nn.Conv2d(16, 4, 1)
        self.scores = torch.nn.Conv2d(16, 8, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x).relu()
        x = x + self.wide(self.deep(x).relu()).relu()
        found = torch.cat([self.boxes(x) * 640, self.scores(x).sigmoid()], 1)
        return found.flatten(2).permute(0, 2, 1)


def test_heads_are_found_also_where_they_are_joined(bars: ModuleType) -> None:
    torch.manual_seed(0)
    network = Detector().eval()
    given = context(bars)
    assert prune.heads(network, [torch.from_numpy(given.samples[0][0])]) == ["boxes", "scores"]
    after, done = prune.Prune(0.3).apply(network, given)
    prune.Prune(0.3).check(network, after, given)
    assert done.facts["recovery"]["layers"] == 5
    noise = done.facts["recovery"]
    assert noise["noise"] < noise["noise_before"]


def test_int8_qat_in_both_formats(tmp_path: Path, cache: Path, bars: ModuleType) -> None:
    """Integers in both; the activations are those of the processor, and a second run takes up what was learnt."""
    found, failed, _ = made(workloads.write(tmp_path), ["int8-qat"], ["onnx", "tflite"])
    assert not failed
    for one in found:
        told = artifact.read(one.path)
        assert told is not None and told["did"]["int8_share"] == 1.0
        assert told["did"]["int8-qat"]["epochs"] == qat.EPOCHS
    first, second = onnx_quantize.runner(found[0].path), tflite_quantize.runner(found[1].path)
    assert hits(lambda array: first({"input": array})[0], bars) > 0.95
    assert hits(lambda array: second({"args_0": array})[0], bars) > 0.95
    kinds = {one.data_type for one in onnx.load(found[0].path).graph.initializer if one.name.endswith("_u8")}
    assert kinds == {onnx.TensorProto.UINT8}
    before = found[0].sha256
    for kept in [*cache.glob("*.onnx"), *(path.with_suffix(".json") for path in cache.glob("*.onnx"))]:
        kept.unlink()
    (again,), _, said = made(tmp_path / "bars.py", ["int8-qat"], ["onnx"])
    assert again.sha256 == before and "bars: int8-qat" not in said, "what was learnt is kept, the graph is made anew"


def test_int8_qat_that_did_nothing_is_refused(tmp_path: Path, bars: ModuleType) -> None:
    given = context(bars, "train_batches", "loss")
    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(1))
    trained = qat.Trained(bare, {}, (torch.zeros(2, 1, 16, 16),))
    with pytest.raises(StepFailed, match="nothing in the network is rounded"):
        qat.Int8().check(bare, trained, given)
    (plain,), _, _ = made(workloads.write(tmp_path), ["fp32"], ["onnx"])
    with pytest.raises(StepFailed, match="int8-qat: only 0% of the weights became int8"):
        qat.written(plain.path, "onnx", "x86_64")


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_int8_qat_whose_scores_are_gone_is_refused(scale: float) -> None:
    """Boxes in pixels go on moving; the whole output does."""
    boxes, scores = torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(1, 2, 3, padding=1)

    class Detector(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, alive: float) -> None:
            super().__init__()
            self.boxes, self.scores, self.alive = boxes, scores, alive
            self.fake_quant_enabled = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = torch.cat([640 * self.boxes(x), self.alive * torch.sigmoid(self.scores(x))], 1)
            return made.flatten(2)

    rng = np.random.default_rng(0)
    samples = [(rng.normal(size=(1, 1, 16, 16)).astype(np.float32),) for _ in range(4)]
    given = NetworkContext(samples, {}, None, print)
    trained = SimpleNamespace(rounding=lambda: Detector(scale))
    if scale:
        qat.Int8().check(Detector(1.0), trained, given)
        return
    with pytest.raises(StepFailed, match="int8-qat: output 0: 2 of its channels do not move any more"):
        qat.Int8().check(Detector(1.0), trained, given)


def test_distillation_stands_beside_its_control(tmp_path: Path, bars: ModuleType) -> None:
    """The same student, steps and schedule without a teacher, asked for or not."""
    path = workloads.write(tmp_path)
    found, failed, _ = made(path, ["distill+fp16"], ["onnx"])
    assert not failed and [one.recipe for one in found] == ["distill+fp16", "scratch+fp16"]
    first, second = (one.provenance["did"] for one in found)
    assert first["distill"]["teacher"] == "the network" and first["distill"]["labels"]
    assert first["distill"]["steps"] == second["scratch"]["steps"]
    assert first["distill"]["parameters"] == second["scratch"]["parameters"] < first["distill"]["parameters_before"]
    run = onnx_quantize.runner(found[0].path)
    assert hits(lambda array: run({"input": array})[0], bars) > 0.9


def test_other_weights_of_a_teacher_or_a_student_are_another_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from files that are no part of the workload's text."""
    monkeypatch.setattr(distill, "EPOCHS", 1)
    student, teacher = (
        FROM_FILE.format(width=width, path=tmp_path / name) for name, width in (("student", 4), ("teacher", 8))
    )
    text = workloads.BARS.replace("train(network(16))", "network(16).eval()").replace("return network(4)", student)
    path = workloads.write(tmp_path, f"{text}\ndef teacher():\n    {teacher}\n")
    module, found = load(path).module, []
    for taught_by, begun_with in [(0, 0), (0, 0), (1, 0), (1, 1), (0, 0)]:
        for name, width, seed in (("teacher", 8, taught_by), ("student", 4, begun_with)):
            torch.manual_seed(seed)
            torch.save(module.network(width).state_dict(), tmp_path / name)
        artifacts, failed, said = made(path, ["distill"], ["onnx"])
        assert not failed
        found.append([one.sha256 for one in artifacts])
    first, again, taught, begun, back = found
    assert first == again == back and "bars: distill" not in said
    assert taught[0] != first[0] and taught[1] == first[1], "the control has no teacher"
    assert begun[0] != taught[0] and begun[1] != taught[1]


def test_a_teacher_without_labels_has_no_control(tmp_path: Path) -> None:
    text = workloads.BARS.replace("def loss(", "def cost(").replace("loss(net(", "cost(net(")
    text = text.replace("def student()", "def tiny()").replace("yield inputs[chosen], labels[chosen]", "pass")
    text += "\ndef teacher():\n    return model()\n"
    path = workloads.write(tmp_path, text.replace("train(network(16))", "network(16).eval()") + BATCHES)
    found, failed, _ = made(path, ["distill:tiny"], ["onnx"])
    assert found[0].provenance["did"]["distill:tiny"]["teacher"] == "teacher()"
    assert not found[0].provenance["did"]["distill:tiny"]["labels"]
    assert [one.recipe for one in failed] == ["scratch:tiny"] and "has no loss(), which scratch:tiny needs" in failed[
        0
    ].why


def test_hints_bring_the_students_features_to_the_teachers(bars: ModuleType) -> None:
    """By what a linear map cannot make of them: layers of other widths, one of them of another size as well."""
    torch.manual_seed(0)
    teacher = bars.network(16).eval()
    functions = {name: getattr(bars, name) for name in ("train_batches", "student")}
    samples = [(one.numpy()[None],) for one in bars.bars(16, 3)[0]]
    inputs = bars.bars(256, 5)[0]

    def unexplained(student: Any) -> float:
        with torch.no_grad():
            own, aim = (net[:6](inputs).movedim(1, -1).flatten(0, 2) for net in (student, teacher))
        known = torch.cat([own, torch.ones(len(own), 1)], 1)
        return float((aim - known @ torch.linalg.lstsq(known, aim).solution).square().mean() / aim.var())

    left = {}
    for name, given in (("without", {}), ("with", {"hints": lambda: {"5": "5", "2": "5"}})):
        torch.manual_seed(1)
        context = NetworkContext(samples, {**functions, **given}, teacher, print)
        student, done = distill.Distill("student").apply(teacher, context)
        assert done.facts.get("hints") == (2 if given else None)
        assert not any(layer._forward_hooks for net in (student, teacher) for layer in net.modules())
        left[name] = unexplained(student)
    assert left["with"] < 0.8 * left["without"]


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"7": "first"}, "hints() names 'first', which is no layer of the student"),
        ({"9": "5"}, "hints() names '9', which is no layer of the teacher"),
        ({"": "5"}, "hints() names '', which is no layer of the teacher"),
        ({"7": "5"}, "hints() pairs [1, 8, 4, 4] of the student with [1, 8] of the teacher"),
        (7, "hints() has to give pairs of names"),
        ({}, "hints() has to give pairs of names"),
    ],
)
def test_hints_that_will_not_do(bars: ModuleType, hints: Any, message: str) -> None:
    teacher = bars.network(16).eval()
    functions = {"train_batches": bars.train_batches, "student": bars.student, "hints": lambda: hints}
    samples = [(one.numpy()[None],) for one in bars.bars(16, 3)[0]]
    with pytest.raises(StepFailed, match=re.escape(message)):
        distill.Distill("student").apply(teacher, NetworkContext(samples, functions, teacher, print))


def test_several_inputs_without_labels_are_a_tuple() -> None:
    """A batch of two was taken as inputs and targets, so that a network of two inputs was called with one."""

    class Sum(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(4, width), torch.nn.Linear(width, 2)

        def forward(self, one: Any, other: Any) -> Any:
            return self.last(torch.relu(self.first(one + other)))

    pair = (torch.ones(3, 4), torch.zeros(3, 4))
    rng = np.random.default_rng(0)
    samples = [tuple(rng.random((1, 4), dtype=np.float32) for _ in range(2)) for _ in range(4)]
    functions = {"train_batches": lambda: iter([pair]), "student": lambda: Sum(2)}
    step, given = distill.Distill("student"), NetworkContext(samples, functions, Sum(16).eval(), print)
    made_, done = step.apply(given.original, given)
    assert done.facts["steps"] == distill.EPOCHS
    step.check(given.original, made_, given)
    assert source.parts((pair, 7), 2) == (pair, 7) and source.parts(pair, 1) == (pair[:1], pair[1])


BATCHES = """
def train_batches():
    inputs, labels = bars(512, 2)
    yield from inputs.split(64)
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("return network(4)", "return network(16)"), "distill: the student is no smaller than the network"),
        (("return network(4)", "return 7"), r"distill: student\(\) gave int: a torch module is needed"),
        (("return network(4)", "return network(4)[:-1]"), r"distill: the student gives \[64, 128\], its teacher"),
    ],
)
def test_a_student_that_will_not_do(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = workloads.write(tmp_path, workloads.BARS.replace(*change).replace("train(network(16))", "network(16)"))
    _, failed, _ = made(path, ["distill"], ["onnx"])
    assert re.search(message, failed[0].why)
