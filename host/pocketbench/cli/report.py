"""`bench report`: the pages of a night that is over."""

from __future__ import annotations

from typing import Any

import click

from pocketbench.cli.options import store_option
from pocketbench.cli.run import check_output
from pocketbench.cli.suite import page_options, publish
from pocketbench.errors import UsageError, nearest
from pocketbench.nightly import page
from pocketbench.nightly.night import Night
from pocketbench.store import nights
from pocketbench.store.store import Store


@click.command()
@click.argument("suite")
@click.option("--night", "label", metavar="LABEL", help="Which; default the newest.")
@page_options
@store_option
@click.option("--debug", is_flag=True, hidden=True)
def report(suite: str, label: str | None, store: str | None, debug: bool, **options: Any) -> None:
    """Report a night of SUITE again, as it was then."""
    for name in ("output", "html", "junit"):
        check_output(options[name])
    opened = Store(store)
    try:
        night = load(opened, suite, label)
    finally:
        opened.close()
    publish(night, options)


def load(store: Store, suite: str, label: str | None) -> Night:
    """A night from the store, with the nights before it. UsageError: none of that name."""
    rows = nights.nights(store, suite, 1000)
    labels = [row.label for row in rows]
    if not rows:
        known = nights.suites(store)
        raise UsageError(
            f"the store has no night of {suite!r}{nearest(suite, known)}; known: {', '.join(known) or 'none'}"
        )
    if label is not None and label not in labels:
        raise UsageError(f"{suite} has no night {label!r}{nearest(label, labels)}")
    place = labels.index(label) if label else 0
    doc = rows[place].state["page"]
    before = labels[place + 1 : place + 1 + nights.NIGHTS][::-1]
    past = nights.earlier(store, suite, sorted({one["key"] for one in doc["series"]}), before)
    return page.restored(doc, past)
