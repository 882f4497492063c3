"""Choosing a calibrator: each is tried, and judged on samples that none has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketbench.compress import compare
from pocketbench.compress.recipe import Sample, StepFailed

# For judging a calibrator: samples that it does not see.
HELD_OUT = 0.25


@dataclass(frozen=True)
class Chosen:
    """The one with the least noise, the file that it gave, and the noise of all."""

    name: str
    content: bytes
    noise: Mapping[str, float]


def choose(
    names: Iterable[str],
    quantize: Callable[[str, Sequence[Sample]], None],
    written: Path,
    runner: Callable[[Path], compare.Run],
    source: Path,
    samples: Sequence[Sample],
) -> Chosen:
    """Try each on three quarters of the samples, judge it on the rest, and let the best one have them all.

    `quantize` writes the file of a calibrator to `written`; `runner` opens files. StepFailed: too few samples.
    """
    fit, judge = _split(samples)
    before = compare.outputs(runner(source), judge)
    noise: dict[str, float] = {}
    for name in names:
        quantize(name, fit)
        noise[name] = compare.worst_noise(compare.apart(before, compare.outputs(runner(written), judge)))
    best = min(noise, key=lambda name: noise[name])
    quantize(best, samples)
    return Chosen(best, written.read_bytes(), noise)


def _split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Those to calibrate with, and every fourth to judge with."""
    if len(samples) < 8:
        raise StepFailed(f"calibration_batches() gave {len(samples)} samples; at least 8 are needed, 100 are better")
    every = round(1 / HELD_OUT)
    judge = list(samples[::every])
    return [sample for number, sample in enumerate(samples) if number % every], judge
