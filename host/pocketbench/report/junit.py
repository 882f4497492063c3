"""A night as JUnit XML, for whatever shows test results: a series is a test, red is its failure."""

from __future__ import annotations

import re
from xml.etree import ElementTree as xml

from pocketbench.nightly.night import LEARNING, RED, SUSPECTED, Night
from pocketbench.report.numbers import significant

# XML 1.0 has no other control characters, not even escaped.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(night: Night) -> str:
    """One suite: a failure for each red alarm, an error for a case without a trusted number, the rest passed."""
    root = xml.Element(
        "testsuite", name=_clean(f"{night.suite} {night.label}"), timestamp=night.started_utc.rstrip("Z")
    )
    failures = errors = skipped = tests = 0
    seen = set()
    for one in night.series:
        test = _test(root, one.device, f"{one.title}: {one.metric}")
        tests += 1
        seen.add((one.key, one.metric))
        value = f"{significant(one.points[-1].value)} {one.unit}" if one.points else ""
        alarm = next((a for a in night.alarms if (a.series, a.metric) == (one.key, one.metric)), None)
        if one.state == RED and alarm is not None and alarm.state == "open":
            failures += 1
            xml.SubElement(test, "failure", message=_clean(alarm.why)).text = _clean(f"{value}; since {alarm.opened}")
        elif one.state in (LEARNING, SUSPECTED):
            skipped += 1
            xml.SubElement(test, "skipped", message=_clean(one.note))
        elif one.note:
            xml.SubElement(test, "system-out").text = _clean(one.note)
    for alarm in night.alarms:
        if (alarm.series, alarm.metric) in seen:
            continue
        test = _test(root, alarm.device, f"{alarm.title}: {alarm.metric}")
        tests += 1
        if alarm.color == RED and alarm.state == "open":
            failures += 1
            xml.SubElement(test, "failure", message=_clean(alarm.why))
        else:
            xml.SubElement(test, "system-out").text = _clean(f"{alarm.color}, {alarm.state}: {alarm.why}")
    for case in night.cases:
        test = _test(root, case.device, case.title)
        tests += 1
        if case.optional:
            skipped += 1
        errors += not case.optional
        kind = "skipped" if case.optional else "error"
        xml.SubElement(test, kind, message=_clean(f"{case.status}: {'; '.join(case.reasons)}"))
    for name, count in (("tests", tests), ("failures", failures), ("errors", errors), ("skipped", skipped)):
        root.set(name, str(count))
    root.set("time", f"{night.spent_s:.1f}")
    xml.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{xml.tostring(root, encoding='unicode')}\n"


def _test(root: xml.Element, device: str, name: str) -> xml.Element:
    return xml.SubElement(root, "testcase", classname=_clean(device), name=_clean(name))


def _clean(text: str) -> str:
    return FORBIDDEN.sub("?", text)
