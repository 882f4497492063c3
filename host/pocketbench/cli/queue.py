"""`bench queue`: what waits in a lab, for which device, and for how long; which queues nobody serves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from pocketbench.cli.options import store_option

if TYPE_CHECKING:
    from pocketbench.farm.queue import Entry
    from pocketbench.store.lab import Claim, Share

NOBODY = "no worker"
NOTE = "no worker serves them: start 'bench worker' on the host that has the device"


@dataclass(frozen=True)
class Row:
    """A share that waits or runs; `since_s` is its age."""

    target: str
    state: str
    run_id: str
    cases: int
    since_s: float
    where: str
    doing: str


@click.command()
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@store_option
def queue(form: str, store: str | None) -> None:
    """Show what waits and what runs on the devices of a lab, oldest first, and which devices are served by whom."""
    from pocketbench.farm.queue import Queue, needs_postgresql
    from pocketbench.store import lab
    from pocketbench.store.store import Store

    opened = Store(store)
    try:
        needs_postgresql(opened)
        claims = lab.claims(opened)
        waiting = Queue(opened)
        try:
            entries = waiting.entries()
        finally:
            waiting.close()
        told = {run_id: lab.told(opened, run_id) for run_id in {entry.run_id for entry in entries}}
    finally:
        opened.close()
    rows = rows_of(entries, claims, told, time.time())
    click.echo(_as_json(rows, claims) if form == "json" else _as_table(rows, claims))


def rows_of(
    entries: Sequence[Entry], claims: Sequence[Claim], told: Mapping[str, Mapping[str, Share]], now_s: float
) -> list[Row]:
    """What is shown of each, in the order of the queue."""
    from pocketbench.farm.queue import RUNNING
    from pocketbench.farm.shares import queues, target_of

    hosts: dict[str, list[str]] = {}
    for claim in claims:
        for served in queues(claim.device, claim.kind):
            hosts.setdefault(served, []).append(claim.lab_host)
    made = []
    for entry in entries:
        share = told.get(entry.run_id, {}).get(entry.share)
        running = entry.state == RUNNING
        again = f", attempt {entry.attempt}" if entry.attempt > 1 else ""
        where = ", ".join(dict.fromkeys(hosts.get(entry.queue, [NOBODY])))
        doing = ""
        if running and share is not None:
            where, doing = f"{share.lab_host}: {share.device}", f"{share.text} ({share.at} of {share.steps})"
        state = ("runs" if running else "waits") + again
        since = max(0.0, now_s - entry.submitted_s)
        made.append(Row(target_of(entry.queue), state, entry.run_id, entry.cases, since, where, doing))
    return made


def _as_table(rows: Sequence[Row], claims: Sequence[Claim]) -> str:
    from tabulate import tabulate

    from pocketbench.fleet.progress import duration
    from pocketbench.models import printable

    cells = [
        [row.target, row.state, duration(row.since_s), row.cases, row.run_id, row.where, row.doing] for row in rows
    ]
    shown = [[printable(str(cell)) or "-" for cell in line] for line in cells]
    headings = ["for", "state", "asked ago", "cases", "run", "served by", "at"]
    lines = [tabulate(shown, headings, tablefmt="simple", disable_numparse=True)] if rows else ["nothing waits"]
    lonely = list(dict.fromkeys(row.target for row in rows if row.where == NOBODY))
    if lonely:
        lines += ["", printable(f"{', '.join(lonely)}: {NOTE}")]
    served: dict[str, list[str]] = {}
    for claim in claims:
        served.setdefault(claim.lab_host, []).append(claim.device)
    lines += ["", *(printable(f"{host} serves {', '.join(sorted(names))}") for host, names in sorted(served.items()))]
    if not served:
        lines.append("no worker runs")
    return "\n".join(lines)


def _as_json(rows: Sequence[Row], claims: Sequence[Claim]) -> str:
    return json.dumps(
        {"queue": [asdict(row) for row in rows], "workers": [asdict(claim) for claim in claims]}, indent=1
    )
