"""From a workload to artifacts: convert, apply the recipe's step, check it, judge it, keep it.

Every stage is kept by what went into it, so that an interrupted run goes on where it was, and the same inputs give the
same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketbench import __version__
from pocketbench.compress import artifact, compare, failures, interface, networks, source
from pocketbench.compress.artifact import Artifact
from pocketbench.compress.quiet import quiet
from pocketbench.compress.recipe import (
    REFERENCE,
    Context,
    Done,
    Inputs,
    Recipe,
    Sample,
    Say,
    StepFailed,
    create,
    file_name,
    processor,
)
from pocketbench.errors import UsageError
from pocketbench.fleet.progress import alive, working
from pocketbench.workload import Workload

PACKAGES = (
    "torch",
    "torchao",
    "torch-pruning",
    "onnx2torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "numpy",
)
SEED = 0
JUDGED = 32
# Below this an output is not the source's any more; below the second a person should know.
REFUSED, WARNED = 0.9, 0.98


@dataclass(frozen=True)
class Failed:
    """A recipe that could not be made for a format, and why."""

    recipe: str
    format: str
    why: str


def make(
    workload: Workload,
    recipes: Sequence[Recipe],
    formats: Sequence[str],
    folder: Path,
    say: Say,
    target: str = "",
    read: source.Read | None = None,
) -> Iterator[Artifact | Failed]:
    """Each recipe in each format, in that order, each followed by its control where it has one.

    `read` is what source.read() gave, for several targets of one workload. UsageError: it lacks what a recipe needs.
    """
    read = read or source.read(workload, recipes, say)
    every = _with_controls(recipes)
    job = _Job(workload, read.network, read.samples, folder, target or processor(), say, len(every) * len(formats))
    for form in formats:
        for recipe in every:
            try:
                if recipe not in recipes:
                    source.check(workload, [recipe])
                with failures.told(folder), quiet():
                    made = job.make(recipe, form)
            except StepFailed as error:
                yield Failed(recipe.text, form, str(error))
            except UsageError as error:
                if recipe in recipes:
                    raise
                yield Failed(recipe.text, form, str(error))
            else:
                yield made


def _with_controls(recipes: Sequence[Recipe]) -> list[Recipe]:
    chosen = [one for recipe in recipes for one in (recipe, recipe.control) if one is not None]
    return list(dict.fromkeys(chosen))


class _Job:
    """What the stages of one run share."""

    def __init__(
        self,
        workload: Workload,
        network: source.Network,
        found: Sequence[Inputs],
        folder: Path,
        target: str,
        say: Say,
        artifacts: int,
    ) -> None:
        self._workload, self._network, self._found = workload, network, found
        self._folder, self._say, self._target = folder, say, target
        # Made or found by now: said once.
        self._known: set[Path] = set()
        self._common = {
            "source": network.sha256,
            "calibration": source.digest(found),
            "versions": {name: version for name in PACKAGES if (version := _version(name))},
            "pocketbench": __version__,
            "code": _code(),
            "seed": SEED,
        }
        self._networks = networks.Networks(workload, network, found, self._common, say)
        self._tell, self._begun = working(say, f"{network.stem}: artifact", artifacts), 0
        self._unconverted: dict[tuple[str, str], str] = {}

    def make(self, recipe: Recipe, form: str) -> Artifact:
        """One artifact. StepFailed."""
        self._tell(self._begun)
        self._begun += 1
        reference, told = self._stage(Recipe("+".join(recipe.on_network) or REFERENCE, recipe.on_network), form, None)
        if recipe.on_file:
            reference, told = self._stage(recipe, form, reference)
        path = self._folder / file_name(self._network.stem, recipe, form)
        beside = path.with_suffix(path.suffix + ".json")
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            written, manifest = Path(scratch) / path.name, Path(scratch) / beside.name
            shutil.copy(reference, written)
            manifest.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
            written.replace(path)
            manifest.replace(beside)
        return Artifact(path, recipe.text, form, told, tuple(told["findings"]))

    def _stage(self, recipe: Recipe, form: str, before: Path | None) -> tuple[Path, Mapping[str, Any]]:
        inputs: dict[str, Any] = {"recipe": recipe.text, "format": form, "target": self._target, **self._common}
        if recipe.on_network:
            inputs |= self._networks.learned(recipe.on_network)
        kept = networks.kept(inputs, form)
        manifest = kept.with_suffix(".json")
        if manifest.is_file():
            if kept not in self._known:
                self._say(f"{self._network.stem}: {recipe.text} for {form}: {networks.FROM_CACHE}")
        else:
            made = self._networks.after(recipe.on_network)
            self._say(f"{self._network.stem}: {recipe.text} for {form}")
            # Inside, as what fills the disk is gone with the folder.
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch, failures.told(kept.parent):
                written = Path(scratch) / f"made.{form}"
                if before is None or recipe.on_file is None:
                    with alive(self._say, f"{self._network.stem}: {recipe.text} for {form}"):
                        done = self._convert_once(recipe, made, form, written)
                else:
                    done = self._apply(recipe.on_file, form, before, written)
                did = {**made.did, **done.facts}
                told = {**inputs, "did": did, "findings": [*made.findings, *done.findings]}
                artifact.embed(written, form, {**inputs, "did": did})
                # Beside the file alone, which says it by itself.
                told |= interface.told(written, form)
                written.replace(kept)
                networks.finish(manifest, told)
        self._known.add(kept)
        return kept, json.loads(manifest.read_text())

    def _convert_once(self, recipe: Recipe, made: networks.Made, form: str, target: Path) -> Done:
        """A failure is kept for the next recipe: all would be tried over again, to the same end."""
        tried = recipe.text, form
        if tried in self._unconverted:
            raise StepFailed(self._unconverted[tried])
        try:
            return self._convert(recipe.on_network, made, form, target)
        except StepFailed as error:
            self._unconverted[tried] = str(error)
            raise

    def _convert(self, steps: Sequence[str], made: networks.Made, form: str, target: Path) -> Done:
        from pocketbench.convert import to_litert, to_onnx

        if made.content is None:
            from pocketbench.compress import onnx_graph
            from pocketbench.convert import onnx_file

            if form == "onnx":
                facts = onnx_file.convert(self._network.content, target)
                changed = len(facts) > 1
                found = self._agree(target, form, _runner(form)(self._network.content), "the file") if changed else ()
                return Done(facts, found)
            onnx_graph.load(self._network.content)
        if not self._found:
            raise StepFailed(
                f"{self._workload.path.name}: calibration_batches() is needed to know the network's inputs"
            )
        example, names = self._found[0], self._networks.input_names
        if not steps or steps[-1] != "int8-qat":
            try:
                network = self._networks.module(made)
                convert = to_onnx.convert if form == "onnx" else to_litert.convert
                facts = convert(network, example, names, target)
                self._agree(target, form, _eager(network), compare_with="the network")
            except StepFailed as error:
                if made.content is not None:
                    raise
                return self._second_way(target, error)
            return Done(facts)
        from pocketbench.compress import qat

        network = qat.finish(self._networks.module(made), form)
        if form == "onnx":
            facts = to_onnx.convert(network, example, names, target)
        else:
            facts = to_litert.convert(network, example, names, target, rounded=True)
        checked = qat.written(target, form, self._target)
        return Done({**facts, **checked.facts}, self._agree(target, form, _eager(network), compare_with="the network"))

    def _second_way(self, target: Path, first: StepFailed) -> Done:
        """From an .onnx file to TFLite."""
        from pocketbench.convert import with_onnx2tf

        self._say(f"{first}; onnx2tf is tried")
        try:
            facts = with_onnx2tf.convert(self._network.content, self._found, target, self._say)
        except StepFailed as error:
            raise StepFailed(f"{first}; and {error}") from error
        return Done(facts, (f"converted by {with_onnx2tf.NAME}: {first}",))

    def _apply(self, step_name: str, form: str, before: Path, target: Path) -> Done:
        step = create(step_name, form)
        samples = self._samples(before, form)
        done = step.apply(before, target, Context(samples, self._target, self._say))
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


def _eager(network: Any) -> compare.Run:
    from pocketbench.compress import training

    def run(sample: Sample) -> compare.Arrays:
        return [one.numpy() for one in training.outputs(network, list(sample.values()))]

    return run


def _runner(form: str) -> Callable[[Path], compare.Run]:
    if form == "onnx":
        from pocketbench.compress import onnx_quantize

        return onnx_quantize.runner
    from pocketbench.compress import tflite_quantize

    return tflite_quantize.runner


def _inputs(path: Path, form: str) -> Mapping[str, list[int]]:
    """Shapes by name, in the file's order; 0 where a dimension is open."""
    return {
        one["name"]: [size if isinstance(size, int) else 0 for size in one["shape"]]
        for one in interface.told(path, form)["inputs"]
    }


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
