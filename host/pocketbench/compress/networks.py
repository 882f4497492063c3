"""The stages of a recipe that work on a torch network: each is kept by what went into it, and taken up again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketbench.compress import failures, source
from pocketbench.compress.recipe import (
    STUDENTS,
    Inputs,
    NetworkContext,
    Say,
    StepFailed,
    create_on_network,
    missing_extra,
    named,
)
from pocketbench.workload import Workload

FROM_CACHE = "taken from the cache"


@dataclass(frozen=True)
class Made:
    """A network after some steps, what each of them did, and what a person should know of it.

    `content` is None where the network is still the .onnx file that it was.
    """

    content: Any
    did: Mapping[str, Any]
    findings: tuple[str, ...] = ()


class Networks:
    """Of one workload, by the steps that they went through."""

    def __init__(
        self,
        workload: Workload,
        network: source.Network,
        samples: Sequence[Inputs],
        common: Mapping[str, Any],
        say: Say,
    ) -> None:
        self._workload, self._network, self._samples = workload, network, samples
        self._common, self._say = common, say
        content = None if network.is_file else network.content.eval()
        self._made: dict[tuple[str, ...], Made] = {(): Made(content, {})}
        self._failed: dict[tuple[str, ...], str] = {}
        self._functions = source.functions(workload)
        self._original: Any = content
        self._training = ""
        self._begun: dict[str, str] = {}

    def learned(self, steps: Sequence[str]) -> Mapping[str, str]:
        """Hashes of what is trained with, for the key of a stage: data, and the weights of students and teachers."""
        name, argument = named(steps[0])
        others = [argument or "student", *(["teacher"] if name == "distill" else [])] if name in STUDENTS else []
        return {"training": self._data(), **{one: self._weights(one) for one in others if one in self._functions}}

    def _weights(self, function: str) -> str:
        """Of what the workload's function gives: it may read them from a file."""
        if function not in self._begun:
            total = hashlib.sha256()
            with repeatable(int(self._common["seed"])):
                made = self._functions[function]()
            # Whatever else it gives is refused by the step.
            for name, values in source.weights(made) if hasattr(made, "state_dict") else ():
                total.update(name.encode() + values.tobytes())
            self._begun[function] = total.hexdigest()
        return self._begun[function]

    def _data(self) -> str:
        """The workload file, and its first batch."""
        if not self._training:
            total = hashlib.sha256(self._workload.sha256.encode())
            if "train_batches" in self._functions:
                with repeatable(int(self._common["seed"])):
                    for one in _arrays(next(iter(self._functions["train_batches"]()), ())):
                        total.update(repr((one.shape, one.dtype.str)).encode() + np.ascontiguousarray(one).tobytes())
            self._training = total.hexdigest()
        return self._training

    @property
    def input_names(self) -> list[str]:
        """As the file has them, or plain ones."""
        count = len(self._samples[0])
        return [f"input{position}" for position in range(count)] if count > 1 else ["input"]

    def after(self, steps: tuple[str, ...]) -> Made:
        """The network after these steps, made now or before. StepFailed."""
        if steps in self._failed:
            raise StepFailed(self._failed[steps])
        if steps not in self._made:
            try:
                self._made[steps] = self._stage(steps)
            except StepFailed as error:
                # For the next format: it would be trained all over again, to the same end.
                self._failed[steps] = str(error)
                raise
        return self._made[steps]

    def module(self, made: Made) -> Any:
        """The torch module; an .onnx file becomes one now."""
        return self._torch() if made.content is None else made.content

    def _torch(self) -> Any:
        if self._original is None:
            from pocketbench.convert import from_onnx

            self._say(f"{self._network.stem}: the .onnx file as a torch network")
            self._original = from_onnx.convert(self._network.content, self._samples)
        return self._original

    def _stage(self, steps: tuple[str, ...]) -> Made:
        try:
            import torch
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error
        step = create_on_network(steps[-1])
        inputs = {**self._common, "steps": steps, **self.learned(steps)}
        place = kept(inputs, "pt")
        manifest = place.with_suffix(".json")
        before = self.after(steps[:-1])
        if manifest.is_file():
            told = json.loads(manifest.read_text())
            self._say(f"{self._network.stem}: {'+'.join(steps)}: {FROM_CACHE}")
            if self._network.is_file:
                from pocketbench.convert import from_onnx

                from_onnx.onnx2torch()
            # A whole pickled module, since its shapes are not those of its class any more; it is a file of our own.
            return Made(torch.load(place, weights_only=False), told["did"], tuple(told["findings"]))
        self._say(f"{self._network.stem}: {'+'.join(steps)}")
        network = self.module(before)
        context = NetworkContext(
            self._samples, self._functions, self._torch(), self._say, seed=int(self._common["seed"])
        )
        with repeatable(context.seed):
            content, done = step.apply(network, context)
            checked = step.check(network, content, context)
        did = {**before.did, steps[-1]: {**done.facts, **checked.facts}}
        found = (*before.findings, *done.findings, *checked.findings)
        try:
            # In memory first: written by the library, a disk that is full is an error of its own among many.
            torch.save(content, whole := io.BytesIO())
            with failures.told(place.parent):
                _at_once(place, whole.getbuffer())
                finish(manifest, {"did": did, "findings": list(found)})
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._say(f"{named(steps[-1])[0]}: the network cannot be kept, an interrupted run makes it again: {error}")
        return Made(content, did, found)


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """The same numbers again: seeds, and one thread, since more would add up in another order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def kept(inputs: Mapping[str, Any], suffix: str) -> Path:
    """Where what is made of these inputs is kept."""
    import platformdirs

    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
    folder = Path(platformdirs.user_cache_dir("pocketbench")) / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key}.{suffix}"


def finish(manifest: Path, told: Mapping[str, Any]) -> None:
    """Written last: it is what says that a stage is whole."""
    _at_once(manifest, json.dumps(told).encode())


def _at_once(place: Path, content: bytes | memoryview) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        (Path(scratch) / "made").write_bytes(content)
        (Path(scratch) / "made").replace(place)


def _arrays(batch: Any) -> Iterator[Any]:
    if isinstance(batch, (tuple, list)):
        for one in batch:
            yield from _arrays(one)
    else:
        yield np.asarray(batch.detach().cpu().numpy() if hasattr(batch, "detach") else batch)
