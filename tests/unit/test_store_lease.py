"""The lease in the store: one holder, an epoch that only grows."""

from __future__ import annotations

import getpass
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pocketbench.errors import DeviceBusy, StoreError
from pocketbench.plan import Plan, Request
from pocketbench.store import engine, lease
from pocketbench.store.lease import Lease
from pocketbench.store.spool import Fence
from pocketbench.store.store import Store, request_doc
from tests.unit import facts

CONTENDER = """
import os, sys, time
from pocketbench.errors import DeviceBusy
from pocketbench.store import lease
from pocketbench.store.store import Store

opened = Store(sys.argv[1])
marker, mine, taken = sys.argv[2], lease.owner(), 0
end = time.monotonic() + 20
while taken < 5 and time.monotonic() < end:
    try:
        held = lease.take(opened, "pi5", mine)
    except DeviceBusy:
        time.sleep(0.002)
        continue
    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    time.sleep(0.003)
    os.unlink(marker)
    taken += 1
    print(held.epoch)
    lease.release(opened, held)
opened.close()
"""


def elsewhere(name: str) -> str:
    return f"{name}@another-host (process 12)"


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_take_renew_release(opened: Store) -> None:
    held = lease.take(opened, "pi5", elsewhere("ann"))
    assert held == Lease("pi5", elsewhere("ann"), 1)
    assert lease.renew(opened, held)
    lease.release(opened, held)
    assert not lease.renew(opened, Lease("pi5", elsewhere("bob"), 1))
    assert lease.take(opened, "pi5", elsewhere("bob")).epoch == 2


def test_busy_names_the_owner_and_until_when(opened: Store) -> None:
    lease.take(opened, "pi5", elsewhere("ann"))
    with pytest.raises(DeviceBusy) as caught:
        lease.take(opened, "pi5", elsewhere("bob"))
    assert re.search(r"^pi5: in use by ann@another-host \(process 12\) until \d\d:\d\d:\d\d", str(caught.value))
    assert lease.take(opened, "pixel8", elsewhere("bob")).epoch == 1


def test_a_lease_ends_by_itself(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL_S", -1)
    first = lease.take(opened, "pi5", elsewhere("ann"))
    second = lease.take(opened, "pi5", elsewhere("bob"))
    assert second.epoch == first.epoch + 1


def test_a_holder_that_lost_it_can_neither_renew_nor_release(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as expired:
        expired.setattr(lease, "TTL_S", -1)
        frozen = lease.take(opened, "pi5", elsewhere("ann"))
    lease.take(opened, "pi5", elsewhere("bob"))
    assert not lease.renew(opened, frozen)
    lease.release(opened, frozen)
    with pytest.raises(DeviceBusy, match="bob@"):
        lease.take(opened, "pi5", elsewhere("cy"))


def test_a_host_that_lost_it_stores_nothing(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen, overtaken, and awake again: neither a process nor a result of its own gets in; the other's do."""
    request = Request((facts.case(),), Plan(seed=5))
    run = opened.create_run(request, request_doc(request))
    process, result = facts.processes()[0], facts.result()
    with monkeypatch.context() as expired:
        expired.setattr(lease, "TTL_S", -1)
        frozen = lease.take(opened, "pi5", elsewhere("ann"))
    opened.save_process(run, "a", process, (frozen.device, frozen.epoch))
    other = lease.take(opened, "pi5", elsewhere("bob"))
    attempts: tuple[Callable[[Fence], None], ...] = (
        lambda fence: opened.save_process(run, "b", process, fence),
        lambda fence: opened.save_result(run, "b", result, fence),
    )
    for store_it in attempts:
        with pytest.raises(DeviceBusy, match="pi5: the lease ended while this host stood still"):
            store_it((frozen.device, frozen.epoch))
        with pytest.raises(DeviceBusy):
            store_it(("never leased", 1))
    assert set(opened.processes(run)) == {"a"} and not opened.results(run)
    opened.save_process(run, "b", process, (other.device, other.epoch))
    opened.save_result(run, "b", result, (other.device, other.epoch))
    assert set(opened.processes(run)) == {"a", "b"} and set(opened.results(run)) == {"b"}


def test_an_old_lease_of_the_same_owner_is_no_lease(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as expired:
        expired.setattr(lease, "TTL_S", -1)
        old = lease.take(opened, "pi5", elsewhere("ann"))
    new = lease.take(opened, "pi5", elsewhere("ann"))
    assert not lease.renew(opened, old)
    lease.release(opened, old)
    assert lease.renew(opened, new)
    with pytest.raises(DeviceBusy):
        lease.take(opened, "pi5", elsewhere("bob"))


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over(opened: Store) -> None:
    orphan = f"ann@{lease.here()} (process {dead_process()})"
    assert lease.take(opened, "pi5", orphan).epoch == 1
    assert lease.take(opened, "pi5", elsewhere("bob")).epoch == 2


def test_a_user_of_a_domain_is_an_orphan_too(opened: Store) -> None:
    lease.take(opened, "pi5", f"ann@corp.example@{lease.here()} (process {dead_process()})")
    assert lease.take(opened, "pi5", elsewhere("bob")).epoch == 2


def test_a_process_of_a_machine_of_the_same_name_is_not_asked_for_here() -> None:
    """Two boards of one image: whoever has that number here says nothing of it."""
    for other in (socket.gethostname(), f"{socket.gethostname()}#000000"):
        assert lease.here() == other or not lease.orphaned(f"ann@{other} (process {dead_process()})")
    assert lease.orphaned(f"ann@{lease.here()} (process {dead_process()})")


@pytest.mark.parametrize(
    "holder",
    [
        f"ann@{lease.here()} (process {os.getpid()})",
        f"ann@{lease.here()} (process 1)",
        f"ann@{lease.here()} (process x)",
        f"ann@{lease.here()} (process {2**70})",
        "somebody",
        "",
    ],
    ids=["this process", "the first process", "no number", "no process", "no place", "nobody"],
)
def test_whoever_may_still_live_keeps_it(opened: Store, holder: str) -> None:
    lease.take(opened, "pi5", holder)
    with pytest.raises(DeviceBusy):
        lease.take(opened, "pi5", elsewhere("bob"))


def test_the_owner_says_who_where_and_which_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lease.owner() == f"{getpass.getuser()}@{lease.here()} (process {os.getpid()})"


def test_epochs_outlive_the_store(url: str, opened: Store) -> None:
    lease.release(opened, lease.take(opened, "pi5", elsewhere("ann")))
    again = Store(url)
    assert lease.take(again, "pi5", elsewhere("bob")).epoch == 2
    again.close()


def test_a_locked_store_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 50)
    opened = Store(str(tmp_path / "results.db"))
    other = sqlite3.connect(tmp_path / "results.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match="database is locked"):
            lease.take(opened, "pi5", elsewhere("ann"))
    finally:
        other.close()
        opened.close()


def test_processes_that_contend_never_hold_it_together(opened: Store, url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTENDER, url, str(tmp_path / "marker")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    epochs: list[int] = []
    for process in running:
        output, _ = process.communicate(timeout=50)
        assert process.returncode == 0
        epochs += map(int, output.split())
    assert len(epochs) == 20
    assert sorted(epochs) == list(range(1, 21))


def test_many_lanes_write_at_once(opened: Store) -> None:
    """Each gets its turn: none waits until the database gives up on it."""

    def lane(number: int) -> int:
        held = lease.take(opened, f"d{number}", elsewhere("ann"))
        return sum(lease.renew(opened, held) for _ in range(20))

    with ThreadPoolExecutor(40) as lanes:
        assert list(lanes.map(lane, range(40))) == [20] * 40
