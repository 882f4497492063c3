"""A night for a terminal, for a CI step's summary, as JSON and as CSV: what changed first, then the rest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence

from pocketbench.documents import to_doc
from pocketbench.models import printable
from pocketbench.night import AMBER, IMPROVED, LEARNING, OK, RED, SUSPECTED, Night, SeriesNight
from pocketbench.report import escaped
from pocketbench.report.numbers import significant

SCHEMA = 1
WORST_FIRST = (RED, AMBER, SUSPECTED, IMPROVED, OK, LEARNING)
CSV_COLUMNS = (
    *("suite", "night", "device", "case", "metric", "unit", "direction", "value", "lo", "hi", "state", "change"),
    *("band_lo", "band_hi", "baseline", "detectable", "nights", "series", "note"),
)


def headline(night: Night) -> str:
    """The night in one sentence."""
    reds = sum(a.color == RED and a.state == "open" for a in night.alarms)
    ambers = sum(a.color == AMBER and a.state == "open" for a in night.alarms)
    known = sum(a.state == "acknowledged" for a in night.alarms)
    parts = [
        f"{reds} red" if reds else "",
        f"{ambers} amber" if ambers else "",
        f"{known} acknowledged" if known else "",
    ]
    told = ", ".join(part for part in parts if part) or "nothing changed for the worse"
    bad = sum(case.status != "OK" for case in night.cases)
    missing = f"; {bad} case{'s' if bad > 1 else ''} without a trusted number" if bad else ""
    emulated = " (emulated devices: their times say nothing)" if night.emulated else ""
    return printable(f"{night.suite}, night {night.label}: {told}{missing}{emulated}")


def as_table(night: Night) -> str:
    """For a terminal."""
    return _lines(night, "simple", str, "\n")


def as_markdown(night: Night) -> str:
    """For a step summary."""
    return _lines(night, "github", _escaped, "\n\n")


def as_json(night: Night) -> str:
    """Everything, schema 1."""
    doc = {"schema": SCHEMA, "color": night.color, "exit_code": night.exit_code, **to_doc(night)}
    return json.dumps(doc, indent=1, allow_nan=False) + "\n"


def as_csv(night: Night) -> str:
    """One row a series."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in night.series:
        point = one.points[-1]
        lo, hi = one.band or (None, None)
        writer.writerow(
            [
                *(night.suite, night.label, one.device, one.title, one.metric, one.unit, one.direction, point.value),
                *(point.lo, point.hi, one.state, one.change, lo, hi, one.baseline, one.detectable, one.nights),
                *(one.key, one.note),
            ]
        )
    return stream.getvalue()


FORMATS: Mapping[str, Callable[[Night], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


def percent(share: float | None) -> str:
    """A relative change, or a dash."""
    return "-" if share is None else f"{share:+.1%}"


def _lines(night: Night, style: str, escape: Callable[[str], str], gap: str) -> str:
    from tabulate import tabulate

    def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = [[escape(printable(cell)) for cell in row] for row in rows]
        return tabulate(cells, headings, tablefmt=style, disable_numparse=True) if rows else ""

    alarms = [
        [a.color, a.state, a.device, a.title if a.series else "the device", a.metric, a.why, a.opened, a.id]
        for a in night.alarms
    ]
    fixed = [
        [a.device, a.title, a.metric, a.opened, "accepted" if a.accepted else "fixed"]
        for a in night.changed
        if a.closed
    ]
    series = [_row(one) for one in sorted(night.series, key=lambda one: WORST_FIRST.index(one.state))]
    cases = [
        [c.device, c.title, c.status + (" (optional)" if c.optional else ""), "; ".join(c.reasons)] for c in night.cases
    ]
    devices = [
        [
            *(d.name + (" (emulated)" if d.emulated else ""), d.facts, _counts(d.counts), percent(d.shift)),
            "-" if d.hottest_c is None else f"{d.hottest_c:.0f}",
        ]
        for d in night.devices
    ]
    parts = [
        escape(headline(night)),
        table(["alarm", "state", "device", "case", "metric", "why", "since", "id"], alarms),
        table(["fixed on", "case", "metric", "was open since", "how"], fixed),
        gap.join(escape(printable(remark)) for remark in night.remarks),
        table(["device", "case", "metric", "tonight", "expected", "change", "state", "note"], series),
        table(["device", "case", "status", "why"], cases),
        table(["device", "what it is", "cases", "all moved by", "hottest °C"], devices),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(one: SeriesNight) -> list[str]:
    band = f"{significant(one.band[0])} to {significant(one.band[1])}" if one.band else "-"
    value = f"{significant(one.points[-1].value)} {one.unit}"
    return [one.device, one.title, one.metric, value, band, percent(one.change), one.state, one.note]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"


def _escaped(cell: str) -> str:
    return escaped(cell).replace("<", "&lt;")
