"""Where an inference's time goes: one small table a result that was profiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pocketbench.models import printable
from pocketbench.report.numbers import significant
from pocketbench.results import Result

# What is less than all of these together is one line.
SHOWN = 10
HEADINGS = ("op", "runs on", "nodes", "ms", "share")


def profile_tables(
    results: Sequence[Result], escape: Callable[[str], str] = str
) -> Sequence[tuple[str, Sequence[str], list[list[str]]]]:
    """(heading, headings, rows) of each; the slowest kinds of op first, the rest in one line."""
    made: list[tuple[str, Sequence[str], list[list[str]]]] = []
    for number, result in enumerate(results, 1):
        if not result.profile:
            continue
        rows = [
            [*map(escape, map(printable, (op.op, op.runs_on))), str(op.nodes), significant(op.ms), f"{op.share:.0%}"]
            for op in result.profile[:SHOWN]
        ]
        rest = result.profile[SHOWN:]
        if rest:
            nodes, ms, share = sum(op.nodes for op in rest), sum(op.ms for op in rest), sum(op.share for op in rest)
            rows.append([f"{len(rest)} others", "", str(nodes), significant(ms), f"{share:.0%}"])
        delegate = "" if result.delegate.requested == "cpu" else f", {result.delegate.requested}"
        title = escape(printable(f"{result.title}{delegate}"))
        heading = f"[{number}] {title}: where the time of an inference goes (profiled, which slows it)"
        made.append((heading, HEADINGS, rows))
    return made
