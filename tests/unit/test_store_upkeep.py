"""Series as they are read, what is deleted and what is not, and what is exported."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pocketbench.errors import StoreError
from pocketbench.models import ModelFile
from pocketbench.plan import Plan, Request
from pocketbench.results import Delegate, Result, Runtime
from pocketbench.series import series_key, series_of_case
from pocketbench.store import export, nights, series, store
from pocketbench.store.prune import prune
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

REQUEST = Request((facts.case(),), Plan(seed=5))
MODEL = facts.result().model


def save(opened: Store, monkeypatch: pytest.MonkeyPatch, moment: str, night: str | None = None, **changes: Any) -> str:
    """A finished run of one result with its process, at that moment; its result's id."""
    monkeypatch.setattr(store, "now", lambda: f"{moment}T01:00:00.000Z")
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    if night is not None:
        suite, _, label = night.partition("/")
        nights.begin(opened, suite, label, {})
    result = facts.result(**{"id": f"{moment}-{run_id[-6:]}", **changes})
    opened.save_process(run_id, "key", facts.process())
    opened.save_result(run_id, "key", result, night=night)
    opened.finish_run(run_id)
    return result.id


def bench(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pocketbench", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"status": "FAILED", "latency_ms": None, "device_info": replace(facts.result().device_info, os="15")}, True),
        ({"model": replace(MODEL, sha256="cd" * 32, bytes=7, inputs=None), "labels": {}}, True),
        ({"runtime": Runtime("onnxruntime", "1.33", None)}, True),
        ({"cpus": ()}, True),
        ({"model": replace(MODEL, name="other")}, False),
        ({"model": replace(MODEL, recipe="fp16")}, False),
        ({"runtime": Runtime("litert", "1.32.0", "as stored")}, False),
        ({"delegate": Delegate("gpu")}, False),
        ({"device": "pi6"}, False),
        ({"threads": 2}, False),
        ({"cpus": (0, 1)}, False),
        ({"shapes": {"x": [1, 4]}}, False),
        ({"signature": "serve"}, False),
        ({"scenario": "paced:30"}, False),
    ],
)
def test_what_makes_a_series(changes: Mapping[str, Any], same: bool) -> None:
    assert (series_key(facts.result(**changes)) == series_key(facts.result())) is same


def test_a_case_knows_its_series_before_it_is_measured() -> None:
    case = facts.case(threads=4, cpus=(0, 1), shapes=(("x", (1, 4)),), signature="serve")
    result = facts.result(threads=4, cpus=(0, 1), shapes={"x": [1, 4]}, signature="serve")
    assert series_of_case(case) == series_key(result)
    made = replace(case, model=ModelFile(case.model.path, case.model.files, "fp16"))
    assert series_of_case(made) == series_key(replace(result, model=replace(MODEL, recipe="fp16")))


def test_the_newest_beside_its_baseline(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {}
    for day in (1, 2, 3):
        for device in ("d2", "d1"):
            night = f"s/2026-01-0{day}"
            ids[device, day] = save(
                opened, monkeypatch, f"2026-01-0{day}", night, device=device, latency_ms=facts.timing(day)
            )
    save(opened, monkeypatch, "2026-01-09", "other/2026-01-09", device="d3")
    save(opened, monkeypatch, "2026-01-09", device="d1")
    key = series_key(facts.result(device="d1"))
    for day in (1, 2):
        monkeypatch.setattr(nights, "now", lambda day=day: f"2026-01-0{day}T09:00:00.000Z")
        nights.pin(opened, "s", key, ids["d1", day], "ann", "because")
    first, second = series.standings(opened, "s", ("latency_p50", "size"))
    assert (first.device, first.result_id, first.baseline_id) == ("d1", ids["d1", 3], ids["d1", 2])
    assert first.night == "s/2026-01-03" and first.series == key
    latency = first.metrics["latency_p50"]
    assert (latency.value, latency.baseline) == (3, 2)
    assert (second.device, second.baseline_id, second.metrics["size"].baseline) == ("d2", None, None)
    assert series.standings(opened, "none", ("size",)) == []


def test_numbers_of_two_units_are_refused(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(opened, monkeypatch, "2026-01-01", "s/1")
    save(opened, monkeypatch, "2026-01-02", "s/2")
    key = series_key(facts.result())
    nights.pin(opened, "s", key, first, "ann", "because")
    with opened.database.writing() as connection:
        connection.execute(text(f"UPDATE metric SET unit = 'us' WHERE name = 'latency_p50' AND result_id = '{first}'"))
    for read in (
        lambda: series.standings(opened, "s", ("latency_p50", "size")),
        lambda: nights.earlier(opened, "s", [key], ["1", "2"]),
    ):
        with pytest.raises(StoreError, match=f"latency_p50 of the series {key} in several units"):
            read()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_stored(opened: Store, value: float) -> None:
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    for changes in ({"load_ms": value}, {"latency_ms": facts.timing(10, ci95=(9.0, value))}):
        with pytest.raises(StoreError, match=r"pi5: (load|latency_p50) of net is .*only finite numbers are stored"):
            opened.save_result(run_id, "key", facts.result(**changes))
    assert opened.results(run_id) == {}


def sampled(opened: Store) -> set[str]:
    with opened.database.reading() as connection:
        query = "SELECT DISTINCT r.id FROM sample s JOIN result r ON r.run_id = s.run_id AND r.case_key = s.case_key"
        return set(connection.execute(text(query)).scalars())


def test_what_is_pruned(opened: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = save(opened, monkeypatch, "2026-01-01")
    old = [save(opened, monkeypatch, f"2026-01-{day:02d}") for day in range(2, 30)]
    good = save(opened, monkeypatch, "2026-01-30")
    failed = save(opened, monkeypatch, "2026-01-31", status="FAILED")
    alone = save(opened, monkeypatch, "2026-01-01", device="d2")
    young = [save(opened, monkeypatch, f"2026-06-0{day}", device="d3") for day in (1, 2)]
    monkeypatch.setattr(store, "now", lambda: "2026-01-01T02:00:00.000Z")
    cut = opened.create_run(REQUEST, request_doc(REQUEST))
    opened.save_process(cut, "key", facts.process())
    opened.save_result(cut, "key", facts.result(id="cut", device="d4"))
    save(opened, monkeypatch, "2026-07-01", device="d4")
    nights.pin(opened, "s", series_key(facts.result()), pinned, "ann", "because")
    everything = sampled(opened)
    would = prune(opened, "2026-05-01T00:00:00.000Z", dry_run=True)
    assert (would.results, would.rows, would.file_bytes) == (28, 28 * 3, None) and would.sample_bytes > 28 * 500
    assert sampled(opened) == everything
    did = prune(opened, "2026-05-01T00:00:00.000Z", dry_run=False)
    assert (did.results, did.rows, did.sample_bytes) == (would.results, would.rows, would.sample_bytes)
    assert everything - sampled(opened) == set(old)
    assert {pinned, good, failed, alone, *young, "cut"} <= sampled(opened)
    assert (did.file_bytes is None) if "://" in url else (did.file_bytes or 0) > 20_000
    assert prune(opened, "2026-05-01T00:00:00.000Z", dry_run=False).rows == 0
    kept = opened.find_result(old[0])[1]
    assert kept.latency_ms == facts.result().latency_ms and not kept.process_medians_ns()
    said = bench(tmp_path, "compare", old[0], good, "--store", url)
    assert said.returncode == 2 and "the samples of A were pruned" in said.stderr


def test_pruning_on_the_command_line(opened: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2):
        save(opened, monkeypatch, f"2020-01-0{day}")
    command = ("store", "prune", "--store", url, "--older-than")
    assert bench(tmp_path, *command, "90d", "--dry-run").stdout.startswith("would delete the samples of 1 results of")
    assert len(sampled(opened)) == 2
    assert "3 rows" in bench(tmp_path, *command, "90d").stdout
    assert bench(tmp_path, *command, "90d").stdout.startswith("no samples of runs before ")
    for wrong in ("90", "-1d", "d", "99999999d", "9\u0661d"):
        said = bench(tmp_path, *command, wrong)
        assert said.returncode == 2 and "give days, such as 90d" in said.stderr


def exported(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_csv_file(opened: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = 'a,"b"\n\u0441'
    id_ = save(opened, monkeypatch, "2026-01-01", "s/n", device=odd, reasons=(facts.reason("drift"),))
    save(opened, monkeypatch, "2026-01-02", cpus=(0, 1), shapes={"x": [1, 4]})
    done = bench(tmp_path, "export", "--csv", "out.csv", "--store", url)
    assert (done.returncode, done.stdout) == (0, "8 rows in out.csv\n"), done.stderr
    rows = exported(tmp_path / "out.csv")
    assert list(rows[0]) == list(export.COLUMNS)
    first = next(row for row in rows if row["metric"] == "latency_p50")
    assert (first["device"], first["result_id"], first["night"], first["reasons"]) == (odd, id_, "s/n", "drift")
    assert (first["value"], first["lo"], first["hi"], first["unit"]) == ("10.0", "9.8", "10.2", "ms")
    assert (first["series"], first["direction"]) == (series_key(facts.result(device=odd)), "-1")
    assert (rows[-1]["cpus"], rows[-1]["shapes"], rows[-1]["lo"]) == ("0,1", "x=1x4", "")
    assert [path.name for path in tmp_path.glob(".out*")] == []


def test_a_parquet_file(opened: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow: pip install 'pocketbench[export]'")
    monkeypatch.setattr(export, "CHUNK", 2)
    for day in range(1, 6):
        save(opened, monkeypatch, f"2026-01-0{day}", latency_ms=facts.timing(day))
    done = bench(tmp_path, "export", "--parquet", ".", "--store", url)
    assert done.returncode == 0, done.stderr
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row for some in export.chunks(opened) for row in some] == rows
    assert [row["value"] for row in rows if row["metric"] == "latency_p50"] == [1, 2, 3, 4, 5]
    assert rows[0]["night"] is None and rows[0]["emulated"] is False


def test_an_export_that_cannot_be(url: str, opened: Store, tmp_path: Path) -> None:
    (tmp_path / "kept.csv").write_text("kept")
    for words, told in (
        ((), "give --csv FILE or --parquet FILE"),
        (("--csv", "a.csv", "--parquet", "b"), "one of them"),
        (("--csv", "."), "is a folder"),
        (("--csv", "none/a.csv"), "cannot be written: No such file"),
    ):
        done = bench(tmp_path, "export", *words, "--store", url)
        assert done.returncode == 2 and told in done.stderr
    hidden = "import sys; sys.modules['pyarrow'] = None; sys.argv = sys.argv[:1] + sys.argv[1:]\n"
    hidden += "from pocketbench.cli.main import main; main()"
    command = [sys.executable, "-c", hidden, "export", "--parquet", "kept.csv", "--store", url]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert said.returncode == 2
    assert said.stderr == "Error: --parquet needs pyarrow: pip install 'pocketbench[export]'\n"
    assert (tmp_path / "kept.csv").read_text() == "kept"


def test_history_by_device_and_model(opened: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench(tmp_path, "history", "pi5", "--store", url).stdout == "no results yet\n"
    shown: dict[str, Result] = {}
    for day, (device, model) in enumerate((("pi5", "net"), ("pi5", "det.v2"), ("pi5", "net"), ("pixel", "net")), 1):
        id_ = save(opened, monkeypatch, f"2026-01-0{day}", device=device, model=replace(MODEL, name=model))
        shown[id_] = opened.find_result(id_)[1]

    def listed(*words: str) -> list[str]:
        done = bench(tmp_path, "history", *words, "--store", url)
        assert done.returncode == 0, done.stderr
        return [line.split()[3] for line in done.stdout.splitlines()[2:]]

    newest = list(shown)[::-1]
    assert listed() == newest
    assert listed("pi5") == newest[1:]
    assert listed("pi5", "net") == [newest[1], newest[3]] == listed("pi5", "models/net.onnx")
    assert listed("pi5", "det.v2") == [newest[2]] == listed("pi5", "det.v2.tflite")
    assert listed("--limit", "1") == newest[:1]
    for words, told in (
        (("pi", "net"), "no results of the device 'pi' (did you mean 'pi5'?)"),
        (("pi5", "nets"), "no results of the model 'nets' on pi5 (did you mean 'net'?)"),
    ):
        done = bench(tmp_path, "history", *words, "--store", url)
        assert done.returncode == 2 and told in done.stderr
