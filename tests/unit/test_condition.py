"""Good, suspect, quarantined: from facts alone, whatever their order, and never by an event that was missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.devices.condition import FAULT, GOOD, PASSED, QUARANTINED, SUSPECT, Fact, condition

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def told(*hours_ago: float, kind: str = FAULT) -> list[Fact]:
    return [Fact(NOW - timedelta(hours=ago), kind, f"{kind} {ago} h ago") for ago in hours_ago]


def test_a_device_of_which_nothing_is_known_is_good() -> None:
    assert condition([], NOW).state == GOOD


@pytest.mark.parametrize(
    ("faults", "state"),
    [
        ((1,), SUSPECT),
        ((1, 2), SUSPECT),
        ((25,), GOOD),
        ((1, 2, 3), QUARANTINED),
        ((1, 2, 25.5), SUSPECT),
        # Never three within 24 hours.
        ((1, 14, 26, 39), SUSPECT),
        # By time alone nobody gets well.
        ((100, 101, 102), QUARANTINED),
    ],
)
def test_faults_in_a_day(faults: tuple[float, ...], state: str) -> None:
    assert condition(told(*faults), NOW).state == state


@pytest.mark.parametrize(
    ("passed", "failed", "state"),
    [
        ((0.5,), (), QUARANTINED),
        ((0.5, 0.2), (), GOOD),
        # In a row.
        ((0.5, 0.2), (0.3,), QUARANTINED),
        ((0.5, 0.2, 0.1), (0.3,), GOOD),
        # Before it was quarantined.
        ((10, 9), (), QUARANTINED),
    ],
)
def test_two_passed_checks_bring_it_back(passed: tuple[float, ...], failed: tuple[float, ...], state: str) -> None:
    facts = [*told(1, 2, 3), *told(*passed, kind=PASSED), *told(*failed)]
    assert condition(facts, NOW).state == state


def test_one_more_fault_after_its_return_is_the_first_again() -> None:
    facts = [*told(5, 6, 7), *told(4, 3, kind=PASSED), *told(1)]
    found = condition(facts, NOW)
    assert (found.state, "1 fault(s)" in found.why) == (SUSPECT, True)


def test_it_says_why() -> None:
    found = condition([*told(3, 2, 1), *told(0.5, kind=PASSED)], NOW)
    assert "3 faults within 24 h, the last 2026-05-01 11:00 UTC: fault 1 h ago" in found.why
    assert found.passes == 1


@given(st.permutations([*told(1, 2, 3, 30), *told(0.5, 0.4, 1.5, kind=PASSED)]))
def test_the_order_in_which_facts_are_read_is_nothing(facts: list[Fact]) -> None:
    assert condition(facts, NOW) == condition(sorted(facts, key=lambda one: one.at), NOW)
