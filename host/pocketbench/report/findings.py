"""What a comparison says in words: which rows nothing beats, what each compressed variant gained and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pocketbench.figures import goal as goals
from pocketbench.figures.compare import paired
from pocketbench.models import printable
from pocketbench.report import causes
from pocketbench.report.numbers import percent_points, significant
from pocketbench.results import Result

# Of the original's accuracy, what a variant has to keep to be one to choose from.
RUINED = 0.5


def pareto(results: Sequence[Result]) -> frozenset[str]:
    """Ids of the results that no other on their device beats: none is as fast, as small, as accurate and as frugal, and
    better in one of them. Accuracy and energy count where all on the device have them. What has lost most of its
    accuracy is nobody's choice, however small it is.
    """
    beaten = _beaten(results)
    return frozenset(id_ for id_, by in beaten.items() if by is None)


def _beaten(results: Sequence[Result]) -> Mapping[str, Result | None]:
    """By id, of all that are to choose from: the fastest of those that beat it, or None."""
    able = [r for r in results if r.status == "OK" and r.metric("latency_p50") is not None and not _ruined(r)]
    found: dict[str, Result | None] = {}
    for device in dict.fromkeys(r.device for r in able):
        rivals = [r for r in able if r.device == device]
        costs = _costs(rivals)
        for own in rivals:
            better = [r for r in rivals if costs[r.id] != costs[own.id] and _no_worse(costs[r.id], costs[own.id])]
            found[own.id] = min(better, key=lambda r: costs[r.id], default=None)
    return found


def _no_worse(theirs: tuple[float, ...], own: tuple[float, ...]) -> bool:
    return all(one <= other for one, other in zip(theirs, own, strict=True))


def _costs(rivals: Sequence[Result]) -> Mapping[str, tuple[float, ...]]:
    """Time first."""
    judged = all(r.accuracy is not None for r in rivals)
    metered = all(r.metric("energy") is not None for r in rivals)

    def costs(result: Result) -> tuple[float, ...]:
        p50 = result.metric("latency_p50")
        assert p50 is not None
        found = [p50, float(result.model.bytes)]
        if judged and result.accuracy is not None:
            found.append(-goals.better(result.accuracy) * result.accuracy.value)
        if metered:
            found.append(result.metric("energy") or 0.0)
        return tuple(found)

    return {result.id: costs(result) for result in rivals}


def _ruined(result: Result) -> bool:
    found = result.accuracy
    if found is None or found.reference is None or not found.higher_is_better:
        return False
    return found.value < RUINED * found.reference


def findings(results: Sequence[Result], originals: Mapping[str, str]) -> list[str]:
    """One sentence for each compressed variant that ran: size, time and accuracy beside its original; what beats it."""
    by_id = {result.id: result for result in results}
    beaten = _beaten(results)
    lines = []
    for result in results:
        original = by_id.get(originals.get(result.id, ""))
        if original is not None and result.status == "OK":
            parts = [_size(original, result), _time(original, result), _change(result)]
            where = f" on {printable(result.device)}" if len({r.device for r in results}) > 1 else ""
            better = beaten.get(result.id)
            loses = f"; {_variant(better)} is as good or better in all of it" if better is not None else ""
            lines.append(f"{_variant(result)}{where}: {', '.join(part for part in parts if part)}{loses}")
    return lines


def goal_lines(judged: Sequence[goals.Judgement], text: str, paths: Mapping[str, str]) -> list[str]:
    """Who wins on each device, and where the file is; `paths` by the sha256 of the model."""
    lines = []
    for one in judged:
        head = f"goal {text} on {printable(one.device)}"
        if one.winner is not None:
            path = paths.get(one.winner.model.sha256)
            doubts = "".join(_doubt(term, one.winner) for term in one.unsure)
            lines.append(f"{head}: {_variant(one.winner)} wins{doubts}{f': {printable(path)}' if path else ''}")
        elif one.nearest is None:
            lines.append(f"{head}: nothing that could be judged")
        else:
            missed = ", ".join(f"{term.text} ({_value(term, one.nearest)})" for term in one.missed)
            lines.append(f"{head}: none meets it; {_variant(one.nearest)} comes nearest and misses {missed}")
    return lines


def _variant(result: Result) -> str:
    delegate = "" if result.delegate.requested == "cpu" else f" {result.delegate.requested}"
    threads = "" if result.threads == 1 else f" x{result.threads}"
    return printable(f"{result.model.name} ({result.runtime.name}{delegate}{threads})")


def _size(original: Result, result: Result) -> str:
    share = original.model.bytes / result.model.bytes
    return f"{share:.1f}x smaller" if share >= 1.05 else "no smaller"


def _time(original: Result, result: Result) -> str:
    ratio = paired(original, result)
    if ratio is None:
        return ""
    if ratio.lo is None or ratio.hi is None or ratio.lo <= 1 <= ratio.hi:
        return "as fast as far as can be told"
    return (
        f"{1 / ratio.value:.2f}x faster"
        if ratio.value < 1
        else f"{ratio.value:.2f}x slower{causes.slower(original, result)}"
    )


def _change(result: Result) -> str:
    found = result.accuracy
    if found is None or found.difference is None:
        return ""
    told = f"{printable(found.metric)} {percent_points(found.difference, found.difference_ci95)} points"
    interval = found.difference_ci95
    if _ruined(result):
        return f"{told}: most of it is lost"
    unclear = interval is not None and interval[0] <= 0 <= interval[1]
    return f"{told}: cannot tell from 0" if unclear else told


def _doubt(term: goals.Term, result: Result) -> str:
    low, high = goals.changes(result) or (0.0, 0.0)
    return f", though {term.text} is not certain ({100 * low:+.2f} to {100 * high:+.2f}pt)"


def _value(term: goals.Term, result: Result) -> str:
    found = result.accuracy
    if term.points and found is not None and found.difference is not None:
        return f"{100 * goals.better(found) * found.difference:+.2f}pt"
    quantity = goals.QUANTITIES[term.name]
    value = quantity.of(result)
    return "unknown" if value is None else f"{significant(value)} {quantity.unit}".strip()
