"""Reports: a table of results as text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pocketbench import __version__
from pocketbench.report.columns import table
from pocketbench.results import Result, to_doc
from pocketbench.store.store import now

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """What a report is made of."""

    run_id: str
    results: Sequence[Result]


def as_table(report: Report) -> str:
    """For a terminal: the conditions, the table, the reasons."""
    return _lines(report, "simple")


def as_markdown(report: Report) -> str:
    """For a README or a CI step summary."""
    return _lines(report, "github")


def as_csv(report: Report) -> str:
    """One row a result, plain numbers with their unit in the heading; empty where unavailable."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["run_id", "id", "device", "model", "format", "sha256", "bytes", "runtime", "runtime_version", "delegate", "threads", "status", "reasons", "load_ms", "first_inference_ms", "p50_ms", "p50_lo_ms", "p50_hi_ms", "p90_ms", "p95_ms", "p99_ms", "io_ms", "memory_peak_mb", "accuracy_metric", "accuracy", "accuracy_lo", "accuracy_hi"]
    )
    for r in report.results:
        latency, accuracy = r.latency_ms, r.accuracy
        interval = latency.ci95 if latency and latency.ci95 else (None, None)
        bounds = accuracy.ci95 if accuracy and accuracy.ci95 else (None, None)
        writer.writerow(
            [report.run_id, r.id, r.device, r.model.name, r.model.format, r.model.sha256, r.model.bytes]
            + [r.runtime.name, r.runtime.version, r.delegate.requested, r.threads, r.status]
            + [" ".join(reason.code for reason in r.reasons), r.load_ms, r.first_inference_ms]
            + [latency and latency.p50, *interval, latency and latency.p90, latency and latency.p95]
            + [latency and latency.p99, r.io_ms and r.io_ms.p50, r.memory_mb and r.memory_mb.peak]
            + [accuracy and accuracy.metric, accuracy and accuracy.value, *bounds]
        )
    return stream.getvalue()


def as_json(report: Report) -> str:
    """Schema 1 (report/result.schema.json): every key is there, null when unknown."""
    doc = {
        "schema": SCHEMA,
        "created": now(),
        "tool": {"version": __version__},
        "run_id": report.run_id,
        "results": [to_doc(result) for result in report.results],
    }
    return json.dumps(doc, indent=1, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Report], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


def _lines(report: Report, style: str) -> str:
    from tabulate import tabulate

    shown = table(report.results)
    align = ["right" if right else "left" for right in shown.right]
    body = (
        tabulate(shown.rows, shown.headings, tablefmt=style, colalign=align, disable_numparse=True)
        if shown.rows
        else ""
    )
    gap = "\n\n" if style == "github" else "\n"
    parts = [_conditions(report.results), body, gap.join(shown.below)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(results: Sequence[Result]) -> str:
    """Under what conditions: one line a device."""
    lines = {}
    for result in results:
        info = result.device_info
        facts = ", ".join(fact for fact in (info.model, info.soc, info.cpu, info.os) if fact)
        emulated = " (emulated)" if result.emulated else ""
        plan = result.plan
        how = f"{plan.get('processes', '?')} processes a case in shuffled rounds"
        lines[result.device] = f"{result.device}{emulated}: {facts or 'never reached'}; {how}"
    return "\n".join(lines.values())
