"""The lease on the device: one holder, and an epoch that never comes twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocketbench_agent import lease
from pocketbench_agent.lease import Held, Lease


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the lease's clock on."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1000 + clock.now))

    def move(seconds: float) -> None:
        clock.now += seconds

    return move


@pytest.fixture
def made(tmp_path: Path, later: Callable[[float], None]) -> Lease:
    return Lease(tmp_path / "lease.json")


def test_take_and_release(made: Lease) -> None:
    assert not made.valid(0) and not made.valid(1)
    assert made.take("ann", 0, 90) == Held(1, "ann", 90)
    assert made.valid(1) and not made.valid(2)
    assert made.release(1) == Held(0, "", 0)
    assert not made.valid(1)
    assert made.take("bob", 0, 90).epoch == 2


def test_a_taken_lease_is_refused_with_its_holder(made: Lease, later: Callable[[float], None]) -> None:
    made.take("ann", 0, 90)
    later(30)
    assert made.take("bob", 0, 90) == Held(0, "ann", 60)
    assert "held by ann for 60 s more" in made.refusal()
    assert made.valid(1)


def test_a_lease_ends_by_itself(made: Lease, later: Callable[[float], None]) -> None:
    made.take("ann", 0, 90)
    later(90)
    assert not made.valid(1)
    assert "free: take it first" in made.refusal()
    assert made.renew(1, 90).epoch == 0
    assert made.take("bob", 0, 90).epoch == 2


def test_renew_prolongs_from_now(made: Lease, later: Callable[[float], None]) -> None:
    made.take("ann", 0, 90)
    later(80)
    assert made.renew(1, 90) == Held(1, "ann", 90)
    later(80)
    assert made.valid(1)


def test_whoever_had_it_before_can_do_nothing(made: Lease, later: Callable[[float], None]) -> None:
    made.take("ann", 0, 90)
    later(91)
    made.take("bob", 0, 90)
    assert made.renew(1, 90) == Held(0, "bob", 90)
    made.release(1)
    assert made.valid(2) and not made.valid(1)


@pytest.mark.parametrize(("given", "expected"), [(0, 1), (1, 1), (7, 7)])
def test_the_epoch_follows_the_stores(made: Lease, given: int, expected: int) -> None:
    assert made.take("ann", given, 90).epoch == expected
    made.release(expected)
    assert made.take("bob", 0, 90).epoch == expected + 1


def test_a_restarted_agent_never_gives_an_old_epoch(tmp_path: Path, made: Lease) -> None:
    made.take("ann", 41, 90)
    again = Lease(tmp_path / "lease.json")
    assert not again.valid(41)
    assert again.take("bob", 0, 90).epoch == 42


def test_a_running_job_renews_it(tmp_path: Path, later: Callable[[float], None]) -> None:
    """Up to its end, and from there the host has its 90 s to come and collect."""
    job = SimpleNamespace(runs=True)
    made = Lease(tmp_path / "lease.json", lambda: job.runs)
    assert not made.in_force()
    made.take("ann", 0, 90)
    for _ in range(5):
        later(50)
        assert made.valid(1) and made.take("bob", 0, 90) == Held(0, "ann", 90)
    job.runs = False
    later(89)
    assert made.valid(1)
    later(1)
    assert not made.valid(1)
    assert made.take("bob", 0, 90).epoch == 2


def test_a_job_that_nobody_owns_holds_no_lease(tmp_path: Path, later: Callable[[float], None]) -> None:
    made = Lease(tmp_path / "lease.json", lambda: True)
    assert not made.in_force()
    made.take("ann", 0, 90)
    made.release(1)
    assert not made.in_force() and made.take("bob", 0, 90).epoch == 2


def test_a_holder_who_is_gone_can_be_followed(made: Lease) -> None:
    made.take("ann", 0, 90)
    assert made.take("bob", 0, 90, instead_of="carl") == Held(0, "ann", 90)
    assert made.take("bob", 0, 90, instead_of="ann") == Held(2, "bob", 90)
    assert not made.valid(1)
    made.release(2)
    assert made.take("carl", 0, 90, instead_of="").epoch == 3


def test_the_file_says_who_and_until_when(tmp_path: Path, made: Lease, later: Callable[[float], None]) -> None:
    def told() -> object:
        return json.loads((tmp_path / "lease.json").read_text())

    made.take("ann", 0, 90)
    assert told() == {"epoch": 1, "owner": "ann", "until_unix_s": 1190}
    later(20)
    made.renew(1, 90)
    assert told() == {"epoch": 1, "owner": "ann", "until_unix_s": 1190}, "not at every renewal"
    later(20)
    made.renew(1, 90)
    assert told() == {"epoch": 1, "owner": "ann", "until_unix_s": 1230}
    made.release(1)
    assert told() == {"epoch": 1, "owner": "", "until_unix_s": 1140}


def test_a_full_disk_costs_no_session(tmp_path: Path, later: Callable[[float], None]) -> None:
    made = Lease(tmp_path / "away" / "lease.json")
    assert made.take("ann", 0, 90).epoch == 1 and made.valid(1)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"epoch": "x"}', '{"epoch": null}', "\x00"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "lease.json").write_text(text)
    assert Lease(tmp_path / "lease.json").take("ann", 0, 90).epoch == 1
