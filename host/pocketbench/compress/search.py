"""`--search`: which recipes to try next, cheapest first, and which branches cannot lead to anything.

A branch is a step on the network with what can follow it. What follows is foreseen at its best: as accurate as the
parent's upper limit, smaller and faster by what the step brought by itself. Where something that was measured is as
good as that on every device and runtime, the branch is not tried.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pocketbench.compress.recipe import parse
from pocketbench.figures.goal import Term, better
from pocketbench.plan import ORIGINAL
from pocketbench.results import Result

ON_FILE = ("int8-static", "int8-dynamic", "int8-weight", "fp16", "int4-weight")
# Where the workload can train, and where it cannot; and what comes after each, if it was worth it.
TRAINED, UNTRAINED = ("prune:0.3", "int8-qat"), ("prune:0.1",)
DEEPER: Mapping[str, str] = {"prune:0.3": "prune:0.5", "prune:0.5": "prune:0.7", "prune:0.1": "prune:0.2"}
# Without a bound on accuracy: what has surely lost more than this share of it is no network any more.
LOST = 0.1

Where = tuple[str, str, str, int]


@dataclass(frozen=True)
class Row:
    """A variant beside its original, measured with it: `time` and `size` are shares of the original's; the change of
    accuracy as a fraction, more is better, and the upper limit of that.
    """

    p50_ms: float
    bytes: float
    time: float
    size: float
    change: float
    highest: float
    reference: float
    # Of a change of the metric for the better.
    sign: int = 1

    def followed(self, time: float, size: float) -> Row:
        """At its best after another step that makes it so much smaller and faster."""
        return replace(
            self, p50_ms=self.p50_ms * min(1.0, time), bytes=self.bytes * min(1.0, size), change=self.highest
        )

    def beats(self, other: Row) -> bool:
        """As fast, as small and as accurate as the other can be, whatever their originals are."""
        return self.p50_ms <= other.p50_ms and self.bytes <= other.bytes and self.change >= other.highest


@dataclass
class Search:
    """What was tried, what it gave, and what is still ahead."""

    functions: Collection[str]
    terms: Sequence[Term] = ()
    rows: dict[str, dict[Where, Row]] = field(default_factory=dict)
    # Recipes that are not tried or lead no further, and why.
    dropped: dict[str, str] = field(default_factory=dict)
    _ahead: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        able = set(self.functions)
        networks = TRAINED if {"train_batches", "loss"} <= able else UNTRAINED
        for one in (*ON_FILE, *networks, "distill"):
            if all(function in able for _, function in parse(one).needs()):
                self._ahead.append(one)

    def wave(self) -> tuple[str, ...]:
        """What to try next: all for which no network has to be made, else the next one for which one has; nothing at
        the end.
        """
        cheap = tuple(one for one in self._ahead if not is_costly(one))
        wave = cheap or tuple(self._ahead[:1])
        self._ahead = [one for one in self._ahead if one not in wave]
        return wave

    def give_up(self, recipes: Sequence[str], why: str) -> None:
        """These are not tried."""
        self.dropped.update(dict.fromkeys(recipes, why))

    def learn(
        self,
        tried: Sequence[str],
        results: Sequence[Result],
        originals: Mapping[str, str],
        failed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """What a wave gave, and why some of it could not be made; what follows from it is ahead."""
        by_id = {result.id: result for result in results}
        for result in results:
            original = by_id.get(originals.get(result.id, ""))
            row = _row(result, original) if original is not None else None
            if row is not None and result.model.recipe:
                where = (result.device, result.runtime.name, result.delegate.requested, result.threads)
                self.rows.setdefault(result.model.recipe, {})[where] = row
        for recipe in tried:
            if recipe not in self.rows:
                self.dropped[recipe] = failed.get(recipe, "no row of it is OK")
            elif all(self._hopeless(row) for row in self.rows[recipe].values()):
                self.dropped[recipe] = "loses too much accuracy"
        for recipe in tried:
            if recipe not in self.dropped:
                self._ahead += self._worth_it(recipe)

    def best(self) -> tuple[str, ...]:
        """Recipes of which some row is beaten by no other on its device, in the order in which they were tried."""
        return tuple(
            recipe
            for recipe, rows in self.rows.items()
            if recipe not in self.dropped
            and any(not self._beaten(w, replace(row, highest=row.change), recipe) for w, row in rows.items())
        )

    def _worth_it(self, recipe: str) -> Iterator[str]:
        if recipe in ON_FILE or recipe == "int8-qat" or "+" in recipe:
            return
        rows = self.rows[recipe]
        for step in ON_FILE:
            found = self.rows.get(step)
            if found is None or step in self.dropped:
                continue
            after = {w: row.followed(found[w].time, found[w].size) for w, row in rows.items() if w in found}
            yield from self._unless_beaten(f"{recipe}+{step}", after)
        if recipe in DEEPER:
            deeper = DEEPER[recipe]
            share = (1 - float(deeper.partition(":")[2])) / (1 - float(recipe.partition(":")[2]))
            yield from self._unless_beaten(deeper, {w: row.followed(share, share) for w, row in rows.items()})

    def _unless_beaten(self, recipe: str, foreseen: Mapping[Where, Row]) -> Iterator[str]:
        if all(self._beaten(where, row) for where, row in foreseen.items()):
            self.dropped[recipe] = "could not be better than what there is"
        else:
            yield recipe

    def _beaten(self, where: Where, row: Row, own: str = "") -> bool:
        return any(
            other.beats(row)
            for recipe, rows in self.rows.items()
            if recipe != own
            for there, other in rows.items()
            if there[0] == where[0]
        )

    def _hopeless(self, row: Row) -> bool:
        allowed = [term.least_change(row.reference, row.sign) for term in self.terms if term.name == "accuracy"]
        # Of an error rate it is the rest that can be lost.
        whole = row.reference if row.sign > 0 else 1 - row.reference
        return row.highest < (max(allowed) if allowed else -LOST * whole)


def is_costly(recipe: str) -> bool:
    """Does it begin with a network that has to be made, rather than with one that is there?"""
    return recipe not in ON_FILE and "+" not in recipe


def _row(result: Result, original: Result) -> Row | None:
    """None for the original, and where it cannot be judged."""
    before, after, found = original.latency_ms, result.latency_ms, result.accuracy
    if result.model.recipe == ORIGINAL or result.status != "OK" or original.status != "OK" or found is None:
        return None
    if before is None or after is None or before.p50 is None or after.p50 is None or found.difference is None:
        return None
    ends = found.difference_ci95 or (found.difference, found.difference)
    sign = better(found)
    highest = max(sign * one for one in ends)
    return Row(
        p50_ms=after.p50,
        bytes=result.model.bytes,
        time=after.p50 / before.p50,
        size=result.model.bytes / original.model.bytes,
        change=sign * found.difference,
        highest=highest,
        reference=found.reference or 0.0,
        sign=sign,
    )
