"""What hosts tell each other through the store: files, claims, progress, health; in SQLite as in PostgreSQL."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError

from pocketbench.config.devices import DeviceEntry
from pocketbench.devices.condition import GOOD, QUARANTINED, SUSPECT
from pocketbench.errors import Quarantined, UsageError
from pocketbench.models import PlacedFile, place
from pocketbench.plan import Plan, Request
from pocketbench.store import health, lab, lease, schema, spool
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

REQUEST = Request((facts.case(),), Plan(seed=5))
LATER = "9999-01-01T00:00:00.000Z"


def file(tmp_path: Path, data: bytes) -> PlacedFile:
    path = tmp_path / f"{hashlib.sha256(data).hexdigest()[:8]}.onnx"
    path.write_bytes(data)
    return place(path, "model.onnx", "--model")


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 350])
def test_a_file_comes_back_as_it_was(opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(lab, "PART", 100)
    data = bytes(number % 251 for number in range(size))
    asked = file(tmp_path, data)
    assert lab.put(opened, asked) and lab.put(opened, asked)
    assert lab.get(opened, asked.sha256, tmp_path / "far" / "away")
    assert (tmp_path / "far" / "away").read_bytes() == data
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["away"]


def test_a_file_that_is_not_there_broken_or_too_large(
    opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = file(tmp_path, b"x" * 300)
    target = tmp_path / "target"
    assert not lab.get(opened, asked.sha256, target)
    monkeypatch.setattr(lab, "LARGEST", 299)
    assert not lab.put(opened, asked)
    monkeypatch.setattr(lab, "LARGEST", 300)
    asked.path.write_bytes(b"y" * 300)
    with pytest.raises(UsageError, match="has changed while it was read"):
        lab.put(opened, asked)
    asked.path.write_bytes(b"x" * 300)
    assert lab.put(opened, asked)
    with opened.database.writing() as connection:
        connection.execute(update(schema.blob).values(data=b"z" * 300))
    assert not lab.get(opened, asked.sha256, target)
    assert not target.exists() and not list(tmp_path.glob("*.partial"))


def test_files_are_forgotten_when_nobody_asks_for_them(opened: Store, tmp_path: Path) -> None:
    asked = file(tmp_path, b"x" * 300)
    lab.put(opened, asked)
    assert lab.forget(opened, "2020-01-01", False) == 0
    assert (lab.forget(opened, LATER, True), lab.forget(opened, LATER, False)) == (300, 300)
    assert not lab.get(opened, asked.sha256, tmp_path / "target")


def a_claim(owner: str = "ann@far (process 1)") -> lab.Claim:
    return lab.Claim("pixel8", "adb S1", "pixel", "lab-a", owner)


def test_a_device_is_claimed_once(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = a_claim(), replace(a_claim("bob@elsewhere (process 2)"), device="pixel", lab_host="lab-b")
    lab.claim(opened, [one])
    lab.claim(opened, [one])
    with pytest.raises(UsageError, match=r"pixel \(adb S1\) is served by lab-a already, as pixel8: ann@far"):
        lab.claim(opened, [replace(other, address="adb S0"), other])
    assert lab.claims(opened) == [one], "nothing of a claim that was refused stays"
    # A host that stood still for longer has lost it, and is told so.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + lab.CLAIM_S + 1)
    assert lab.claims(opened) == []
    lab.claim(opened, [other])
    with pytest.raises(UsageError, match="is served by lab-b already"):
        lab.claim(opened, [one])
    lab.unclaim(opened, one.owner)
    assert lab.claims(opened) == [other]
    lab.unclaim(opened, other.owner)
    assert lab.claims(opened) == []


def test_a_claim_of_a_process_of_this_machine_that_is_gone_is_free(opened: Store) -> None:
    who = lease.owner()
    gone = who.rpartition("(")[0] + "(process 999999999)"
    lab.claim(opened, [a_claim(gone)])
    assert lab.claims(opened) == []
    lab.claim(opened, [a_claim()])


def test_how_far_a_share_is(opened: Store) -> None:
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    share = lab.Share("any:box 1", "a1", "lab-a", 1, 7, 2, "round 1", ("one", "two"))
    lab.tell(opened, run_id, share)
    later = replace(share, attempt=2, device="b1", lab_host="lab-b", said=("new",), ended="died", code="timed_out")
    lab.tell(opened, run_id, later)
    lab.tell(opened, run_id, replace(share, name="other"))
    found = lab.told(opened, run_id)
    assert {name: replace(one, said=tuple(one.said)) for name, one in found.items()} == {
        "any:box 1": later,
        "other": replace(share, name="other"),
    }
    assert lab.told(opened, "none") == {}
    # From a host that stood still, and wakes up when somebody else has it.
    lab.tell(opened, run_id, replace(share, text="round 9"))
    assert lab.told(opened, run_id)["any:box 1"].text == later.text


def test_another_device_begins_anew(opened: Store) -> None:
    """Under the fence of whoever has the share now."""
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    held = lease.take(opened, "share x", "ann@far (process 1)")
    for key in ("one", "two"):
        opened.save_process(run_id, key, facts.process(0))
    lab.begin_anew(opened, run_id, ["one"], ("share x", held.epoch - 1))
    assert set(opened.processes(run_id)) == {"one", "two"}
    lab.begin_anew(opened, run_id, ["one"], ("share x", held.epoch))
    assert set(opened.processes(run_id)) == {"two"}


def test_what_was_spooled_of_a_share_that_another_device_has(
    opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are dropped; those of a device's own lease are true whoever has it by now."""
    monkeypatch.setattr(spool, "folder", lambda: tmp_path / "spool")
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    held = {name: lease.take(opened, name, "ann@far (process 1)") for name in ("share x", "pixel")}

    def away(*_: object) -> None:
        raise OperationalError("away", {}, Exception())

    with monkeypatch.context() as patched:
        patched.setattr(spool, "_insert", away)
        for key, name in (("one", "share x"), ("two", "pixel")):
            opened.save_process(run_id, key, facts.process(0), (name, held[name].epoch))
    assert spool.waiting(opened.database)
    with opened.database.writing() as connection:
        connection.execute(update(schema.lease).values(epoch=schema.lease.c.epoch + 1))
    spool.replay(opened.database)
    assert not spool.waiting(opened.database)
    assert set(opened.processes(run_id)) == {"two"}


def test_what_was_lost_gives_way_to_what_is_measured(opened: Store) -> None:
    """And nothing else does."""
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    lost = facts.reason("device_lost", "invalid", "the cable", "case")
    for id_, status, expected in (("a", "LOST", "a"), ("b", "LOST", "b"), ("c", "OK", "c"), ("d", "LOST", "c")):
        opened.save_result(run_id, "k", facts.result(id=id_, status=status, reasons=(lost,) if status != "OK" else ()))
        assert opened.results(run_id)["k"].id == expected
        opened.finish_run(run_id)
        if expected == "c":
            with pytest.raises(UsageError, match="no unfinished run"):
                opened.unfinished_run(REQUEST.digest, None)
        else:
            assert opened.unfinished_run(REQUEST.digest, None) == run_id
    with opened.database.reading() as connection:
        strays = text("SELECT count(*) FROM metric WHERE result_id NOT IN (SELECT id FROM result)")
        assert connection.execute(strays).scalar() == 0


def test_health_is_what_the_store_tells(opened: Store) -> None:
    """Results and checks; many cases of one run are one fault; what was reached and refused is none."""
    entry = DeviceEntry(transport="local", lab_host="lab-a")
    lost = facts.reason("device_lost", "invalid", "the cable", "case")
    for number in range(3):
        request = Request((facts.case(),), Plan(seed=number))
        run_id = opened.create_run(request, request_doc(request))
        for case in ("a", "b"):
            result = facts.result(id=f"{number}{case}", status="LOST", reasons=(lost,))
            opened.save_result(run_id, case, result)
        state = health.condition_of(opened, facts.result().device).state
        assert state == (QUARANTINED if number == 2 else SUSPECT)
    device = facts.result().device
    with pytest.raises(Quarantined, match=rf"{device}: is quarantined \(3 faults within 24 h, .*the cable"):
        health.admit(opened, device, entry)
    # At a desk somebody sees it.
    health.admit(opened, device, DeviceEntry(transport="local"))
    health.keep_check(opened, device, True, "passed")
    time.sleep(0.002)
    health.keep_check(opened, device, True, "passed")
    health.admit(opened, device, entry)
    assert health.condition_of(opened, device).state == GOOD
    assert health.condition_of(opened, "other").state == GOOD


def test_what_is_nobodys_fault(opened: Store) -> None:
    run_id = opened.create_run(REQUEST, request_doc(REQUEST))
    for number, (code, status) in enumerate(
        (("not_served", "SKIPPED"), ("quarantined", "SKIPPED"), ("device_busy", "SKIPPED"), ("load_failed", "FAILED"))
    ):
        reasons = (facts.reason(code, "invalid", "why", "case"),)
        result = facts.result(id=str(number), status=status, reasons=reasons, device_info=facts.result().device_info)
        opened.save_result(run_id, str(number), result)
    assert health.facts(opened, facts.result().device) == []
    with opened.database.writing() as connection:
        connection.execute(text("UPDATE result SET device_fingerprint = NULL"))
    assert health.facts(opened, facts.result().device) == []
