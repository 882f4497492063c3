"""The measuring loop, on a clock that the test moves."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import pytest

from pocketbench_agent import loop
from pocketbench_agent.loop import Limits, Moves


class Bench:
    """A model whose moves take as long as told; its clock goes on only while it works."""

    def __init__(self, run_ns: Callable[[int], int], bind_ns: int = 10, read_ns: int = 20) -> None:
        self.now = 1_000
        self.runs = 0
        self.order: list[str] = []
        self._run_ns, self._bind_ns, self._read_ns = run_ns, bind_ns, read_ns
        self.waiting = 0

    def bind(self) -> None:
        self.order.append("bind")
        self.now += self._bind_ns

    def run(self) -> None:
        self.order.append("run")
        self.now += self._run_ns(self.runs)
        self.runs += 1

    def read(self) -> None:
        self.order.append("read")
        self.now += self._read_ns + self.waiting
        self.waiting = 0

    @property
    def moves(self) -> Moves:
        return Moves(self.bind, self.run, self.read)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    def make(run_ns: Callable[[int], int] | int, **changes: int) -> Bench:
        made = Bench(run_ns if callable(run_ns) else lambda _: run_ns, **changes)
        monkeypatch.setattr(loop, "CLOCK", lambda: made.now)
        return made

    yield make


def limits(**changes: int) -> Limits:
    given = {"min_runs": 1, "max_runs": 1000, "min_time_ns": 0, "max_time_ns": 10**12} | changes
    return Limits(**given)


def test_each_sample_has_its_two_spans(bench: Callable[..., Bench]) -> None:
    made = bench(lambda k: 100 + k)
    samples = loop.timed(made.moves, limits(min_runs=4))
    assert samples.run_ns.tolist() == [100, 101, 102, 103]
    assert samples.io_ns.tolist() == [30] * 4
    assert samples.every == 1
    assert made.order == ["bind", "run", "read"] * 4


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"min_runs": 7}, 7),
        ({"min_time_ns": 1000}, 10),
        ({"min_time_ns": 1001}, 11),
        ({"min_runs": 20, "min_time_ns": 1000}, 20),
        ({"min_runs": 5, "min_time_ns": 1000}, 10),
        ({"min_runs": 500, "max_time_ns": 1000}, 10),
        ({"min_time_ns": 10**9, "max_runs": 12}, 12),
        ({"min_runs": 500, "max_runs": 3, "max_time_ns": 1000}, 3),
        ({"max_time_ns": 0, "min_runs": 50}, 1),
    ],
)
def test_when_the_timed_runs_end(bench: Callable[..., Bench], changes: dict[str, int], runs: int) -> None:
    samples = loop.timed(bench(70).moves, limits(**changes))
    assert len(samples.run_ns) == len(samples.io_ns) == runs


def test_a_steady_model_is_warm_as_soon_as_it_may_be(bench: Callable[..., Bench]) -> None:
    warm = loop.warm_up(bench(70).moves, min_runs=3, min_time_ns=1000, max_time_ns=10**9)
    assert (warm.runs, warm.steady) == (10, True)
    assert warm.samples.run_ns.tolist() == [70] * 10
    few = loop.warm_up(bench(10_000).moves, min_runs=3, min_time_ns=1000, max_time_ns=10**9)
    assert (few.runs, few.steady) == (3, True)


def test_a_model_that_becomes_faster_is_waited_for(bench: Callable[..., Bench]) -> None:
    made = bench(lambda k: 1000 if k < 36 else 500)
    warm = loop.warm_up(made.moves, min_runs=3, min_time_ns=45_000, max_time_ns=10**9)
    assert warm.steady and warm.runs > 60


def test_a_model_that_never_settles_is_given_up(bench: Callable[..., Bench]) -> None:
    made = bench(lambda k: round(1000 * 1.05**k))
    warm = loop.warm_up(made.moves, min_runs=3, min_time_ns=10_000, max_time_ns=100_000)
    assert not warm.steady
    assert 100_000 <= made.now - 1000 < 150_000


def test_one_sample_in_so_many_is_kept_of_a_long_warm_up(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WARM_UP_KEPT", 16)
    made = bench(lambda k: 100_000 + k, bind_ns=0, read_ns=7)
    warm = loop.warm_up(made.moves, min_runs=100, min_time_ns=1, max_time_ns=1)
    every = warm.samples.every
    assert warm.runs == 100 and every == 8
    assert [ns - 100_000 for ns in warm.samples.run_ns] == list(range(0, 100, every))
    assert warm.samples.io_ns.tolist() == [7] * len(warm.samples.run_ns)


@pytest.mark.parametrize(
    ("values", "steady"),
    [
        ([], False),
        ([5], False),
        ([5, 5], True),
        ([100, 104], False),
        ([900, 100, 100, 103], True),
        ([900, 100, 100, 104], False),
        ([500] * 8 + [100] * 4 + [102] * 4, True),
        ([500] * 8 + [100] * 4 + [96] * 4, False),
        ([100] * 4 + [100, 100, 999, 100] + [100, 100, 100, 999] + [100, 999, 100, 100], True),
    ],
)
def test_is_steady_compares_the_last_two_quarters(values: list[int], steady: bool) -> None:
    assert loop.is_steady(array("q", values)) is steady


def test_probe_reads_twice(bench: Callable[..., Bench]) -> None:
    made = bench(100)
    found = loop.probe(made.moves)
    assert (found.run_ns, found.read_ns, found.reread_ns) == ([100] * 5, [20] * 5, [20] * 5)
    assert made.order == ["bind", "run", "read", "read"] * 5


def test_probe_shows_a_run_that_returns_early(bench: Callable[..., Bench]) -> None:
    made = bench(100)

    def early() -> None:
        made.run()
        made.waiting = 5000

    found = loop.probe(Moves(made.bind, early, made.read))
    assert (found.run_ns, found.read_ns, found.reread_ns) == ([100] * 5, [5020] * 5, [20] * 5)


def test_probe_of_a_slow_model_ends_early(bench: Callable[..., Bench]) -> None:
    found = loop.probe(bench(3_000_000_000).moves)
    assert len(found.run_ns) == 2
