"""What goes to which queue, to which device, for how long; and when somebody else begins it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocketbench.cli.queue import rows_of
from pocketbench.config.devices import DeviceEntry, select, with_kinds
from pocketbench.errors import UsageError
from pocketbench.farm import jobs
from pocketbench.farm.bays import Bays
from pocketbench.farm.manager import GRACE_S, due
from pocketbench.farm.queue import Entry
from pocketbench.farm.shares import deadline_s, split, target_of, unserved
from pocketbench.farm.worker import address, claims_of
from pocketbench.models import ModelFile
from pocketbench.plan import BASELINE, NEW, ORIGINAL, Case, Plan, Request
from pocketbench.store.lab import Claim, Share
from tests.unit import facts


def lab(host: str | None = "lab-a", **more: Any) -> DeviceEntry:
    return DeviceEntry(transport="local", lab_host=host, **more)


def case(device: str, recipe: str | None = None, **more: Any) -> Case:
    plain = facts.case()
    model = ModelFile(plain.model.path.with_name(f"{recipe}.onnx"), plain.model.files, recipe)
    return replace(plain, device=device, model=model, **more)


def test_cases_of_a_device_stay_together_and_those_of_a_kind_spread() -> None:
    cases = [
        *(case("a1", threads=threads) for threads in (1, 2)),
        *(case("any:box", threads=threads) for threads in (1, 2)),
        case("b1"),
    ]
    found = split(cases)
    assert [(share.name, share.queue, share.lock, len(share.cases)) for share in found] == [
        ("a1", "dev.a1", "a1", 2),
        ("any:box 1", "kind.box", None, 1),
        ("any:box 2", "kind.box", None, 1),
        ("b1", "dev.b1", "b1", 1),
    ]
    assert [one for share in found for one in share.cases] == cases
    assert [target_of(share.queue) for share in found] == [share.target for share in found]


def test_what_is_compared_with_each_other_goes_to_one_device() -> None:
    compressed = [case("any:box", recipe) for recipe in (ORIGINAL, "fp16", "int8-static")]
    assert [len(share.cases) for share in split([*compressed, case("any:box", threads=4)])] == [3, 1]
    pairs = [case("any:box", arm=arm, pair=number) for number in range(3) for arm in (NEW, BASELINE)]
    assert [len(share.cases) for share in split(pairs)] == [6]


def test_a_deadline_is_longer_than_all_that_may_take_its_time() -> None:
    plan, long = Plan(processes=6, energy_s=30.0), case("a1", scenario="sustained:600")
    assert deadline_s([case("a1")], plan) > 6 * plan.deadline_s
    assert deadline_s([long], plan) > deadline_s([case("a1")], plan) + 6 * 600
    assert deadline_s([case("a1")] * 3, plan) == 3 * deadline_s([case("a1")], plan)


def test_which_shares_nobody_will_take() -> None:
    shares = split([case("a1"), case("any:box"), case("any:phone"), case("gone")])
    lonely = unserved(shares, [("a1", None), ("b1", "box")])
    assert [share.target for share in lonely] == ["any:phone", "gone"]


def test_a_device_asks_for_work_when_it_has_none() -> None:
    bays = Bays({"a1": "box", "a2": None, "a3": "box"})
    assert bays.queues() == ["dev.a1", "dev.a2", "dev.a3", "kind.box"]
    assert (bays.take("kind.box", 1), bays.device(1)) == ("a1", "a1")
    assert bays.queues() == ["dev.a2", "dev.a3", "kind.box"]
    assert bays.take("dev.a3", 2) == "a3"
    assert bays.queues() == ["dev.a2"]
    bays.release(1)
    bays.release(1)
    assert bays.queues() == ["dev.a2", "dev.a1", "kind.box"]
    bays.bar({"a1"})
    assert bays.queues() == ["dev.a2", "dev.a1"], "it says itself that it is quarantined"
    assert bays.set_aside("a1") and not bays.set_aside("a1") and not bays.set_aside("a3")
    assert bays.queues() == ["dev.a2"]
    bays.put_back("a1")
    bays.bar(())
    assert (bays.take("kind.box", 3), bays.has(3), bays.has(4)) == ("a1", True, False)


def test_a_job_waits_for_a_device_that_is_set_aside_meanwhile() -> None:
    bays = Bays({"a1": None})
    assert bays.set_aside("a1") and bays.take("dev.a1", 1) is None
    bays.put_back("a1")
    assert bays.take("dev.a1", 1) == "a1"


def test_a_workload_that_is_another_file_is_not_run(tmp_path: Path) -> None:
    """Whoever can write to the queue may not have any file of a host run."""
    ran, path = tmp_path / "ran", tmp_path / "w.py"
    path.write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\ndef score(predict): ...\n")
    job = {"workload": (str(path), "0" * 64), "seen": {}}
    with pytest.raises(UsageError, match="another file on this host"):
        jobs._workload(job)
    assert not ran.exists()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert jobs._workload({**job, "workload": (str(path), sha256)}) is not None and ran.exists()


def test_a_job_is_begun_again_once_it_was_stalled_for_long_enough() -> None:
    seen: dict[int, float] = {}
    assert due([1, 2], seen, 100.0) == []
    assert due([1], seen, 100.0 + GRACE_S - 1) == []
    assert due([1, 2], seen, 100.0 + GRACE_S) == [1], "the other one was seen to run meanwhile"
    assert due([], seen, 200.0) == [] and seen == {}


def test_a_host_serves_what_devices_yaml_gives_it() -> None:
    entries = {
        "phone": DeviceEntry(transport="adb", serial="S1", lab_host="lab-a", kind="pixel"),
        "board": DeviceEntry(transport="ssh", host="board.invalid", user="pi", lab_host="lab-a"),
        "box": lab(),
        "desk": lab(None),
        "far": lab("lab-b"),
    }
    found = claims_of(entries, "lab-a")
    assert [(one.device, one.address, one.kind) for one in found] == [
        ("phone", "adb S1 0", "pixel"),
        ("board", "ssh board.invalid 22", None),
        ("box", "local box of lab-a", None),
    ]
    with pytest.raises(UsageError, match=r"lab_host: lab-c \(there are: lab-a, lab-b\); --host"):
        claims_of(entries, "lab-c")
    twin = {**entries, "twin": DeviceEntry(transport="ssh", host="BOARD.invalid", user="root", lab_host="lab-a")}
    with pytest.raises(UsageError, match=r"twin and board of devices.yaml are one device \(ssh board.invalid 22\)"):
        claims_of(twin, "lab-a")
    assert address("any", DeviceEntry(transport="adb", lab_host="lab-a")) == "adb any of lab-a"


def test_any_of_a_kind_can_be_asked_for() -> None:
    entries = with_kinds({"local": lab(None), "a1": lab(kind="box", tags=("all-night",)), "b1": lab(kind="box")})
    assert entries["any:box"] == entries["a1"]
    assert select(["any:box", "b1"], entries) == ["any:box", "b1"]
    assert select(["all"], entries) == ["a1", "b1"]
    assert select(["all-night"], entries) == ["a1"]
    with pytest.raises(UsageError, match=r"unknown device 'any:bx' \(did you mean 'any:box'\?\)"):
        select(["any:bx"], entries)


def test_a_case_stays_the_same_when_its_device_is_chosen() -> None:
    asked = case("any:box")
    chosen = replace(asked, device="a1", asked=asked.device)
    assert chosen.key == asked.key != case("a1").key
    assert Request((asked,), Plan()).digest == Request((chosen,), Plan()).digest


def test_what_the_queue_shows() -> None:
    claims = [Claim("a1", "x", "box", "lab-a", "me"), Claim("b1", "y", "box", "lab-b", "me")]
    entries = [
        Entry(1, "dev.a1", "doing", 2, "run", "a1", 3, 100.0),
        Entry(2, "kind.box", "todo", 1, "run", "any:box 1", 1, 160.0),
        Entry(3, "dev.gone", "todo", 1, "run", "gone", 1, 170.0),
    ]
    told = {"run": {"a1": Share("a1", "a1", "lab-a", 2, 8, 5, "round 2")}}
    found = rows_of(entries, claims, told, 200.0)
    assert [(row.target, row.state, row.since_s, row.where, row.doing) for row in found] == [
        ("a1", "runs, attempt 2", 100.0, "lab-a: a1", "round 2 (5 of 8)"),
        ("any:box", "waits", 40.0, "lab-a, lab-b", ""),
        ("gone", "waits", 30.0, "no worker", ""),
    ]
