"""What the hosts of a lab tell each other through the store: files, who serves which device, how far a share is."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Select, delete, func, select, update

from pocketbench.documents import from_doc
from pocketbench.errors import UsageError
from pocketbench.models import PlacedFile
from pocketbench.store import schema
from pocketbench.store.lease import orphaned
from pocketbench.store.spool import Fence, stands
from pocketbench.store.store import Store, now

# A file's parts in the store, and the largest file that is sent through it.
PART = 8 * 2**20
LARGEST = 512 * 2**20
# A claim that nobody renewed for so long is nobody's; workers renew four times in that time.
CLAIM_S = 60.0


@dataclass(frozen=True)
class Claim:
    """A device that a worker serves."""

    device: str
    address: str
    kind: str | None
    lab_host: str
    owner: str


@dataclass(frozen=True)
class Share:
    """How far a share is: its steps, the one that it is at, what was said on the way; `ended` is how it ended.

    `attempt` counts from 1; what was said begins anew with each. `code` is the reason of cases that have no result.
    """

    name: str
    device: str
    lab_host: str
    attempt: int = 1
    steps: int = 0
    at: int = 0
    text: str = ""
    said: Sequence[str] = field(default_factory=tuple)
    ended: str = ""
    code: str = "device_lost"


def put(store: Store, file: PlacedFile) -> bool:
    """Have a file in the store; False where it is too large for that. UsageError where it has changed meanwhile."""
    if file.bytes > LARGEST:
        return False
    table, moment = schema.blob, now()
    with store.database.writing() as connection:
        known = connection.execute(
            update(table).where(table.c.sha256 == file.sha256).values(used_utc=moment).returning(table.c.part)
        ).first()
        if known is not None:
            return True
        digest, adding = hashlib.sha256(), store.database.insert(table).on_conflict_do_nothing()
        with file.path.open("rb") as opened:
            part = 0
            while (data := opened.read(PART)) or not part:
                digest.update(data)
                row = {"sha256": file.sha256, "part": part, "used_utc": moment, "data": data}
                connection.execute(adding, [row])
                part += 1
        if digest.hexdigest() != file.sha256:
            raise UsageError(f"{file.path}: has changed while it was read: measure it when it is finished")
    return True


def get(store: Store, sha256: str, target: Path) -> bool:
    """A file of the store as `target`, whole and checked, or False where the store does not have it."""
    table, part = schema.blob, 0
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file, store.database.reading() as connection:
            query = select(table.c.data).where(table.c.sha256 == sha256)
            while (data := connection.execute(query.where(table.c.part == part)).scalar()) is not None:
                digest.update(data)
                file.write(data)
                part += 1
        if digest.hexdigest() != sha256:
            return False
        partial.replace(target)
        return True
    finally:
        partial.unlink(missing_ok=True)


def forget(store: Store, before_utc: str, dry_run: bool) -> int:
    """Delete files that nobody asked for since then; their bytes."""
    table = schema.blob
    old = table.c.used_utc < before_utc
    with store.database.reading() if dry_run else store.database.writing() as connection:
        size = connection.execute(select(func.coalesce(func.sum(func.length(table.c.data)), 0)).where(old)).scalar_one()
        if not dry_run:
            connection.execute(delete(table).where(old))
    return int(size)


def claim(store: Store, claims: Sequence[Claim]) -> None:
    """Take or renew them. UsageError where another worker has one of them."""
    table, moment = schema.claim, time.time()
    with store.database.writing() as connection:
        for one in sorted(claims, key=lambda each: each.address):
            row = {**asdict(one), "seen_s": moment}
            connection.execute(store.database.insert(table).on_conflict_do_nothing(), [row])
            held = connection.execute(select(table).where(table.c.address == one.address).with_for_update()).one()
            if held.owner != one.owner and held.seen_s > moment - CLAIM_S and not orphaned(held.owner):
                raise UsageError(
                    f"{one.device} ({one.address}) is served by {held.lab_host} already, as {held.device}: "
                    f"{held.owner}: a device has one worker; take it out of devices.yaml, or end that worker"
                )
            connection.execute(update(table).where(table.c.address == one.address).values(**row))


def unclaim(store: Store, owner: str) -> None:
    """Give back what that worker serves."""
    with store.database.writing() as connection:
        connection.execute(delete(schema.claim).where(schema.claim.c.owner == owner))


def claims(store: Store) -> list[Claim]:
    """Those in force."""
    table = schema.claim
    with store.database.reading() as connection:
        rows = connection.execute(select(table).where(table.c.seen_s > time.time() - CLAIM_S)).all()
    found = [Claim(row.device, row.address, row.kind, row.lab_host, row.owner) for row in rows]
    return [one for one in found if not orphaned(one.owner)]


def tell(store: Store, run_id: str, share: Share) -> None:
    """How far a share is, instead of what was told of it before; what an earlier attempt still tells is nothing."""
    table = schema.share
    doc = {**asdict(share), "said": list(share.said)}
    row: dict[str, Any] = {name: doc.pop(name) for name in ("name", "device", "lab_host", "attempt")}
    adding = store.database.insert(table)
    fresh = {name: getattr(adding.excluded, name) for name in ("device", "lab_host", "attempt", "doc")}
    newer = table.c.attempt <= adding.excluded.attempt
    with store.database.writing() as connection:
        connection.execute(
            adding.on_conflict_do_update(index_elements=["run_id", "name"], set_=fresh, where=newer),
            [{"run_id": run_id, **row, "doc": doc}],
        )


def told(store: Store, run_id: str) -> dict[str, Share]:
    """All shares of a run of which something was told, by name."""
    table = schema.share
    with store.database.reading() as connection:
        rows = connection.execute(select(table).where(table.c.run_id == run_id)).all()
    fields = ("name", "device", "lab_host", "attempt")
    return {row.name: from_doc(Share, {**row.doc, **{name: getattr(row, name) for name in fields}}) for row in rows}


def have(store: Store, run_id: str, case_keys: Sequence[str]) -> set[str]:
    """Those of the cases that have a result."""
    with store.database.reading() as connection:
        return set(connection.execute(_have(run_id, case_keys)).scalars())


def _have(run_id: str, case_keys: Sequence[str]) -> Select[str]:
    table = schema.result
    return select(table.c.case_key).where(table.c.run_id == run_id, table.c.case_key.in_(case_keys))


def begin_anew(store: Store, run_id: str, case_keys: Sequence[str], fence: Fence | None = None) -> None:
    """Forget the processes of cases without a result that another device began, or another boot of it: two make no
    result together.
    """
    with store.database.writing() as connection:
        if fence is not None and not stands(connection, fence):
            return
        have = _have(run_id, case_keys).where(~schema.is_again(schema.result))
        open_ = set(case_keys) - set(connection.execute(have).scalars())
        for table in (schema.process, schema.sample):
            connection.execute(delete(table).where(table.c.run_id == run_id, table.c.case_key.in_(open_)))
