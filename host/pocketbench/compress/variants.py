"""`bench --workload W --recipe A …`: make the variants that are then measured like any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from pocketbench.compress import disjoint
from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import DeviceError, UsageError
from pocketbench.models import ModelFile, open_model
from pocketbench.plan import ORIGINAL, RuntimeChoice, readers
from pocketbench.workload import Workload

if TYPE_CHECKING:
    from pocketbench.compress.recipe import Recipe
    from pocketbench.compress.source import Read

Say = Callable[[str], None]
ARM64 = "aarch64"


@dataclass
class Variants:
    """Models by the processor that they are for, what there is to say, and recipes that came to nothing."""

    target_of: Mapping[str, str]
    formats: Sequence[str]
    models: dict[str, list[ModelFile]] = field(default_factory=dict)
    # What there is to say, and of which recipes in which formats.
    said: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    # Why, by recipe.
    failed: dict[str, str] = field(default_factory=dict)
    # Digests of what the recipes learnt from, by the function that gave it.
    seen: dict[str, frozenset[str]] = field(default_factory=dict)
    # The workload's network and samples: a model() may train for minutes.
    read: Read | None = None
    # Stages that were made, or taken from the cache, so far.
    stages: set[str] = field(default_factory=set)

    @property
    def remarks(self) -> list[str]:
        """Each thing once, with the variants that it is true of."""
        lines = []
        for text, recipes in self.said.items():
            of = [
                recipe if len(set(forms)) == len(self.formats) else f"{recipe} for {', '.join(dict.fromkeys(forms))}"
                for recipe, forms in recipes.items()
            ]
            lines.append(f"{', '.join(of)}: {text}")
        return lines

    def say(self, text: str, recipe: str, form: str) -> None:
        """One thing more to say."""
        self.said.setdefault(text, {}).setdefault(recipe, []).append(form)

    def of(self, device: str) -> list[ModelFile]:
        """The models for a device."""
        return self.models[self.target_of[device]]


def make(
    workload: Workload,
    options: Mapping[str, Any],
    runtimes: Sequence[RuntimeChoice],
    names: Sequence[str],
    entries: Mapping[str, DeviceEntry],
    earlier: Variants | None = None,
) -> Variants:
    """Every recipe in every format that is asked for, the original first. UsageError as `bench compress` has them.

    `earlier` ones of the same workload and devices have asked both already.
    """
    from pocketbench.compress import source
    from pocketbench.compress.failures import interruptible
    from pocketbench.compress.quiet import terminal
    from pocketbench.compress.recipe import FORMATS, parse

    recipes = [parse(text) for text in dict.fromkeys([ORIGINAL, *options["recipes"]])]
    formats = options["formats"] or [one for one in FORMATS if _read(one, runtimes)]
    if not formats:
        raise UsageError(f"--runtime {', '.join(map(str, runtimes))} reads none of {', '.join(FORMATS)}")
    with terminal() as say, interruptible():
        if earlier is None or earlier.read is None:
            targets, read = {n: _processor(n, entries[n], say) for n in names}, source.read(workload, recipes, say)
        else:
            source.check(workload, recipes)
            targets, read = dict(earlier.target_of), earlier.read
        made = Variants(targets, formats, read=read, stages=earlier.stages if earlier is not None else set())
        _make_all(made, workload, recipes, read, _news(say, made.stages))
    made.seen = dict(earlier.seen) if earlier is not None else {}
    if not made.seen:
        made.seen["calibration_batches"] = disjoint.digests(read.samples)
    if any(recipe.on_network for recipe in recipes) and "train_batches" not in made.seen:
        inputs = len(next(iter(read.samples), ()))
        made.seen["train_batches"] = disjoint.digests(source.trained_on(workload, inputs))
    return made


def _make_all(made: Variants, workload: Workload, recipes: Sequence[Recipe], read: Read, say: Say) -> None:
    from pocketbench.compress import pipeline
    from pocketbench.compress.artifact import Artifact

    for target in dict.fromkeys(made.target_of.values()):
        folder = Path(platformdirs.user_cache_dir("pocketbench")) / "variants" / f"{workload.sha256[:12]}-{target}"
        folder.mkdir(parents=True, exist_ok=True)
        made.models[target] = []
        came = set()
        why: dict[str, str] = {}
        for one in pipeline.make(workload, recipes, made.formats, folder, say, target, read):
            if isinstance(one, Artifact):
                made.models[target].append(replace(open_model(one.path), recipe=one.recipe))
                for finding in one.findings:
                    made.say(finding, one.recipe, one.format)
                came.add(one.recipe)
            else:
                made.say(f"not made: {one.why}", one.recipe, one.format)
                why[one.recipe] = one.why
        made.failed.update({recipe: told for recipe, told in why.items() if recipe not in came})


def _news(say: Say, stages: set[str]) -> Say:
    """Without what comes from the cache because it was made, or told, before."""
    from pocketbench.compress.networks import FROM_CACHE

    def told(text: str) -> None:
        stage = text.removesuffix(f": {FROM_CACHE}")
        if stage == text or stage not in stages:
            say(text)
        stages.add(stage)

    return told


def _read(form: str, runtimes: Sequence[RuntimeChoice]) -> bool:
    try:
        readers(ModelFile(Path(f"model.{form}"), ()), runtimes)
    except UsageError:
        return False
    return True


def _processor(name: str, entry: DeviceEntry, say: Say) -> str:
    """What files for this device are to suit; 64-bit ARM where it cannot be asked now."""
    if entry.transport == "local":
        from pocketbench.compress.recipe import processor

        return processor()
    from pocketbench.deploy.probe import probe
    from pocketbench.transports import create

    transport = create(name, entry)
    try:
        transport.open()
        return probe(name, transport, entry).arch
    except DeviceError as error:
        say(f"{error}: the variants for it are made for {ARM64}")
        return ARM64
    finally:
        transport.close()
