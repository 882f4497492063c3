"""What the store knows of a device's health: faults by its results, and the health checks that were made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from pocketbench.config.devices import DeviceEntry
from pocketbench.devices.condition import FAULT, PASSED, QUARANTINED, Condition, Fact, condition
from pocketbench.errors import Quarantined
from pocketbench.store import schema
from pocketbench.store.store import Store, now, stamp

# A quarantine lasts until health checks are passed; what is older than this is forgotten all the same.
REMEMBERED = timedelta(days=30)


def keep_check(store: Store, device: str, passed: bool, text: str) -> None:
    """A health check that was made."""
    row = {"device": device, "created_utc": now(), "passed": int(passed), "text": text}
    with store.database.writing() as connection:
        connection.execute(store.database.insert(schema.checkup).on_conflict_do_nothing(), [row])


def condition_of(store: Store, device: str) -> Condition:
    """Of a device now."""
    return condition(facts(store, device), datetime.now(UTC))


def admit(store: Store, device: str, entry: DeviceEntry) -> None:
    """Quarantined where a device of a lab is; on a desk somebody sees what is wrong with it."""
    if entry.lab_host is None:
        return
    found = condition_of(store, device)
    if found.state == QUARANTINED:
        raise Quarantined(
            f"{device}: is quarantined ({found.why}): 'bench devices check {device}' twice, once it is well"
        )


def facts(store: Store, device: str) -> list[Fact]:
    """One fault a run, however many of its cases it ended; a check that failed is one, too."""
    result, checkup, begin = schema.result, schema.checkup, stamp(datetime.now(UTC) - REMEMBERED)
    query = (
        select(result.c.run_id, result.c.created_utc, result.c.status, result.c.doc)
        .where(result.c.device == device, result.c.created_utc >= begin)
        # Skipped and never reached: whatever was reached has told what it is.
        .where(schema.is_again(result))
        .order_by(result.c.created_utc)
    )
    checks = select(checkup).where(checkup.c.device == device, checkup.c.created_utc >= begin)
    with store.database.reading() as connection:
        rows, made = connection.execute(query).all(), connection.execute(checks).all()
    faults: dict[str, Fact] = {}
    for row in rows:
        told = {reason["code"]: reason["message"] for reason in row.doc["reasons"]}
        text = told.get("device_lost") or told.get("not_available")
        if text is not None:
            faults.setdefault(row.run_id, Fact(datetime.fromisoformat(row.created_utc), FAULT, text))
    return [
        *faults.values(),
        *(Fact(datetime.fromisoformat(r.created_utc), PASSED if r.passed else FAULT, r.text) for r in made),
    ]
