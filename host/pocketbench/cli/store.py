"""`bench store`: what a results store needs now and then."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

from pocketbench.cli.options import store_option
from pocketbench.errors import UsageError
from pocketbench.store import lab
from pocketbench.store import prune as pruning
from pocketbench.store.store import Store, stamp

OLDEST_DAYS = 36_500


@click.group()
def store() -> None:
    """Keep the results store small."""


@store.command()
@click.option("--older-than", required=True, metavar="DAYSd", help="Of runs that began so long ago, such as 90d.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--debug", is_flag=True, hidden=True)
@store_option
def prune(older_than: str, dry_run: bool, store: str | None, debug: bool) -> None:
    """Delete raw samples of old runs; results, statistics and processes stay.

    Kept are the samples of baselines, of the newest results of each series, and of runs that can be resumed.
    """
    before = stamp(datetime.now(UTC) - timedelta(days=_days(older_than)))
    opened = Store(store)
    try:
        found = pruning.prune(opened, before, dry_run)
        sent = lab.forget(opened, before, dry_run)
    finally:
        opened.close()
    if sent:
        gone = "would be deleted" if dry_run else "deleted"
        click.echo(f"files that a lab's hosts were sent and nobody asked for since: {sent / 1e6:.1f} MB {gone}")
    if not found.rows:
        click.echo(f"no samples of runs before {before[:10]} that may be deleted")
        return
    verb = "would delete" if dry_run else "deleted"
    click.echo(
        f"{verb} the samples of {found.results} results of runs before {before[:10]}: "
        f"{found.rows} rows, {found.sample_bytes / 1e6:.1f} MB"
    )
    if found.file_bytes is not None:
        click.echo(f"the file is {found.file_bytes / 1e6:.1f} MB smaller")
    elif found.kept_large:
        click.echo(f"the file keeps its size for now ({found.kept_large}): later results use the room", err=True)


def _days(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})d", text, re.ASCII)
    if match is None or int(match[1]) > OLDEST_DAYS:
        raise UsageError(f"--older-than {text}: give days, such as 90d")
    return int(match[1])
