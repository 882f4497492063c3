"""The store: nothing is lost, nothing is stored twice, nothing is misread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from pocketbench import report
from pocketbench.assemble import Context, assemble
from pocketbench.errors import StoreError, UsageError
from pocketbench.measurement import Ended, Process
from pocketbench.plan import Plan, Request
from pocketbench.results import DeviceFacts, Result, Runtime
from pocketbench.store import codec, engine, spool, store
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

REQUEST = Request((facts.case(), facts.case(threads=4, shapes=(("x", (1, 4)),))), Plan(seed=5), labels={"k": "v"})


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folders are the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


def new_run(opened: Store, request: Request = REQUEST) -> str:
    return opened.create_run(request, request_doc(request))


def rows(opened: Store, table: str) -> int:
    with opened.database.reading() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def spooled() -> list[Path]:
    return sorted(spool.folder().glob("*")) if spool.folder().is_dir() else []


def same(a: Process, b: Process) -> bool:
    (doc_a, samples_a), (doc_b, samples_b) = codec.split(a), codec.split(b)
    return doc_a == doc_b and all(np.array_equal(samples_a[name], samples_b[name]) for name in samples_a)


def test_everything_is_read_back(opened: Store) -> None:
    run_id = new_run(opened)
    good = replace(facts.process(0), placed=facts.placed(4, 3), output_constant=None)
    bad = Process(1, Ended("signal", "timed", "SIGSEGV", 11, ("last", "lines")), attempt=2)
    for process in (good, bad):
        opened.save_process(run_id, "key", process)
    found = opened.processes(run_id)
    assert list(found) == ["key"] and sorted(found["key"]) == [0, 1]
    assert same(found["key"][0], good)
    assert same(found["key"][1], bad)
    result = facts.result()
    opened.save_result(run_id, "key", result)
    assert opened.results(run_id) == {"key": replace(result, samples_ns=())}
    assert opened.processes("other") == {} and opened.results("other") == {}


def test_a_run_keeps_what_was_asked(opened: Store) -> None:
    run_id = new_run(opened)
    assert opened.run_request(run_id[:12]) == (run_id, json.loads(json.dumps(request_doc(REQUEST))))
    doc = request_doc(REQUEST)
    assert doc["plan"]["seed"] == 5 and doc["labels"] == {"k": "v"}
    assert doc["cases"][1]["shapes"] == [["x", [1, 4]]] and doc["cases"][1]["threads"] == 4
    assert Path(doc["cases"][0]["model"]["path"]).is_absolute()
    with pytest.raises(UsageError, match="names no single run"):
        opened.run_request("zzz")
    new_run(opened)
    with pytest.raises(UsageError, match="names no single run"):
        opened.run_request("2")


def test_saving_twice_stores_once(opened: Store) -> None:
    run_id = new_run(opened)
    for _ in range(2):
        opened.save_process(run_id, "key", facts.process())
        opened.save_result(run_id, "key", facts.result())
    assert (rows(opened, "process"), rows(opened, "sample"), rows(opened, "result")) == (1, 3, 1)
    metrics = rows(opened, "metric")
    opened.save_process(run_id, "key", facts.process(level_ms=99))
    assert same(opened.processes(run_id)["key"][0], facts.process())
    assert rows(opened, "metric") == metrics == 4


def test_a_second_result_of_a_case_changes_nothing(opened: Store) -> None:
    run_id = new_run(opened)
    opened.save_result(run_id, "key", facts.result())
    opened.save_result(run_id, "key", facts.result(id="other", status="FAILED"))
    assert opened.results(run_id)["key"].id == facts.result().id
    assert spooled() == []


def test_metrics_have_their_intervals(opened: Store) -> None:
    opened.save_result(new_run(opened), "key", facts.result(load_ms=None))
    query = "SELECT name, unit, direction, value, lo, hi FROM metric ORDER BY name"
    with opened.database.reading() as connection:
        found = connection.execute(text(query)).all()
    assert found == [
        ("first_inference", "ms", -1, 15.25, None, None),
        ("latency_p50", "ms", -1, 10.0, 9.8, 10.2),
        ("size", "bytes", -1, 1_234_567.0, None, None),
    ]


def test_find_result_by_the_beginning_of_its_id(opened: Store) -> None:
    run_id = new_run(opened)
    for name in ("abc111", "abc222", "a%c333"):
        opened.save_result(run_id, name, facts.result(id=name))
    for process in facts.processes()[:2][::-1]:
        opened.save_process(run_id, "abc111", process)
    found_run, found = opened.find_result("abc1")
    assert (found_run, found.id) == (run_id, "abc111")
    assert found.samples_ns == tuple(tuple(p.run_ns.tolist()) for p in facts.processes()[:2])
    assert opened.find_result("a%")[1].id == "a%c333"
    with pytest.raises(UsageError, match="fits several results: abc111, abc222"):
        opened.find_result("abc")
    with pytest.raises(UsageError, match="no result 'zzz'"):
        opened.find_result("zzz")


def test_the_samples_of_a_result_are_those_it_was_made_from(opened: Store) -> None:
    run_id = new_run(opened)
    opened.save_result(run_id, "key", facts.result())
    opened.save_process(run_id, "key", facts.process(0))
    opened.save_process(run_id, "key", replace(facts.process(1), ended=Ended("error", "report", "no placement")))
    assert opened.find_result(facts.result().id)[1].samples_ns == (tuple(facts.process(0).run_ns.tolist()),)


def at(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setattr(store, "now", lambda: moment)


def test_history_is_newest_first(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, moment in enumerate(("2026-01-02", "2026-01-03", "2026-01-01")):
        at(monkeypatch, f"{moment}T00:00:00.000Z")
        run_id = new_run(opened)
        model = replace(facts.result().model, name="other" if number == 2 else "net")
        opened.save_result(run_id, "key", facts.result(id=f"r{number}", device=f"d{number % 2}", model=model))
    assert [(row[0][:10], row[2].id) for row in opened.history(None, None, 10)] == [
        ("2026-01-03", "r1"),
        ("2026-01-02", "r0"),
        ("2026-01-01", "r2"),
    ]
    assert [row[2].id for row in opened.history("d0", None, 10)] == ["r0", "r2"]
    assert [row[2].id for row in opened.history(None, "net", 1)] == ["r1"]
    assert opened.history(None, "none", 10) == []


def test_a_clock_that_was_moved_back(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later result of a series stays the later one; others have nothing to do with it."""
    moments = ("2026-01-02T05:00:00.000Z", "2026-01-02T04:00:00.000Z", "2026-01-02T04:10:00.000Z")
    for number, moment in enumerate(moments):
        at(monkeypatch, moment)
        opened.save_result(new_run(opened), "key", facts.result(id=f"r{number}"))
    opened.save_result(new_run(opened), "key", facts.result(id="elsewhere", device="d2"))
    at(monkeypatch, "2026-01-02T06:00:00.000Z")
    opened.save_result(new_run(opened), "key", facts.result(id="r3"))
    assert [(row[0][11:23], row[2].id) for row in opened.history(None, None, 10)] == [
        ("06:00:00.000", "r3"),
        ("05:00:00.002", "r2"),
        ("05:00:00.001", "r1"),
        ("05:00:00.000", "r0"),
        ("04:10:00.000", "elsewhere"),
    ]


def test_the_newest_unfinished_run_of_the_same_plan_is_resumed(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(REQUEST, plan=Plan(processes=2))
    with pytest.raises(UsageError, match="no unfinished run with the same plan"):
        opened.unfinished_run(REQUEST.digest, None)
    made = []
    for day, request in enumerate((REQUEST, REQUEST, other, REQUEST), 1):
        at(monkeypatch, f"2026-01-0{day}T00:00:00.000Z")
        made.append(new_run(opened, request))
    opened.finish_run(made[3])
    assert opened.unfinished_run(replace(REQUEST, plan=Plan(seed=99)).digest, None) == made[1]
    assert opened.unfinished_run(REQUEST.digest, made[0]) == made[0]
    with pytest.raises(UsageError, match="measured something else"):
        opened.unfinished_run(REQUEST.digest, made[2])
    with pytest.raises(UsageError, match="is complete"):
        opened.unfinished_run(REQUEST.digest, made[3])
    with pytest.raises(UsageError, match="no unfinished run zzz"):
        opened.unfinished_run(REQUEST.digest, "zzz")


def test_the_spread_between_sessions_is_known_from_five_on(opened: Store) -> None:
    p50s = [10.0, 10.3, 9.9, 10.1, 10.4]
    for number, p50 in enumerate(p50s):
        assert opened.session_spread(facts.result()) == (store.UNKNOWN_SPREAD, False)
        opened.save_result(new_run(opened), "key", facts.result(id=f"s{number}", latency_ms=facts.timing(p50)))
    spread, known = opened.session_spread(facts.result())
    assert known and spread == pytest.approx(stdev(map(log, p50s)))


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "x"},
        {"device_info": DeviceFacts(fingerprint="other")},
        {"runtime": Runtime("onnxruntime", "1.31", None)},
        {"threads": 2},
        {"status": "INVALID"},
    ],
)
def test_other_cases_do_not_count_for_the_spread(opened: Store, changes: dict[str, Any]) -> None:
    for number in range(5):
        opened.save_result(new_run(opened), "key", facts.result(id=str(number), **changes))
    assert opened.session_spread(facts.result()) == (store.UNKNOWN_SPREAD, False)


@pytest.mark.parametrize("data", [b"this is no database, by far" * 50, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_corrupt_file_is_a_store_error(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(
        StoreError, match=r"results\.db cannot be opened: .*put back a copy of the file; --store names another"
    ):
        Store(str(path))
    assert path.read_bytes() == data


def test_a_folder_or_an_unusable_path_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(str(tmp_path / "file" / "results.db"))


def test_the_default_store_is_in_the_users_data_folder(tmp_path: Path) -> None:
    Store().close()
    assert (tmp_path / "data" / "pocketbench" / "results.db").is_file()


@pytest.fixture
def locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, str, sqlite3.Connection]]:
    """A store with a run, and somebody else in the middle of a transaction."""
    monkeypatch.setattr(engine, "BUSY_MS", 50)
    opened = Store(str(path))
    run_id = new_run(opened)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield opened, run_id, other
    opened.close()
    other.close()


def test_a_locked_database_spools_and_replays_once(locked: tuple[Store, str, sqlite3.Connection], path: Path) -> None:
    opened, run_id, other = locked
    opened.save_process(run_id, "key", facts.process())
    opened.save_result(run_id, "key", facts.result())
    assert len(spooled()) == 2
    assert rows(opened, "process") == 0
    other.execute("ROLLBACK")
    for _ in range(2):
        again = Store(str(path))
        assert same(again.processes(run_id)["key"][0], facts.process())
        assert again.results(run_id)["key"].id == facts.result().id
        assert (rows(again, "process"), rows(again, "sample"), rows(again, "result")) == (1, 3, 1)
        again.close()
        assert spooled() == []


def test_what_is_spooled_waits_for_its_own_store(locked: tuple[Store, str, sqlite3.Connection], tmp_path: Path) -> None:
    opened, run_id, _ = locked
    opened.save_process(run_id, "key", facts.process())
    Store(str(tmp_path / "another.db")).close()
    with sqlite3.connect(tmp_path / "another.db") as connection:
        # The same run there: only the spool's own address tells the stores apart.
        connection.execute("INSERT INTO run VALUES (?, 'then', NULL, 'host', '1', 'digest', '{}')", (run_id,))
    connection.close()
    another = Store(str(tmp_path / "another.db"))
    assert len(spooled()) == 1
    assert rows(another, "process") == 0
    another.close()


def test_a_run_cannot_begin_in_a_locked_database(locked: tuple[Store, str, sqlite3.Connection]) -> None:
    with pytest.raises(StoreError, match="cannot be written: database is locked"):
        new_run(locked[0])


def test_neither_store_nor_spool_is_a_store_error(
    locked: tuple[Store, str, sqlite3.Connection], tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StoreError, match="and neither can"):
        locked[0].save_process(locked[1], "key", facts.process())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"url": "URL"}',
        '{"url": "URL", "rows": [["none", [{"a": 1}]]]}',
        '{"url": "URL", "rows": [["process", [{"run_id": "gone", "case_key": "k", "round": 0, "doc": {}}]]]}',
    ],
)
def test_a_spooled_file_that_fits_nothing_does_not_close_the_store(path: Path, text: str) -> None:
    Store(str(path)).close()
    spool.folder().mkdir(parents=True)
    (spool.folder() / "bad.json").write_text(text.replace("URL", f"sqlite:///{path}"))
    opened = Store(str(path))
    assert opened.history(None, None, 1) == []
    opened.close()


def test_samples_of_an_unknown_codec_are_a_store_error(opened: Store) -> None:
    run_id = new_run(opened)
    opened.save_process(run_id, "key", facts.process())
    with opened.database.writing() as connection:
        connection.execute(text("UPDATE sample SET codec = 'zstd9'"))
    with pytest.raises(StoreError, match=r"'zstd9'.*update pocketbench"):
        opened.processes(run_id)


@given(st.lists(st.integers(0, 2**62), max_size=50))
def test_samples_are_packed_without_loss(values: list[int]) -> None:
    array = np.array(values, np.int64)
    kind, data = codec.pack(array)
    again = codec.unpack(kind, data)
    assert again.dtype == np.int64 and again.tolist() == values


def test_small_samples_take_four_bytes_before_packing() -> None:
    assert codec.pack(np.array([2**32 - 1]))[0] == "u32le+zlib"
    assert codec.pack(np.array([2**32]))[0] == "u64le+zlib"


def test_a_file_name_that_is_no_utf8_can_be_stored(opened: Store) -> None:
    case = facts.case(model=facts.model_file("caf\udce9.onnx"))
    run_id = new_run(opened, replace(REQUEST, cases=(case,)))
    result = assemble(case, facts.processes(), Context("ssh"))
    opened.save_result(run_id, case.key, result)
    assert opened.history(None, None, 1)[0][2].model.name == result.model.name
    report.as_csv(report.Report(run_id, [result])).encode()


def test_odd_names_are_kept_as_they_are(opened: Store) -> None:
    run_id = new_run(opened)
    odd: Result = facts.result(device="a'b\"; DROP TABLE run;--\u202e", labels={"ключ": "значение"})
    opened.save_result(run_id, "key", odd)
    assert opened.results(run_id)["key"] == replace(odd, samples_ns=())
