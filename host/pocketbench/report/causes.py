"""Why a compressed variant is slower than its original, as far as the device itself told it."""

from __future__ import annotations

from collections.abc import Mapping

from pocketbench.models import printable
from pocketbench.report.numbers import significant
from pocketbench.results import Result

# So many kinds of op at most.
NAMED = 2


def slower(original: Result, result: Result) -> str:
    """`: xnnpack does not take 17 DEPTHWISE_CONV_2D`, or which ops take longer where both were profiled, or nothing."""
    told = _left(original, result) or _longer(original, result)
    return printable(f" ({told})") if told else ""


def _left(original: Result, result: Result) -> str:
    """Nodes that the runtime's fast kernels took in the original, and do not take now."""
    kernels = result.delegate.accelerated_by
    if kernels is None or kernels != original.delegate.accelerated_by:
        return ""
    before = original.delegate.on_cpu or {}
    most_first = sorted((result.delegate.on_cpu or {}).items(), key=lambda one: -one[1])
    more = [f"{count} {op}" for op, count in most_first if count > before.get(op, 0)]
    return f"{kernels} does not take {' and '.join(more[:NAMED])}" if more else ""


def _longer(original: Result, result: Result) -> str:
    """Kinds of op whose time grew, the most first, and others that grew by at least half as much."""
    before, after = _ms_by_op(original), _ms_by_op(result)
    if not before or not after:
        return ""
    grown = sorted(after, key=lambda op: before.get(op, 0.0) - after[op])
    most = after[grown[0]] - before.get(grown[0], 0.0)
    if most <= 0:
        return ""
    named = [op for op in grown[:NAMED] if after[op] - before.get(op, 0.0) >= most / 2]
    return "profiled: " + ", ".join(
        f"{op} {significant(before[op]) if op in before else 'nothing'} -> {significant(after[op])} ms" for op in named
    )


def _ms_by_op(result: Result) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for one in result.profile or ():
        found[one.op] = found.get(one.op, 0.0) + one.ms
    return found
