"""Choosing a calibrator: each is tried, and judged on samples that none has seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketbench.compress import compare
from pocketbench.compress.recipe import Context, Sample, StepFailed
from pocketbench.fleet.progress import working

# For judging a calibrator: samples that it does not see.
HELD_OUT = 0.25


@dataclass(frozen=True)
class Chosen:
    """The one with the least noise, the file that it gave, and the noise of all."""

    name: str
    content: bytes
    noise: Mapping[str, float]


def choose(
    names: Collection[str],
    quantize: Callable[[str, Iterator[Sample]], None],
    written: Path,
    runner: Callable[[Path], compare.Run],
    source: Path,
    context: Context,
) -> Chosen:
    """Try each on three quarters of the samples, judge it on the rest, and let the best one have them all.

    `quantize` writes the file of a calibrator to `written`; `runner` opens files. StepFailed: too few samples.
    """
    fit, judge = _split(context.samples)
    tell = working(context.say, "calibration: sample", len(names) * len(fit) + len(context.samples))
    seen = itertools.count(1)

    def told(samples: Sequence[Sample]) -> Iterator[Sample]:
        for sample in samples:
            yield sample
            tell(next(seen))

    before = compare.outputs(runner(source), judge)
    noise: dict[str, float] = {}
    for name in names:
        quantize(name, told(fit))
        noise[name] = compare.worst_noise(compare.apart(before, compare.outputs(runner(written), judge)))
    best = min(noise, key=lambda name: noise[name])
    quantize(best, told(context.samples))
    return Chosen(best, written.read_bytes(), noise)


def _split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Those to calibrate with, and every fourth to judge with."""
    if len(samples) < 8:
        raise StepFailed(f"calibration_batches() gave {len(samples)} samples; at least 8 are needed, 100 are better")
    every = round(1 / HELD_OUT)
    judge = list(samples[::every])
    return [sample for number, sample in enumerate(samples) if number % every], judge
