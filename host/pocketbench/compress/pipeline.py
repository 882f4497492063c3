"""From a workload to artifacts: convert, apply the recipe's step, check it, judge it, keep it.

Every stage is kept by what went into it, so that an interrupted run goes on where it was, and the same inputs give the
same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketbench import __version__
from pocketbench.compress import artifact, compare, failures, source
from pocketbench.compress.artifact import Artifact
from pocketbench.compress.recipe import REFERENCE, Context, Done, Recipe, Sample, StepFailed, create, file_name
from pocketbench.workload import Workload

PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "numpy",
)
JUDGED = 32
# Below this an output is not the source's any more; below the second a person should know.
REFUSED, WARNED = 0.9, 0.98

Say = Callable[[str], None]


@dataclass(frozen=True)
class Failed:
    """A recipe that could not be made for a format, and why."""

    recipe: str
    format: str
    why: str


def make(
    workload: Workload, recipes: Sequence[Recipe], formats: Sequence[str], folder: Path, say: Say, target: str = ""
) -> Iterator[Artifact | Failed]:
    """Each recipe in each format, in that order. UsageError: the workload lacks what a recipe needs."""
    source.check(workload, recipes)
    found = source.samples(workload)
    say(f"{workload.path.name}: model()")
    network = source.network(workload)
    job = _Job(workload, network, found, folder, target or platform.machine(), say)
    for form in formats:
        for recipe in recipes:
            try:
                with failures.told(folder):
                    made = job.make(recipe, form)
            except StepFailed as error:
                yield Failed(recipe.text, form, str(error))
            else:
                yield made


class _Job:
    """What the stages of one run share."""

    def __init__(
        self,
        workload: Workload,
        network: source.Network,
        found: Sequence[source.Inputs],
        folder: Path,
        target: str,
        say: Say,
    ) -> None:
        self._workload, self._network, self._found = workload, network, found
        self._folder, self._target, self._say = folder, target, say
        self._calibration = source.digest(found)
        self._versions = {name: version for name in PACKAGES if (version := _version(name))}

    def make(self, recipe: Recipe, form: str) -> Artifact:
        """One artifact. StepFailed."""
        reference, told = self._stage(REFERENCE, form, None)
        if recipe.steps:
            reference, told = self._stage(recipe.text, form, reference)
        path = self._folder / file_name(self._network.stem, recipe, form)
        beside = path.with_suffix(path.suffix + ".json")
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            written, manifest = Path(scratch) / path.name, Path(scratch) / beside.name
            shutil.copy(reference, written)
            manifest.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
            written.replace(path)
            manifest.replace(beside)
        return Artifact(path, recipe.text, form, told, tuple(told["findings"]))

    def _stage(self, text: str, form: str, before: Path | None) -> tuple[Path, Mapping[str, Any]]:
        import platformdirs

        inputs = {
            "recipe": text,
            "format": form,
            "source": self._network.sha256,
            "calibration": self._calibration,
            "versions": self._versions,
            "pocketbench": __version__,
            "code": _code(),
            "target": self._target,
            "seed": 0,
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
        kept = Path(platformdirs.user_cache_dir("pocketbench")) / "artifacts" / f"{key}.{form}"
        manifest = kept.with_suffix(".json")
        if not manifest.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            self._say(f"{self._network.stem}: {text} for {form}")
            # Inside, as what fills the disk is gone with the folder.
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch, failures.told(kept.parent):
                made = Path(scratch) / f"made.{form}"
                done = self._convert(form, made) if before is None else self._apply(text, form, before, made)
                told = {**inputs, "did": dict(done.facts), "findings": list(done.findings)}
                artifact.embed(made, form, {**inputs, "did": dict(done.facts)})
                made.replace(kept)
                (Path(scratch) / "manifest").write_text(json.dumps(told))
                # The manifest is what says that the stage is whole.
                (Path(scratch) / "manifest").replace(manifest)
        return kept, json.loads(manifest.read_text())

    def _convert(self, form: str, target: Path) -> Done:
        from pocketbench.convert import to_litert, to_onnx

        if self._network.is_file:
            if form != "onnx":
                raise StepFailed(f"{self._network.stem}.onnx: this version has no way from .onnx to {form}")
            from pocketbench.convert import onnx_file

            facts = onnx_file.convert(self._network.content, target)
            changed = len(facts) > 1
            found = self._agree(target, form, _runner(form)(self._network.content), "the file") if changed else ()
            return Done(facts, found)
        if not self._found:
            raise StepFailed(
                f"{self._workload.path.name}: calibration_batches() is needed to know the network's inputs"
            )
        example = self._found[0]
        names = [f"input{position}" for position in range(len(example))] if len(example) > 1 else ["input"]
        convert = to_onnx.convert if form == "onnx" else to_litert.convert
        facts = convert(self._network.content, example, names, target)
        self._agree(target, form, self._eager(), compare_with="the network")
        return Done(facts)

    def _apply(self, text: str, form: str, before: Path, target: Path) -> Done:
        step = create(text, form)
        samples = self._samples(before, form)
        done = step.apply(before, target, Context(samples, self._target))
        checked = step.check(before, target)
        found = self._agree(target, form, _runner(form)(before), compare_with="its source")
        return Done({**done.facts, **checked.facts}, (*done.findings, *checked.findings, *found))

    def _samples(self, path: Path, form: str) -> list[Sample]:
        shapes = _inputs(path, form)
        names = list(shapes)
        for sample in self._found[:1]:
            given, wanted = [list(array.shape) for array in sample], list(shapes.values())
            if not _fit(given, wanted):
                raise StepFailed(
                    f"calibration_batches() gives {', '.join(map(str, given))}; the network wants "
                    f"{', '.join(map(str, wanted))} ({', '.join(names)})"
                )
        return [dict(zip(names, sample, strict=True)) for sample in self._found]

    def _eager(self) -> compare.Run:
        import torch

        def run(sample: Sample) -> compare.Arrays:
            with torch.no_grad():
                made = self._network.content(*(torch.from_numpy(array) for array in sample.values()))
            return [one.numpy() for one in (made if isinstance(made, (tuple, list)) else (made,))]

        return run

    def _agree(self, made: Path, form: str, reference: compare.Run, compare_with: str) -> tuple[str, ...]:
        """Findings in words; StepFailed where an output is not the source's any more."""
        samples = self._samples(made, form)[:JUDGED]
        if not samples:
            return (f"outputs were not compared with those of {compare_with}: no calibration_batches()",)
        findings = []
        for one in compare.agreement(reference, _runner(form)(made), samples):
            if one.collapsed:
                raise StepFailed(
                    f"output {one.output}: {len(one.collapsed)} of its channels do not move any more (first: "
                    f"{one.collapsed[0]}), where those of {compare_with} do"
                )
            if one.noise == float("inf"):
                raise StepFailed(
                    f"output {one.output} holds NaN or infinity, or has another shape than that of {compare_with}"
                )
            if not one.cosine >= REFUSED:
                raise StepFailed(f"output {one.output} is not that of {compare_with} any more: cosine {one.cosine:.3f}")
            if one.cosine < WARNED:
                findings.append(f"output {one.output} differs from that of {compare_with}: cosine {one.cosine:.3f}")
        return tuple(findings)


def _fit(given: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> bool:
    """An open dimension, 0, takes any size."""
    return [len(shape) for shape in given] == [len(shape) for shape in wanted] and all(
        size in (0, have) for g, w in zip(given, wanted, strict=True) for have, size in zip(g, w, strict=True)
    )


def _runner(form: str) -> Callable[[Path], compare.Run]:
    if form == "onnx":
        from pocketbench.compress import onnx_quantize

        return onnx_quantize.runner
    from pocketbench.compress import tflite_quantize

    return tflite_quantize.runner


def _inputs(path: Path, form: str) -> Mapping[str, list[int]]:
    """Shapes by name, in the file's order; 0 where a dimension is open."""
    if form == "onnx":
        import onnx

        graph = onnx.load(path, load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        return {
            one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
            for one in graph.input
            if one.name not in constants
        }
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(path)).get_signature_runner().get_input_details()
    return {name: [int(size) for size in details[name]["shape"]] for name in sorted(details)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code() -> str:
    """Of our own steps: other code, other artifacts."""
    total = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *(here.parent / "convert").glob("*.py")]):
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
