"""The columns of the comparison table: what is shown of a result, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pocketbench.figures.compare import paired
from pocketbench.models import printable
from pocketbench.plan import SCENARIO
from pocketbench.report.findings import pareto
from pocketbench.report.numbers import percent_points, significant
from pocketbench.results import Result

MISSING = "-"


@dataclass(frozen=True)
class Column:
    """A heading, the text of a result, and whether numbers are aligned right."""

    heading: str
    text: Callable[[Result], str]
    right: bool = True


@dataclass(frozen=True)
class Table:
    """Columns and rows as text, with the lines that belong below."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]
    below: Sequence[str]


def table(results: Sequence[Result], originals: Mapping[str, str] = MappingProxyType({})) -> Table:
    """Everything that tells these results apart and what they were worth; columns that say nothing are left out.

    `originals` names for a compressed result, by id, the one that it is compared with; the others, with the first.
    """
    columns = _columns(results)
    rows = [[column.text(result) for column in columns] for result in results]
    headings = [column.heading for column in columns]
    right = [column.right for column in columns]
    fit = (place for place, result in enumerate(results) if result.status == "OK" and not _stood_in_for(result))
    base = next(fit, None)
    if len(results) > 1 and base is not None:
        place = headings.index("p90 ms")
        headings.insert(place, "time vs fp32" if originals else f"time vs #{base + 1}")
        right.insert(place, True)
        by_id = {result.id: result for result in results}
        for row, result in zip(rows, results, strict=True):
            other = by_id.get(originals.get(result.id, result.id), result) if originals else results[base]
            row.insert(place, _against(other, result))
    return Table(headings, rows, right, below(results))


def below(results: Sequence[Result]) -> list[str]:
    """What the reasons mean, each said once; notes folded into one line."""
    lines: list[str] = []
    for number, result in enumerate(results, 1):
        lines += [
            f"[{number}] {reason.severity}: {reason.code}: {printable(reason.message)}"
            for reason in result.reasons
            if reason.severity != "note"
        ]
    notes = {r.code: printable(r.message) for result in results for r in result.reasons if r.severity == "note"}
    if notes:
        lines.append("notes: " + "; ".join(f"{text} ({code})" for code, text in notes.items()))
    return lines


def _columns(results: Sequence[Result]) -> list[Column]:
    several = {
        "device": len({r.device for r in results}) > 1,
        "delegate": any(r.delegate.requested != "cpu" for r in results),
        "scenario": any(r.scenario != SCENARIO for r in results),
        "cpus": any(r.cpus for r in results),
        "number": len(results) > 1 or any(reason.severity != "note" for r in results for reason in r.reasons),
    }
    metrics = {printable(r.accuracy.metric) for r in results if r.accuracy is not None}
    accuracy = metrics.pop() if len(metrics) == 1 else "accuracy" if metrics else None
    named: dict[tuple[str, str | None], set[str]] = {}
    for r in results:
        named.setdefault((r.model.name, r.model.format), set()).add(r.model.sha256)
    clashes = {id(r): f"@{r.model.sha256[:6]}" for r in results if len(named[r.model.name, r.model.format]) > 1}
    compressed = any(r.model.recipe is not None for r in results)
    best = pareto(results) if compressed else frozenset()
    numbers = {id(result): str(number) for number, result in enumerate(results, 1)}
    made = [
        Column("#", lambda r: numbers[id(r)]) if several["number"] else None,
        Column("device", lambda r: printable(r.device), right=False) if several["device"] else None,
        Column("model", lambda r: printable(r.model.name) + clashes.get(id(r), ""), right=False),
        Column("runtime", lambda r: printable(f"{r.runtime.name} {r.runtime.version or ''}".strip()), right=False),
        Column("delegate", _delegate, right=False) if several["delegate"] else None,
        Column("threads", lambda r: str(r.threads)),
        Column("cpus", lambda r: ",".join(map(str, r.cpus or ())) or MISSING) if several["cpus"] else None,
        Column("scenario", lambda r: r.scenario, right=False) if several["scenario"] else None,
        Column("size MB", lambda r: f"{r.model.bytes / 1e6:.2f}"),
        Column("cold load ms", lambda r: _number(r.cold_load_ms)) if any(r.cold_load_ms for r in results) else None,
        Column("load ms", lambda r: _number(r.load_ms)),
        Column("first ms", lambda r: _number(r.first_inference_ms)),
        Column("p50 ms [95 %]", _p50),
        Column("p90 ms", lambda r: _number(r.latency_ms.p90 if r.latency_ms else None)),
        Column("frames/s", _frames) if any(r.frame_ms for r in results) else None,
        Column("memory MB", lambda r: _number(r.memory_mb.peak if r.memory_mb else None)),
        Column("real time", _real_time, right=False) if any(r.real_time for r in results) else None,
        Column("energy mJ [net]", _energy) if any(r.energy for r in results) else None,
        Column(f"{accuracy} [95 %]", lambda r: _accuracy(r, named=accuracy == "accuracy")) if accuracy else None,
        Column("change, points [95 %]", _change) if any(map(_changed, results)) else None,
        Column("Pareto", lambda r: "*" if r.id in best else "", right=False) if compressed else None,
        Column("status", lambda r: r.status, right=False),
        Column("reasons", _reasons, right=False),
    ]
    return [column for column in made if column is not None]


def _number(value: float | None) -> str:
    return MISSING if value is None else significant(value)


def _p50(result: Result) -> str:
    latency = result.latency_ms
    if latency is None:
        return MISSING
    if latency.p50 is None:
        return f"mean {significant(latency.mean)}"
    interval = f" [{significant(latency.ci95[0])}, {significant(latency.ci95[1])}]" if latency.ci95 else ""
    return significant(latency.p50) + interval


def _frames(result: Result) -> str:
    return _number(result.frame_ms.per_s if result.frame_ms else None)


def _real_time(result: Result) -> str:
    found = result.real_time
    if found is None:
        return MISSING
    word = {True: "yes", False: "no", None: "not shown"}[found.holds]
    return f"{word}, {found.missed} of {found.n} late"


def _energy(result: Result) -> str:
    """Gross, and net of idle in brackets; nothing where it must not be believed."""
    found = result.energy
    if found is None or any(r.scope == "energy" and r.severity == "invalid" for r in result.reasons):
        return MISSING
    return significant(found.gross_mj) + (f" [{significant(found.net_mj)}]" if found.net_mj is not None else "")


def _accuracy(result: Result, named: bool) -> str:
    found = result.accuracy
    if found is None:
        return MISSING
    interval = f" [{found.ci95[0]:.3f}, {found.ci95[1]:.3f}]" if found.ci95 else ""
    return (f"{printable(found.metric)} " if named else "") + f"{found.value:.3f}{interval}"


def _changed(result: Result) -> bool:
    return result.accuracy is not None and result.accuracy.difference is not None


def _change(result: Result) -> str:
    found = result.accuracy
    if found is None or found.difference is None:
        return MISSING
    return percent_points(found.difference, found.difference_ci95)


def _delegate(result: Result) -> str:
    delegate = result.delegate
    name = delegate.requested + (" (software)" if _software(result) else "")
    if delegate.nodes is None or delegate.coverage == "n/a":
        return name
    return f"{name} {delegate.nodes_delegated}/{delegate.nodes}"


def _software(result: Result) -> bool:
    """Did software stand in for a GPU or NPU?"""
    return any(reason.code == "software_adapter" for reason in result.reasons)


def _stood_in_for(result: Result) -> bool:
    """Did something stand in for what was asked, on a device that is real? Its time is compared with nothing."""
    return _software(result) or (not result.emulated and any(r.code == "emulated" for r in result.reasons))


def _reasons(result: Result) -> str:
    codes = [reason.code for reason in result.reasons if reason.severity != "note"]
    return ", ".join(dict.fromkeys(codes)) or MISSING


def _against(first: Result, result: Result) -> str:
    """How many times the latency of another row, paired by rounds where both ran in the same ones."""
    if result is first:
        return "1"
    ratio = None if _stood_in_for(result) else paired(first, result)
    if ratio is None:
        return MISSING
    interval = f" [{ratio.lo:.2f}, {ratio.hi:.2f}]" if ratio.lo is not None and ratio.hi is not None else ""
    return f"{ratio.value:.2f}x{interval}"
