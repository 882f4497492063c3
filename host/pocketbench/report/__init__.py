"""Reports: a table of results as text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pocketbench import __version__
from pocketbench.documents import to_doc
from pocketbench.models import printable
from pocketbench.report.columns import table
from pocketbench.report.findings import findings
from pocketbench.report.profile import profile_tables
from pocketbench.results import Result
from pocketbench.store.store import now

SCHEMA = 1
CSV_COLUMNS = (
    *("run_id", "id", "device", "model", "format", "sha256", "bytes", "runtime", "runtime_version", "delegate"),
    *(
        "threads",
        "status",
        "reasons",
        "load_ms",
        "first_inference_ms",
        "cold_load_ms",
        "p50_ms",
        "p50_lo_ms",
        "p50_hi_ms",
    ),
    *("p90_ms", "p95_ms", "p99_ms", "io_ms", "frame_ms", "frames_per_s", "memory_peak_mb"),
    *("energy_mj", "energy_idle_mj", "energy_net_mj", "energy_source", "scenario"),
    *("accuracy_metric", "accuracy", "accuracy_lo", "accuracy_hi"),
    *("accuracy_change", "accuracy_change_lo", "accuracy_change_hi", "recipe"),
)


@dataclass(frozen=True)
class Report:
    """What a report is made of."""

    run_id: str
    results: Sequence[Result]
    # Of compressed results, by id: what they are compared with. And what else there is to say, in sentences.
    originals: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def as_table(report: Report) -> str:
    """For a terminal: the conditions, the table, the reasons."""
    return _lines(report, "simple", "\n")


def as_markdown(report: Report) -> str:
    """For a README or a CI step summary."""
    return _lines(report, "github", "\n\n", escaped)


def as_csv(report: Report) -> str:
    """One row a result, plain numbers with their unit in the heading; empty where unavailable."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for result in report.results:
        cells = {"run_id": report.run_id, **_csv_cells(result)}
        writer.writerow([cells[column] for column in CSV_COLUMNS])
    return stream.getvalue()


def _csv_cells(r: Result) -> dict[str, object]:
    latency, accuracy = r.latency_ms, r.accuracy
    p50_lo, p50_hi = latency.ci95 if latency and latency.ci95 else (None, None)
    accuracy_lo, accuracy_hi = accuracy.ci95 if accuracy and accuracy.ci95 else (None, None)
    change_lo, change_hi = accuracy.difference_ci95 if accuracy and accuracy.difference_ci95 else (None, None)
    return {
        "id": r.id,
        "device": r.device,
        "model": r.model.name,
        "format": r.model.format,
        "sha256": r.model.sha256,
        "bytes": r.model.bytes,
        "runtime": r.runtime.name,
        "runtime_version": r.runtime.version,
        "delegate": r.delegate.requested,
        "threads": r.threads,
        "status": r.status,
        "reasons": " ".join(reason.code for reason in r.reasons),
        "load_ms": r.load_ms,
        "first_inference_ms": r.first_inference_ms,
        "cold_load_ms": r.cold_load_ms,
        "p50_ms": latency and latency.p50,
        "p50_lo_ms": p50_lo,
        "p50_hi_ms": p50_hi,
        "p90_ms": latency and latency.p90,
        "p95_ms": latency and latency.p95,
        "p99_ms": latency and latency.p99,
        "io_ms": r.io_ms and r.io_ms.p50,
        "frame_ms": r.frame_ms and r.frame_ms.p50,
        "frames_per_s": r.frame_ms and r.frame_ms.per_s,
        "memory_peak_mb": r.memory_mb and r.memory_mb.peak,
        "energy_mj": r.energy and r.energy.gross_mj,
        "energy_idle_mj": r.energy and r.energy.idle_mj,
        "energy_net_mj": r.energy and r.energy.net_mj,
        "energy_source": r.energy and r.energy.source,
        "scenario": r.scenario,
        "accuracy_metric": accuracy and accuracy.metric,
        "accuracy": accuracy and accuracy.value,
        "accuracy_lo": accuracy_lo,
        "accuracy_hi": accuracy_hi,
        "accuracy_change": accuracy and accuracy.difference,
        "accuracy_change_lo": change_lo,
        "accuracy_change_hi": change_hi,
        "recipe": r.model.recipe,
    }


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


def escaped(cell: str) -> str:
    """A cell that cannot end itself: GFM takes a backslash before a backslash as a pair."""
    return cell.replace("\\", "\\\\").replace("|", "\\|")


def _lines(report: Report, style: str, gap: str, escape: Callable[[str], str] = str) -> str:
    from tabulate import tabulate

    shown = table(report.results, report.originals)
    align = ["right" if right else "left" for right in shown.right]
    body = (
        tabulate(
            [[escape(cell) for cell in row] for row in shown.rows],
            [escape(heading) for heading in shown.headings],
            tablefmt=style,
            colalign=align,
            disable_numparse=True,
        )
        if shown.rows
        else ""
    )
    said = [*findings(report.results, report.originals), *report.remarks]
    profiles = [
        heading + gap + tabulate(rows, headings, tablefmt=style, disable_numparse=True)
        for heading, headings, rows in profile_tables(report.results, escape)
    ]
    parts = [gap.join(_conditions(report.results)), body, gap.join(said), *profiles, gap.join(shown.below)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(results: Sequence[Result]) -> list[str]:
    """Under what conditions: one line a device."""
    lines = {}
    for result in results:
        emulated = " (emulated)" if result.emulated else ""
        plan = result.plan
        processes = plan.get("processes", 1)
        how = f"{processes} process{'es' if processes != 1 else ''} a case in shuffled rounds"
        lines[result.device] = printable(f"{result.device}{emulated}: {result.device_info.summary}; {how}")
    return list(lines.values())
