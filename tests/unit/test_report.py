"""Reports as whole texts.

POCKETBENCH_RENEW_GOLDEN=1 pytest tests/unit/test_report.py writes the golden files anew; read their diff.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from pocketbench import __version__, report
from pocketbench.documents import from_doc
from pocketbench.report import Report, columns, numbers
from pocketbench.results import Accuracy, Delegate, DeviceFacts, Io, Memory, Model, OpShare, Result, Runtime
from tests.unit import facts
from tests.unit.facts import MS

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "evil\n| x |\x1b[2J\x1b[31m|\r\t`<b>`\\| y"


def rounds(*levels_ms: float) -> tuple[tuple[int, ...], ...]:
    return tuple((round(level * MS),) * 9 for level in levels_ms)


def results() -> tuple[Result, ...]:
    """A fast and a slow model, one that fell back, one that crashed, one on a device that was never reached."""
    accuracy = Accuracy("top-1", 0.9812, (0.9701, 0.9893), 500, None, None, None, True, {"top-5": 0.999})
    return (
        facts.result(
            accuracy=accuracy,
            memory_mb=Memory(20.0, 50.0, 58.0, 70.4, 8.0, "VmRSS, peak VmHWM"),
            io_ms=Io(0.0213),
            samples_ns=rounds(10.0, 10.1, 9.9, 10.0),
        ),
        facts.result(
            id="aaaaaaaaaaaa",
            model=Model("net-int8", "cd" * 32, 456_789, "tflite", None, None, None),
            runtime=Runtime("litert", "2.3.0", "as stored"),
            threads=4,
            cpus=(0, 1, 2, 3),
            latency_ms=facts.timing(4.25, p90=None, p90_upper=None, ci95=None),
            samples_ns=rounds(4.2, 4.3, 4.2, 4.3),
            first_inference_ms=0.0876,
            reasons=(
                facts.reason("drift", "warn", "latency went up by 5% from first to last round"),
                facts.reason("inputs_random", "note", "timed on seeded random inputs; --inputs gives real ones"),
            ),
        ),
        facts.result(
            id="bbbbbbbbbbbb",
            delegate=Delegate("gpu", "gpu", "webgpu", "V3D", {}, "none", 12, 0, 0, {"CONV_2D": 12}),
            status="FALLBACK",
            latency_ms=facts.timing(123.4),
            reasons=(
                facts.reason("fallback", "invalid", "gpu was asked for, but every node ran on the CPU", "case"),
                facts.reason("inputs_random", "note", "timed on seeded random inputs; --inputs gives real ones"),
                facts.reason("no_thermal_sensor", "note", "no temperature can be read"),
            ),
        ),
        facts.result(
            id="cccccccccccc",
            status="CRASHED",
            stage="load",
            latency_ms=None,
            load_ms=None,
            first_inference_ms=None,
            samples_ns=(),
            reasons=(facts.reason("worker_died", "invalid", "the worker was ended by SIGSEGV", "case"),),
        ),
        facts.result(
            id="dddddddddddd",
            device="pixel8",
            device_info=DeviceFacts(),
            transport="adb",
            emulated=True,
            status="SKIPPED",
            latency_ms=None,
            load_ms=None,
            first_inference_ms=None,
            samples_ns=(),
            reasons=(facts.reason("not_available", "invalid", "pixel8: no such serial", "case"),),
        ),
    )


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("POCKETBENCH_RENEW_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize(
    ("form", "name"), [("table", "table.txt"), ("markdown", "markdown.md"), ("csv", "results.csv")]
)
def test_the_whole_report(form: str, name: str) -> None:
    golden(name, report.FORMATS[form](Report("20260101-120000-abcdef", results())))


def test_the_whole_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "now", lambda: "2026-01-01T12:00:00.000Z")
    text = report.as_json(Report("20260101-120000-abcdef", results()[1:4:2]))
    golden("results.json", text.replace(__version__, "VERSION"))


def test_a_plain_result_has_no_column_that_says_nothing() -> None:
    golden("plain.txt", report.as_table(Report("r", [facts.result()])))


def test_json_follows_its_schema_and_reads_back() -> None:
    doc = json.loads(report.as_json(Report("r", results())))
    schema = json.loads((Path(report.__file__).parent / "result.schema.json").read_text())
    jsonschema.validate(doc, schema)
    assert [from_doc(Result, one) for one in doc["results"]] == list(results())


def test_csv_has_one_row_a_result_and_is_empty_where_unknown() -> None:
    rows = list(csv.DictReader(io.StringIO(report.as_csv(Report("run", results())))))
    assert [row["status"] for row in rows] == ["OK", "OK", "FALLBACK", "CRASHED", "SKIPPED"]
    assert (rows[3]["p50_ms"], rows[3]["load_ms"], rows[3]["reasons"]) == ("", "", "worker_died")
    assert (rows[0]["p50_ms"], rows[0]["p50_lo_ms"], rows[0]["accuracy"]) == ("10.0", "9.8", "0.9812")


@pytest.mark.parametrize("form", report.FORMATS)
def test_no_result_at_all(form: str) -> None:
    assert report.FORMATS[form](Report("r", [])).endswith("\n")


def hostile() -> list[Result]:
    """Every name that a file, a device or a model can bring, at its worst."""
    info = DeviceFacts(model=HOSTILE, soc=HOSTILE, os=HOSTILE, cpu=HOSTILE)
    accuracy = Accuracy(HOSTILE, 0.5, None, 2, None, None, None, True, {})
    one = facts.result(
        device=HOSTILE,
        device_info=info,
        model=Model(HOSTILE, "ab" * 32, 10, "onnx", None, None, None),
        runtime=Runtime("onnxruntime", HOSTILE, None),
        accuracy=accuracy,
        reasons=(facts.reason("drift", "warn", HOSTILE), facts.reason("inputs_random", "note", HOSTILE)),
    )
    return [one, facts.result(id="x")]


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_hostile_names_cannot_break_the_report(form: str) -> None:
    text = report.FORMATS[form](Report("r", hostile()))
    lines = text.splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    honest = report.FORMATS[form](
        Report(
            "r",
            [
                facts.result(
                    device="b",
                    accuracy=hostile()[0].accuracy,
                    reasons=(facts.reason("drift", "warn"), facts.reason("inputs_random", "note")),
                ),
                facts.result(id="x"),
            ],
        )
    )
    assert len(lines) == len(honest.splitlines())


def cells(line: str) -> int:
    """How many cells a Markdown renderer sees: pipes that are not escaped part them (GFM, Tables extension)."""
    return re.sub(r"\\.", "", line).count("|") - 1


def test_hostile_names_make_no_further_cells_in_markdown() -> None:
    rows = [line for line in report.as_markdown(Report("r", hostile())).splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({cells(row) for row in rows}) == 1


def test_hostile_names_stay_one_field_in_csv() -> None:
    rows = list(csv.reader(io.StringIO(report.as_csv(Report("r", hostile())))))
    assert {len(row) for row in rows} == {len(report.CSV_COLUMNS)}
    assert rows[1][report.CSV_COLUMNS.index("model")] == HOSTILE


def row(shown: columns.Table, number: int) -> dict[str, str]:
    return dict(zip(shown.headings, shown.rows[number], strict=True))


def test_times_are_compared_with_the_first_row() -> None:
    shown = columns.table(results())
    found = [row(shown, k)["time vs #1"] for k in range(5)]
    assert found == ["1", "0.42x [0.42, 0.43]", "-", "-", "-"]


def test_times_are_compared_with_the_first_row_that_may_be_ranked() -> None:
    bad, good, better = (
        facts.result(id=name, samples_ns=rounds(level, level)) for name, level in (("a", 1.0), ("b", 10.0), ("c", 5.0))
    )
    shown = columns.table([replace(bad, status="INVALID"), good, better])
    assert [row(shown, k)["time vs #2"] for k in range(3)] == ["-", "1", "0.50x [0.50, 0.50]"]
    assert "time vs #1" not in columns.table([replace(bad, status="FAILED")] * 2).headings


@pytest.mark.parametrize(
    "changes", [{"device": "pi4"}, {"samples_ns": rounds(1.0, 1.0)}, {"samples_ns": ()}, {"status": "INVALID"}]
)
def test_what_cannot_be_paired_is_not_compared(changes: dict[str, object]) -> None:
    shown = columns.table([results()[0], facts.result(id="x", **changes)])
    assert row(shown, 1)["time vs #1"] == "-"


def test_reasons_are_numbered_and_notes_are_folded() -> None:
    below = columns.below(results())
    assert [line[:11] for line in below] == ["[2] warn: d", "[3] invalid", "[4] invalid", "[5] invalid", "notes: time"]
    assert below[-1].count("timed on seeded") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1234"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
        (0.00123, "0.00123"),
        (99.96, "100"),
        (9.996, "10.0"),
        (0.9996, "1.00"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert numbers.significant(value) == text


def heading(chosen: Sequence[Result]) -> set[str]:
    return set(columns.table(chosen).headings)


def test_columns_appear_when_they_say_something() -> None:
    plain = heading([facts.result()])
    assert not plain & {"#", "device", "delegate", "top-1 [95 %]", "cpus", "time vs #1"}
    assert heading(results()) - plain == {"#", "device", "delegate", "top-1 [95 %]", "cpus", "time vs #1"}
    noted = facts.result(reasons=(facts.reason("inputs_random", "note"),))
    assert heading([noted]) == plain


def test_software_in_the_place_of_hardware_is_compared_with_nothing() -> None:
    """Its row says so, it is nobody's baseline, and its time is no ratio."""
    delegate = Delegate("gpu", "gpu", "vulkan", "llvmpipe", {}, "full", 12, 12, 1, {})
    software = facts.result(id="a" * 12, delegate=delegate, reasons=(facts.reason("software_adapter", "note"),))
    shown = columns.table([software, facts.result(id="b" * 12), facts.result(id="c" * 12)])
    assert row(shown, 0)["delegate"] == "gpu (software) 12/12"
    assert [row(shown, k)["time vs #2"] for k in range(2)] == ["-", "1"]


def test_a_profile_is_a_table_of_its_own() -> None:
    """The slowest first; what is left over in one line."""
    ops = tuple(OpShare(f"OP{k}", "CPU", 1, 1.0, 1 / 12) for k in range(12))
    text = report.as_table(report.Report("run", (facts.result(profile=ops),)))
    assert "[1] net (onnxruntime, 1 thread): where the time of an inference goes" in text
    assert re.search(r"2 others +2 +2.00 +17%", text)
