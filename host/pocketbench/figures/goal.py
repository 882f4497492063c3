"""`--goal "accuracy>=-1pt,p50<=16ms"`: which of the measured variants meets it, or came nearest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pocketbench.errors import UsageError, nearest
from pocketbench.plan import ORIGINAL
from pocketbench.results import Accuracy, Result


@dataclass(frozen=True)
class Quantity:
    """What a goal may speak of: its unit, and how it is read from a result."""

    unit: str
    of: Callable[[Result], float | None]


def _latency(result: Result) -> float | None:
    return result.latency_ms.p50 if result.latency_ms else None


QUANTITIES: Mapping[str, Quantity] = {
    "p50": Quantity("ms", _latency),
    "p90": Quantity("ms", lambda r: r.latency_ms.p90 if r.latency_ms else None),
    "p99": Quantity("ms", lambda r: r.latency_ms.p99 if r.latency_ms else None),
    "load": Quantity("ms", lambda r: r.load_ms),
    "size": Quantity("MB", lambda r: r.model.bytes / 1e6),
    "memory": Quantity("MB", lambda r: r.memory_mb.peak if r.memory_mb else None),
    "accuracy": Quantity("", lambda r: r.accuracy.value if r.accuracy else None),
}
TERM = re.compile(r"\s*([a-z0-9]+)\s*(<=|>=)\s*([+-]?\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*")


@dataclass(frozen=True)
class Term:
    """One bound. Accuracy is a fraction, or `points` from the original's, more is better; of a metric where less is
    better the fraction is the most that it may be.
    """

    text: str
    name: str
    at_most: bool
    limit: float
    points: bool = False

    def short(self, result: Result) -> float | None:
        """By which share of the bound a result misses it; 0 where it holds, None where the value is unknown."""
        value, limit, sign = QUANTITIES[self.name].of(result), self.limit, -1 if self.at_most else 1
        if value is None:
            return None
        if self.name == "accuracy" and result.accuracy is not None:
            sign = better(result.accuracy)
            if self.points:
                reference = result.accuracy.reference
                # The original is its own reference.
                base = reference if reference is not None else value if result.model.recipe == ORIGINAL else None
                if base is None:
                    return None
                limit = base + sign * limit / 100
        miss = sign * (limit - value)
        return max(0.0, miss / abs(limit)) if limit else float(miss > 0)

    def least_change(self, reference: float, sign: int) -> float:
        """Of a bound on accuracy: the change that it allows, where more is better."""
        return self.limit / 100 if self.points else sign * (self.limit - reference)

    def unsure(self, result: Result) -> bool:
        """Does the paired interval lie on both sides of the bound?"""
        ends = changes(result) if self.points else None
        return ends is not None and ends[0] < self.limit / 100 <= ends[1]


@dataclass(frozen=True)
class Judgement:
    """Of one device: the fastest variant that meets every term, or the nearest and what it misses."""

    device: str
    winner: Result | None
    nearest: Result | None
    missed: tuple[Term, ...] = ()
    # What the winner meets by its plain value, and not for sure.
    unsure: tuple[Term, ...] = ()


def better(found: Accuracy) -> int:
    """The sign of a change for the better."""
    return 1 if found.higher_is_better else -1


def changes(result: Result) -> tuple[float, float] | None:
    """The interval of the paired change of accuracy, where more is better."""
    found = result.accuracy
    if found is None or found.difference_ci95 is None:
        return None
    low, high = sorted(better(found) * end for end in found.difference_ci95)
    return low, high


def parse(text: str) -> tuple[Term, ...]:
    """Terms joined by commas. UsageError names what cannot be read."""
    terms = []
    for part in text.split(","):
        match = TERM.fullmatch(part)
        if match is None:
            raise UsageError(f"--goal {text}: {part.strip()!r} is no bound; write accuracy>=-1pt,p50<=16ms")
        name, sign, number, unit = match.groups()
        if name not in QUANTITIES:
            known = ", ".join(QUANTITIES)
            raise UsageError(f"--goal {text}: unknown quantity {name!r}{nearest(name, QUANTITIES)}; known: {known}")
        if (sign == "<=") == (name == "accuracy"):
            raise UsageError(f"--goal {text}: {name} is bounded by {'>=' if name == 'accuracy' else '<='}")
        allowed = ("", "%", "pt") if name == "accuracy" else ("", QUANTITIES[name].unit)
        if unit.lower() not in map(str.lower, allowed):
            raise UsageError(f"--goal {text}: {name} is given in {' or '.join(filter(None, allowed))}, not {unit}")
        limit = float(number) / (100 if unit == "%" else 1)
        if name == "accuracy" and unit != "pt" and not 0 <= limit <= 1:
            raise UsageError(f"--goal {text}: accuracy is a fraction from 0 to 1, or a change such as -1pt")
        terms.append(Term(part.strip(), name, sign == "<=", limit, unit == "pt"))
    return tuple(terms)


def judge(terms: Sequence[Term], results: Sequence[Result]) -> list[Judgement]:
    """One a device, in the order of the results. Only results that are OK can win."""
    found = []
    for device in dict.fromkeys(result.device for result in results):
        able = [r for r in results if r.device == device and r.status == "OK" and r.latency_ms is not None]
        meeting = [r for r in able if all(term.short(r) == 0 for term in terms)]
        if meeting:
            winner = min(meeting, key=lambda r: _latency(r) or 0.0)
            unsure = tuple(term for term in terms if term.unsure(winner))
            found.append(Judgement(device, winner, None, unsure=unsure))
            continue
        best = min(able, key=lambda r: _distance(terms, r), default=None)
        missed = tuple(term for term in terms if best is not None and term.short(best) != 0)
        found.append(Judgement(device, None, best, missed))
    return found


def _distance(terms: Sequence[Term], result: Result) -> float:
    shares = [term.short(result) for term in terms]
    return sum(float("inf") if share is None else share for share in shares)
