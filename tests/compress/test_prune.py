"""Pruning without labels: what counts, where it is looked at, and how it is spread over the layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="pip install 'pocketbench[compress]'")

import torch

from pocketbench.compress import prune, sensitivity
from pocketbench.compress.recipe import Inputs, NetworkContext, StepFailed


def samples(size: int = 16, count: int = 12) -> list[Inputs]:
    """Dark, with a bright spot near the upper left corner."""
    rng = np.random.default_rng(0)
    found: list[Inputs] = []
    for _ in range(count):
        image = rng.normal(0, 0.05, (1, 1, size, size)).astype(np.float32)
        image[..., 2:5, 2:5] += rng.normal(4, 1)
        found.append((image,))
    return found


def chain(width: int = 8, *after: torch.nn.Module) -> torch.nn.Sequential:
    """Three convolutions, the last one a head of four channels."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, width, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(width, width, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(width, 4, 1),
        *after,
    ).eval()


def test_what_a_sigmoid_hides_counts() -> None:
    """Scores are those of the head, however sure its sigmoid is."""
    plain, sure = chain(), chain(8, torch.nn.Sigmoid())
    for network in (plain, sure):
        network[4].bias.data.fill_(40.0)
    assert not bool((sure(torch.from_numpy(samples()[0][0])) < 1).any())
    first, second = (sensitivity.look(network, samples(), ["4"], print, "prune") for network in (plain, sure))
    assert set(first.scores) == {"0", "2", "4"}
    for name, score in first.scores.items():
        assert float(score.sum()) > 0 and torch.equal(score, second.scores[name])


def test_places_are_where_the_heads_look() -> None:
    """A spot of a hundredth of the map gets a third of them, and the rest is not forgotten; the same ones again."""
    size = 48
    found = sensitivity.look(chain(), samples(size), ["4"], print, "prune").places
    for name in ("0", "2", "4"):
        at = torch.cat(list(found[name]))
        assert len(at) == 12 * sensitivity.POSITIONS and int(at.min()) >= 0 and int(at.max()) < size * size
        near = (at // size < 8) & (at % size < 8)
        assert 0.33 < float(near.float().mean()) < 0.66
    again = sensitivity.look(chain(), samples(size), ["4"], print, "prune").places
    assert all(torch.equal(a, b) for name in found for a, b in zip(found[name], again[name], strict=True))


def test_no_layer_pays_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen channels do little: still no layer loses many more than its share, as long as others have some."""
    network = chain(32)
    network[2].weight.data[:16] *= 1e-2
    network[2].bias.data[:16] *= 1e-2
    given = NetworkContext(samples(), {}, network, print)
    monkeypatch.setattr(sensitivity, "UNEVEN", 1.2)
    after, done = prune.Prune(0.2).apply(network, given)
    assert done.facts["cut"] == pytest.approx(0.2, abs=0.05)
    assert [after.get_submodule(name).out_channels for name in ("0", "2")] == [28, 28]
    # A share that this does not reach: the rest goes as well, and what does little goes first.
    after, done = prune.Prune(0.6).apply(network, given)
    assert done.facts["cut"] == pytest.approx(0.6, abs=0.08)
    assert after.get_submodule("2").out_channels <= 16


def test_what_does_nothing_goes_first() -> None:
    """As much of it as was asked for, and no loss at all."""
    network = chain(32)
    network[2].weight.data[:16] = 0
    network[2].bias.data[:16] = 0
    after, done = prune.Prune(0.25).apply(network, NetworkContext(samples(), {}, network, print))
    assert [after.get_submodule(name).out_channels for name in ("0", "2")] == [32, 24]
    assert done.facts["recovery"]["noise"] < 1e-3


class Twice(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """One layer, called on two maps of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 16, 3, padding=1)
        self.shared = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.head = torch.nn.Conv2d(16, 4, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x).relu()
        return self.head(self.shared(x).relu()[..., ::2, ::2] + self.shared(x[..., ::2, ::2]).relu())


def test_a_layer_called_twice_is_pruned_and_not_solved() -> None:
    """Two calls want two sets of weights."""
    torch.manual_seed(0)
    network = Twice().eval()
    given = NetworkContext(samples(), {}, network, print)
    assert set(sensitivity.look(network, given.samples, ["head"], print, "prune").places) == {"stem", "head"}
    after, done = prune.Prune(0.3).apply(network, given)
    prune.Prune(0.3).check(network, after, given)
    assert done.facts["recovery"]["layers"] == 2


def test_without_a_layer_there_is_nothing_to_prune() -> None:
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten())
    with pytest.raises(StepFailed, match=r"prune:0\.1: the network has no convolution or linear layer"):
        prune.Prune(0.1).apply(network, NetworkContext(samples(), {}, network, print))


class Blocks(torch.nn.Module):  # type: ignore[misc]
    """Two blocks on a common stream, with a depthwise layer inside, or without."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        groups = 32 if deep else 1
        self.stem = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.expand = torch.nn.ModuleList(torch.nn.Conv2d(8, 32, 1) for _ in range(2))
        self.middle = torch.nn.ModuleList(torch.nn.Conv2d(32, 32, 3, padding=1, groups=groups) for _ in range(2))
        self.project = torch.nn.ModuleList(torch.nn.Conv2d(32, 8, 1) for _ in range(2))
        self.last = torch.nn.Conv2d(8, 16, 1)
        self.head = torch.nn.Conv2d(16, 4, 1)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Of the head."""
        stream = self.stem(given).relu()
        for expand, middle, project in zip(self.expand, self.middle, self.project, strict=True):
            stream = stream + project(middle(expand(stream).relu()).relu())
        found: torch.Tensor = self.head(self.last(stream).relu())
        return found


def test_what_stays_inside_a_block() -> None:
    """The common stream belongs to nobody; beside depthwise layers only what passes through them is cut."""
    example = (torch.from_numpy(samples()[0][0]),)
    inside = ["expand.0", "expand.1", "middle.0", "middle.1"]
    assert prune.within(Blocks(True).eval(), example, ["head"]) == inside
    assert prune.within(Blocks(False).eval(), example, ["head"]) == [*inside, "last"]


def test_the_ranking_that_serves_the_outputs_best_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On samples that nothing was fitted to."""
    network = Blocks(True).eval()
    given = NetworkContext(samples(count=40), {}, network, print)
    noises: list[float] = []
    cuts: list[float] = []
    noise, nearest = prune._noise, prune._nearest

    def heard(source: Any, made: Any, judged: Any) -> float:
        assert all(one is two for one, two in zip(judged, given.samples[: prune.JUDGED], strict=True))
        noises.append(noise(source, made, judged))
        return noises[-1]

    def seen(*arguments: Any) -> prune.Pruned:
        made = nearest(*arguments)
        cuts.append(made.cut)
        return made

    monkeypatch.setattr(prune, "_noise", heard)
    monkeypatch.setattr(prune, "_nearest", seen)
    after, done = prune.Prune(0.25).apply(network, given)
    # Before and after, of the one and of the other.
    (_, first, _, second), (one, other) = noises, cuts
    better = second <= prune.BLIND * first and other >= prune.AS_MUCH * one
    assert done.facts["importance"] == (prune.MAGNITUDE if better else prune.OUTPUTS)
    assert done.facts["recovery"]["noise"] == pytest.approx(second if better else first, abs=1e-4)
    assert after.head.out_channels == 4


def test_channels_count_alike_whether_they_stand_first_or_last() -> None:
    """Of a detector, [1, channels, places] or [1, places, channels]: pixels hide no scores."""
    scale = torch.tensor([640.0, 1.0])

    def last(lost: bool) -> Any:
        return lambda x: torch.stack([x, x * (not lost)], -1) * scale

    first = [(np.random.default_rng(0).random((1, 600), dtype=np.float32),) for _ in range(3)]
    noise = prune._noise(last(False), last(True), first)
    turned = prune._noise(lambda x: last(False)(x).mT, lambda x: last(True)(x).mT, first)
    assert noise == turned > 0.5
