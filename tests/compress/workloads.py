"""Workloads that can train in a second: bars at one of eight places, which a small network tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pocketbench.compress import pipeline
from pocketbench.compress.artifact import Artifact
from pocketbench.compress.recipe import parse
from pocketbench.workload import load

BARS = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional

def bars(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8, count)
    pixels = rng.random((count, 1, 16, 16), dtype=np.float32) * 0.3
    for item, label in enumerate(labels):
        pixels[item, 0, 2 * label : 2 * label + 2] += 1
    return torch.from_numpy(pixels), torch.from_numpy(labels)

def score(predict):
    raise NotImplementedError

def network(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * width, 8))

def train(net, epochs=4):
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for inputs, labels in train_batches():
            optimizer.zero_grad()
            loss(net(inputs), labels).backward()
            optimizer.step()
    return net.eval()

def model():
    torch.manual_seed(0)
    return train(network(16))

def student():
    return network(4)

def calibration_batches():
    inputs, _ = bars(32, 1)
    yield inputs

def train_batches():
    inputs, labels = bars(512, 2)
    for chosen in torch.randperm(512).split(64):
        yield inputs[chosen], labels[chosen]

def loss(outputs, targets):
    return functional.cross_entropy(outputs, targets)
"""


def write(folder: Path, text: str = BARS) -> Path:
    """The workload as a file."""
    path = folder / "bars.py"
    path.write_text(text)
    return path


def made(
    path: Path, recipes: Sequence[str], formats: Sequence[str]
) -> tuple[list[Artifact], list[pipeline.Failed], list[str]]:
    """Artifacts, what failed, and what was said."""
    said: list[str] = []
    out = path.parent / "out"
    out.mkdir(exist_ok=True)
    outcome = list(pipeline.make(load(path), [parse(text) for text in recipes], formats, out, said.append))
    return (
        [one for one in outcome if isinstance(one, Artifact)],
        [one for one in outcome if isinstance(one, pipeline.Failed)],
        said,
    )
