"""Suites through the command line: once, night by night, cut and resumed, out of time, and written wrongly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Bench, wait_until
from tests.integration.nights import SLEEP_MS, Lab, webhook

STEP = 1.3


def test_a_change_is_told_once_everywhere_acknowledged_and_undone(bench: Bench) -> None:
    """No history is needed to see that tonight's file is slower than the baseline's."""
    with webhook() as (address, told):
        lab = Lab(bench, address, models={"a": {"sleep_ms": SLEEP_MS}, "b": {"sleep_ms": SLEEP_MS}})
        first = lab.night("n1")
        assert (first.ended.code, first.color, first.failures, told) == (0, "ok", [], [])
        assert {one["state"] for one in first.night["series"]} == {"learning", "ok"}

        lab.models["a"]["sleep_ms"] = SLEEP_MS * STEP
        second = lab.night("n2")
        assert (second.ended.code, second.color) == (1, "red"), second.night["remarks"]
        assert second.alarms("red") == [("a", "latency_p50")]
        alarm = second.night["alarms"][0]
        assert alarm["effect"] == pytest.approx(STEP - 1, abs=0.05) and "changed: model" in alarm["why"]
        assert len(second.failures) == 1 and "latency_p50" in second.failures[0]
        assert 'class="verdict red"' in second.page and alarm["id"] in second.page
        assert [(one["color"], [a["state"] for a in one["changed"]]) for one in told] == [("red", ["open"])]

        # The next night says so again, and tells nobody again.
        third = lab.night("n3")
        assert (third.ended.code, third.alarms("red"), len(told)) == (1, [("a", "latency_p50")], 1)

        shown = bench("baseline", "show", "sim")
        assert alarm["id"] in shown.stdout and "its first trusted night" in shown.stdout
        assert bench("baseline", "acknowledge", "sim", alarm["id"][:6]).code == 0
        fourth = lab.night("n4")
        assert (fourth.ended.code, fourth.color, fourth.failures, len(told)) == (0, "ok", [], 1)
        assert fourth.alarms("red", "acknowledged") == [("a", "latency_p50")]

        lab.models["a"]["sleep_ms"] = SLEEP_MS
        fifth = lab.night("n5")
        assert (fifth.ended.code, fifth.night["alarms"]) == (0, [])
        assert [a["state"] for a in told[-1]["changed"]] == ["fixed"] and len(told) == 2
        again = bench("report", "sim", "--night", "n2", "--format", "json")
        assert again.doc["alarms"] == second.night["alarms"] and again.code == 0


def test_ctrl_c_ends_a_run_well(bench: Bench) -> None:
    lab = Lab(bench, models={name: {"sleep_ms": 30} for name in "abcd"})
    process = bench.start("suite", "run", lab.write())
    assert wait_until(lambda: bool(bench.agents()), 60)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume goes on" in said
    resumed = bench("suite", "run", lab.write(), "--resume", "--format", "json")
    assert resumed.code == 0 and len(resumed.results) == 4
    assert bench("suite", "run", lab.write(), "--resume").code == 2


def test_a_night_keeps_to_its_time(bench: Bench) -> None:
    lab = Lab(bench, models={name: {"sleep_ms": 5} for name in "abcdefghij"}, extra=["budget: 2s"])
    late = lab.night("n1")
    assert late.ended.code == 3
    assert late.night["measured"] == 0 and len(late.night["cases"]) == 10
    assert {tuple(case["reasons"]) for case in late.night["cases"]} == {("the night's budget was spent",)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("suite: sim", "suite: 'a b'"), "suite.yaml:1: suite: a name of letters"),
        (("devices: [local]", "devices: []"), "suite.yaml:2: devices"),
        (("devices: [local]", "device: [local]"), "suite.yaml:2: unknown key 'device' (did you mean 'devices'?)"),
        (
            ("    runtimes:", "    runtime:"),
            "suite.yaml:5: unknown key 'runtime' (did you mean 'runtimes'?) in measure.0",
        ),
        (("processes: 2", "processes: 0"), "suite.yaml:6: plan.processes"),
        (("min_runs: 8", "min_runs: 9"), "min_runs"),
        (("load: 1000%", "laod: 1%"), "unknown metric 'laod' (did you mean 'load'?)"),
        (("load: 1000%", "load: much"), "load: a share such as 2% or 0.02"),
        (("a.null", "gone.null"), "gone.null: no such file"),
        (("devices: [local]", "devices: [pixle]"), "unknown device 'pixle'"),
        (("suite: sim", "suite: sim\nbudget: soon"), "a time such as 90m"),
        (("suite: sim", "suite: sim\nnotify: {webhook: ftp://x}"), "http:// or https://"),
        (("suite: sim", "suite: [\n"), "not YAML"),
        (("suite: sim", "- x"), "not YAML"),
    ],
)
def test_a_suite_that_is_written_wrongly(bench: Bench, change: tuple[str, str], told: str) -> None:
    file = Lab(bench, models={"a": {}}).write()
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))
    for command in ("run", "nightly"):
        ended = bench("suite", command, file)
        assert ended.code == 2 and told in ended.stderr, ended.stderr


def test_two_cases_of_one_series_are_refused(bench: Bench) -> None:
    """Their nights could not be told apart."""
    file = Lab(bench, models={"a": {}}).write()
    (bench.home / "new").mkdir()
    (bench.home / "new" / "a.null").write_text("{}")
    file.write_text(file.read_text().replace("a.null", "a.null, new/a.null"))
    ended = bench("suite", "nightly", file)
    assert ended.code == 2 and "are one series: give the files different names" in ended.stderr


def test_names_that_are_wrong(bench: Bench, tmp_path: Path) -> None:
    assert "no such file" in bench("suite", "run", tmp_path / "gone.yaml").stderr
    lab = Lab(bench, models={"a": {"sleep_ms": 1}})
    for label in ("run.x", "../x", "a b", ""):
        ended = bench("suite", "nightly", lab.write(), "--night", label)
        assert ended.code == 2 or label == "", ended.stderr
    known = lab.night("n1")
    assert known.ended.code == 0
    for command in (("baseline", "show", "smi"), ("report", "smi"), ("report", "sim", "--night", "n2")):
        ended = bench(*command)
        assert ended.code == 2 and "did you mean" in ended.stderr, ended.stderr
    assert "is no live alarm" in bench("baseline", "acknowledge", "sim", "zz").stderr
    assert bench("baseline", "pin", "sim", "zz").code == 2


def test_a_webhook_that_is_away_fails_nothing(bench: Bench) -> None:
    lab = Lab(bench, "http://127.0.0.1:9/secret", models={"a": {"sleep_ms": 1}, "b": {"sleep_ms": 1}})
    lab.night("n1")
    lab.models["a"]["fail"] = {"stage": "run", "how": "error"}
    told = lab.night("n2")
    assert told.ended.code == 1 and "the webhook was not told" in told.ended.stderr
    assert "secret" not in told.ended.stderr + json.dumps(told.night)
