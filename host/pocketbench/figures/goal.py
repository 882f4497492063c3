"""`--goal "accuracy>=-1pt,p50<=16ms"`: which of the measured variants meets it, or came nearest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pocketbench.errors import UsageError, nearest
from pocketbench.plan import ORIGINAL
from pocketbench.results import Result


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
    """One bound. Accuracy is a fraction, or `points` from the original's."""

    text: str
    name: str
    at_most: bool
    limit: float
    points: bool = False

    def short(self, result: Result) -> float | None:
        """By which share of the bound a result misses it; 0 where it holds, None where the value is unknown."""
        value, limit = QUANTITIES[self.name].of(result), self.limit
        if self.points and result.accuracy is not None:
            reference = result.accuracy.reference
            # The original is its own reference.
            base = reference if reference is not None else value if result.model.recipe == ORIGINAL else None
            if base is None:
                return None
            limit = base + limit / 100
        if value is None:
            return None
        miss = value - limit if self.at_most else limit - value
        return max(0.0, miss / abs(limit)) if limit else float(miss > 0)


@dataclass(frozen=True)
class Judgement:
    """Of one device: the fastest variant that meets every term, or the nearest and what it misses."""

    device: str
    winner: Result | None
    nearest: Result | None
    missed: tuple[Term, ...] = ()


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
            found.append(Judgement(device, min(meeting, key=lambda r: _latency(r) or 0.0), None))
            continue
        best = min(able, key=lambda r: _distance(terms, r), default=None)
        missed = tuple(term for term in terms if best is not None and term.short(best) != 0)
        found.append(Judgement(device, None, best, missed))
    return found


def _distance(terms: Sequence[Term], result: Result) -> float:
    shares = [term.short(result) for term in terms]
    return sum(float("inf") if share is None else share for share in shares)
