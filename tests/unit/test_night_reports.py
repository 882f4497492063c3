"""One night in every form: they agree with each other, and nothing in a name gets out of its place."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from pocketbench.documents import from_doc, to_doc
from pocketbench.night import (
    AMBER,
    LEARNING,
    OK,
    RED,
    Alarm,
    Candidate,
    CaseNight,
    DeviceNight,
    Night,
    Point,
    SeriesNight,
)
from pocketbench.report import night_text
from pocketbench.report.junit import as_junit
from pocketbench.report.night_html import as_html

EVIL = "<img src=x onerror=alert(1)>|`$(id)`\x1b[31m\0\"'&"


def a_night(name: str = "net", color: str = RED, state: str = "open") -> Night:
    points = [Point(f"n{i}", 10.0 + i % 3, 9.0, 12.0, ["model"] if i == 4 else []) for i in range(12)]
    one = SeriesNight(
        "k1",
        "pixel8",
        f"{name} litert x1",
        "latency_p50",
        "ms",
        -1,
        color,
        points,
        11,
        (9.0, 12.5),
        10.0,
        0.051,
        0.02,
        "why so",
    )
    learning = replace(
        one, key="k2", metric="load", state=LEARNING, band=None, change=None, detectable=None, note="learning"
    )
    alarm = Alarm(
        "a1b2", "s", "pixel8", "k1", "latency_p50", color, state, "n11", f"{name} litert x1", 0.051, "+5.1% in 10 pairs"
    )
    return Night(
        suite="phones",
        label="2026-11-26",
        started_utc="2026-11-26T01:00:00.000Z",
        finished_utc="2026-11-26T02:00:00.000Z",
        host="lab",
        tool_version="0.1.0",
        spent_s=3600.0,
        budget_s=7200.0,
        series=[one, learning],
        alarms=[alarm],
        changed=[alarm, replace(alarm, id="f", metric="size", state="fixed", closed="2026-11-26")],
        cases=[
            CaseNight("pixel8", f"{name} gpu", "INVALID", ["noisy: too noisy"]),
            CaseNight("p", "o", "LOST", ["gone"], True),
        ],
        devices=[DeviceNight("pixel8", "Pixel 8", {"OK": 3}, AMBER, 0.01, 41.0, False, "moved")],
        candidates=[
            Candidate("pixel8", name, 10.0, 0.7, "top-1", 4_000_000, None, True),
            Candidate("pixel8", "b", 5.0, 0.6, "top-1", 2_000_000, 3.0, False),
        ],
        measured=3,
        remarks=["2 cases were left out"],
    )


class Page(HTMLParser):
    """What a browser would load or run, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_form_says_the_same() -> None:
    night = a_night()
    assert night.color == RED and night.exit_code == 1
    for text in (night_text.as_table(night), night_text.as_markdown(night), " ".join(Page(as_html(night)).words)):
        assert "phones, night 2026-11-26: 1 red; 2 cases without a trusted number" in text
        assert all(
            word in text for word in ("+5.1% in 10 pairs", "INVALID", "too noisy", "2 cases were left out", "fixed")
        )
    doc = json.loads(night_text.as_json(night))
    assert (doc["color"], doc["exit_code"], doc["schema"]) == (RED, 1, 1)
    rows = list(csv.DictReader(io.StringIO(night_text.as_csv(night))))
    assert [(row["metric"], row["state"], row["value"]) for row in rows] == [
        ("latency_p50", RED, "12.0"),
        ("load", LEARNING, "12.0"),
    ]
    root = ElementTree.fromstring(as_junit(night).encode())
    told = {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert told == {"tests": "4", "failures": "1", "errors": "1", "skipped": "2"}
    assert len(root.findall("testcase")) == 4 and len(root.findall(".//failure")) == 1


@pytest.mark.parametrize(("color", "state", "code"), [(RED, "acknowledged", 3), (AMBER, "open", 3), (RED, "open", 1)])
def test_only_an_open_red_alarm_fails_the_night(color: str, state: str, code: int) -> None:
    night = a_night(color=color, state=state)
    assert night.exit_code == code
    failures = ElementTree.fromstring(as_junit(night).encode()).get("failures")
    assert failures == ("1" if code == 1 else "0")
    assert replace(night, cases=night.cases[1:]).exit_code == (1 if code == 1 else 0), "an optional case fails nothing"


def test_names_stay_where_they_belong() -> None:
    night = a_night(EVIL)
    page = Page(as_html(night))
    assert "img" not in page.tags and page.handlers == []
    assert set(page.tags) <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "link",
            "style",
            "body",
            "header",
            "p",
            "h1",
            "h2",
            "h3",
            "nav",
            "a",
            "main",
            "b",
        ),
        *(
            "section",
            "div",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "span",
            "code",
            "article",
            "svg",
            "rect",
            "line",
        ),
        *("polyline", "circle", "text", "label", "input", "script"),
    }
    # EVIL's own "title" elements lie inside SVG; none of theirs became one.
    assert all(one.startswith("#") or one == "data:," for one in page.loads), page.loads
    ElementTree.fromstring(as_junit(night).encode())
    assert "\x1b" not in night_text.as_table(night) + night_text.as_markdown(night)
    line = next(one for one in night_text.as_markdown(night).splitlines() if one.startswith("| red"))
    assert len([c for i, c in enumerate(line) if c == "|" and line[i - 1] != "\\"]) == 9


def test_a_night_survives_its_document() -> None:
    night = a_night()
    assert to_doc(from_doc(Night, json.loads(json.dumps(to_doc(night))))) == to_doc(night)


def test_an_empty_night_has_a_page() -> None:
    night = replace(a_night(), series=[], alarms=[], changed=[], cases=[], devices=[], candidates=[], remarks=[])
    assert night.color == OK and night.exit_code == 0
    assert "Every case has one" in as_html(night) and "nothing changed for the worse" in night_text.as_table(night)
    assert ElementTree.fromstring(as_junit(night).encode()).get("tests") == "0"


def test_constant_and_single_points_can_be_drawn() -> None:
    night = a_night()
    single = replace(night.series[0], points=[Point("n", 0.0)], band=None, baseline=None)
    same = replace(night.series[0], points=[Point("n", 5.0)] * 3, band=(5.0, 5.0), baseline=5.0)
    text = as_html(replace(night, series=[single, same]))
    assert "nan" not in text.lower().replace("number.isnan", "") and "inf" not in [w.lower() for w in text.split()]
