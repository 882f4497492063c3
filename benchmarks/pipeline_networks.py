"""Rows of benchmarks/pipeline.py for what works on torch networks: the two exporters, and the steps before them.

Networks of steps are those of examples/digits.py, untrained, which takes as long; what trains does so for one epoch of
the same few batches in every arm, as its time is the workload's. Arms:

`hand`: by_hand_networks.py. For `prune` that halves its way to the share of arithmetic, for int8-qat it goes on until a
file is written.
`step`: ours without its looks, and without what no library has: which layers are heads, for `prune` the ranking by what
channels do to the outputs and the least squares after it.
`stage`: all of it, with the network kept, or the file beside the network's outputs and its provenance in it. Where
there is no training, `prune` ranks and solves twice to choose: that takes many times what the library does for itself,
by design.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import arms  # type: ignore[import-not-found]
import by_hand_networks as hands  # type: ignore[import-not-found]
import numpy as np
import torch
import torch_pruning as tp

from pocketbench import workload
from pocketbench.compress import artifact, compare, pipeline, prune, qat, recipe, training
from pocketbench.compress.recipe import Inputs, NetworkContext
from pocketbench.convert import from_onnx, to_litert, to_onnx

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BATCHES, SHARE = 16, 0.5
UNTRAINED = "prune untrained"
RANKS_TWICE = "two rankings, least squares after each, and the better one: no library does that"
FORMS = ("onnx", "tflite")


def rows(folder: Path, count: int) -> Iterator[arms.Row]:
    """All of them; what they need is made when they are measured. `count` is how many samples each has."""
    digits = workload.load(EXAMPLES / "digits.py").module
    samples = [(np.asarray(one),) for one in islice(digits.calibration_batches(), count)]
    yield from _exports("digits", lambda: _digits(digits), samples, folder)
    imagenet = workload.load(EXAMPLES / "imagenet_classification.py").module
    try:
        path, found = imagenet.model(), [(one,) for one in islice(imagenet.calibration_batches(), count)]
    except (FileNotFoundError, ImportError) as error:
        print(f"mobilenet_v2: not exported: {error}")
    else:
        yield from _exports("mobilenet_v2", lambda: from_onnx.convert(path, found), found, folder)
    batches = list(islice(digits.train_batches(), BATCHES))
    functions = {"train_batches": lambda: batches, "loss": digits.loss}

    def context(network: Any, trains: bool = True) -> NetworkContext:
        return NetworkContext(samples, functions if trains else {}, network, lambda _: None)

    for step in (f"prune:{SHARE}", f"sparse:{SHARE}"):
        yield arms.Row(f"digits {step}", lambda s=step: _step(s, _digits(digits), context, folder), {})
    yield arms.Row(f"digits {UNTRAINED}", lambda: _untrained(_digits(digits), context, folder), {"stage": RANKS_TWICE})
    for form in FORMS:
        yield arms.Row(f"digits int8-qat {form}", lambda f=form: _qat(f, _digits(digits), context, folder), {})


def _digits(module: Any) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = module._network()
    with torch.no_grad():
        # Batch norm of its own statistics, as after training: outputs that move.
        for inputs, _ in islice(module.train_batches(), 4):
            network.train()(inputs)
    return network.eval()


def _exports(name: str, make: Any, samples: Sequence[Inputs], folder: Path) -> Iterator[arms.Row]:
    for form in FORMS:
        yield arms.Row(f"{name} torch to {form}", partial(_export, make, form, samples, folder), {})


def _export(make: Any, form: str, samples: Sequence[Inputs], folder: Path) -> arms.Arms:
    torch.set_num_threads(1)
    network, target = make(), folder / f"exported.{form}"
    example = tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in samples[0])
    ours = to_onnx.convert if form == "onnx" else to_litert.convert

    def step() -> Mapping[str, Any]:
        return ours(network, samples[0], ["input"], target)

    def stage() -> None:
        _looked_at(target, form, network, samples, step())

    by_hand = hands.to_onnx if form == "onnx" else hands.to_tflite
    return arms.Arms(lambda: by_hand(network, example, target), step, stage)


def _looked_at(target: Path, form: str, network: Any, samples: Sequence[Inputs], facts: Mapping[str, Any]) -> None:
    """As the pipeline does with what it exported."""
    (key,) = pipeline._inputs(target, form)
    given = [{key: one} for (one,) in samples[: pipeline.JUDGED]]
    compare.agreement(pipeline._eager(network), pipeline._runner(form)(target), given)
    artifact.embed(target, form, {"did": {name: str(value) for name, value in facts.items()}})


def _step(text: str, network: Any, context: Any, folder: Path) -> arms.Arms:
    given = context(network)
    batches, loss = given.functions["train_batches"], given.functions["loss"]
    kept = _heads(network, given)

    def hand() -> None:
        if text.startswith("sparse"):
            hands.sparse(network, SHARE, batches(), loss, training.RATE)
            return
        made = hands.pruned(network, _example(given), SHARE, kept)
        hands.train(made.train(), batches(), loss, training.RATE)

    def step() -> Any:
        with _one_epoch(), mock.patch.object(prune, "heads", lambda *_: kept):
            return recipe.create_on_network(text).apply(network, given)

    def stage() -> None:
        with _one_epoch():
            one = recipe.create_on_network(text)
            made, _ = one.apply(network, given)
            one.check(network, made, given)
            torch.save(made, folder / "kept.pt")

    return arms.Arms(hand, step, stage)


def _untrained(network: Any, context: Any, folder: Path) -> arms.Arms:
    given = context(network, trains=False)
    kept, block = _heads(network, given), prune.BLOCK_UNTRAINED

    def step() -> None:
        rank = lambda _: tp.importance.GroupMagnitudeImportance(p=2)  # noqa: E731
        prune._nearest(SHARE, network, _example(given), kept, rank, block, globally=False)

    def stage() -> None:
        one = prune.Prune(SHARE)
        made, _ = one.apply(network, given)
        one.check(network, made, given)
        torch.save(made, folder / "kept.pt")

    return arms.Arms(lambda: hands.pruned(network, _example(given), SHARE, kept, block), step, stage)


def _qat(form: str, network: Any, context: Any, folder: Path) -> arms.Arms:
    given, target = context(network), folder / f"rounded.{form}"
    batches, loss = given.functions["train_batches"], given.functions["loss"]
    pair = (torch.from_numpy(np.concatenate([given.samples[0][0], given.samples[1][0]])),)

    def hand() -> None:
        made = hands.int8_qat(network, pair, batches(), loss, qat.RATE, fold=form == "onnx")
        if form == "onnx":
            hands.to_onnx(made, _example(given), target)
        else:
            hands.to_tflite(made, _example(given), target, integers=True)

    def written(trained: qat.Trained) -> tuple[Any, Mapping[str, Any]]:
        made = qat.finish(trained, form)
        if form == "onnx":
            return made, to_onnx.convert(made, given.samples[0], ["input"], target)
        return made, to_litert.convert(made, given.samples[0], ["input"], target, rounded=True)

    def step() -> None:
        with _one_epoch():
            trained, _ = qat.Int8().apply(network, given)
        written(trained)

    def stage() -> None:
        with _one_epoch():
            trained, _ = qat.Int8().apply(network, given)
            qat.Int8().check(network, trained, given)
        torch.save(trained, folder / "kept.pt")
        made, facts = written(trained)
        qat.written(target, form, "x86_64")
        _looked_at(target, form, made, given.samples, facts)

    return arms.Arms(hand, step, stage)


def _example(given: NetworkContext) -> tuple[Any, ...]:
    return tuple(torch.from_numpy(one) for one in given.samples[0])


def _heads(network: Any, given: NetworkContext) -> list[str]:
    return prune.heads(network, _example(given))


@contextlib.contextmanager
def _one_epoch() -> Iterator[None]:
    train = training.train

    def short(*arguments: Any, **options: Any) -> Any:
        return train(*arguments, **{**options, "epochs": 1})

    with mock.patch.object(training, "train", short):
        yield
