"""`bench baseline`: what nights are held against, and the alarms that a person has looked at."""

from __future__ import annotations

from collections.abc import Sequence
from getpass import getuser
from typing import Any

import click

from pocketbench.cli.options import store_option
from pocketbench.errors import UsageError, nearest
from pocketbench.models import printable
from pocketbench.night import Alarm
from pocketbench.nightly import alarms as alarming
from pocketbench.nightly import kept, page
from pocketbench.nightly.run import BY_ITSELF
from pocketbench.report.columns import MISSING
from pocketbench.report.night_text import percent
from pocketbench.report.numbers import significant
from pocketbench.series import series_key
from pocketbench.store import nights
from pocketbench.store.series import Standing, standings
from pocketbench.store.store import Store

ALL = "all"


@click.group()
def baseline() -> None:
    """What nights are held against: show, pin and accept; and acknowledge an alarm."""


@baseline.command()
@click.argument("suite")
@store_option
@click.option("--debug", is_flag=True, hidden=True)
def show(suite: str, store: str | None, debug: bool) -> None:
    """The newest result of each series of SUITE beside its baseline, and the alarms."""
    from tabulate import tabulate

    opened = _opened(store, suite)
    try:
        pinned = nights.baselines(opened, suite)
        rows = [_row(one, pinned.get(one.series)) for one in standings(opened, suite, ("latency_p50",))]
        found = nights.alarms(opened, suite)
    finally:
        opened.close()
    headings = ["series", "device", "case", "p50 ms", "baseline", "change", "newest", "baseline by", "why"]
    click.echo(tabulate(_shown(rows), headings, tablefmt="simple", disable_numparse=True) if rows else "no nights yet")
    live = [alarm for alarm in found if alarm.state in alarming.LIVE]
    if live:
        told = [
            [a.id, a.color, a.state + (f" by {a.by}" if a.by else ""), a.device, a.title, a.metric, a.opened]
            for a in live
        ]
        headings = ["alarm", "color", "state", "device", "case", "metric", "since"]
        click.echo("\n" + tabulate(_shown(told), headings, tablefmt="simple", disable_numparse=True))


@baseline.command()
@click.argument("suite")
@click.argument("results", metavar="RESULT", nargs=-1, required=True)
@click.option("--reason", default="pinned by hand", show_default=True, help="Kept with it.")
@store_option
@click.option("--debug", is_flag=True, hidden=True)
def pin(suite: str, results: Sequence[str], reason: str, store: str | None, debug: bool) -> None:
    """Hold nights of SUITE against RESULT from now on (ids, or their beginnings; 'bench history' lists them)."""
    opened = _opened(store, suite)
    try:
        for prefix in results:
            _, result = opened.find_result(prefix)
            if result.status != "OK":
                raise UsageError(f"{result.id} is {result.status}: a baseline has to be trusted")
            _pin(opened, suite, nights.result(opened, result.id), reason)
    finally:
        opened.close()


@baseline.command()
@click.argument("suite")
@click.argument("ids", metavar="ID", nargs=-1, required=True)
@click.option("--reason", default="accepted", show_default=True, help="Kept with it.")
@store_option
@click.option("--debug", is_flag=True, hidden=True)
def accept(suite: str, ids: Sequence[str], reason: str, store: str | None, debug: bool) -> None:
    """What is now is right: alarms or series by ID (or 'all' alarms); their newest night is the baseline.

    All alarms of a series are accepted with it. Of a whole device (a new OS) the baselines stay as they are.
    """
    opened = _opened(store, suite)
    try:
        labels = [row.label for row in nights.nights(opened, suite, 1000)]
        pinned = nights.baselines(opened, suite)
        chosen = _chosen(opened, suite, ids, list(pinned))
        series = {alarm.series if alarm is not None else key for alarm, key in chosen} - {None}
        for one in sorted(filter(None, series)):
            found = nights.newest(opened, [one], [nights.night_id(suite, label) for label in labels]).get(one)
            if found is None:
                raise UsageError(f"series {one} has no trusted night to accept")
            _pin(opened, suite, found, reason)
        named = {alarm.id for alarm, _ in chosen if alarm is not None}
        for alarm in nights.alarms(opened, suite):
            if alarm.state in alarming.LIVE and (alarm.id in named or alarm.series in series):
                nights.save_alarms(opened, [alarming.accepted(alarm, labels[0], _who())])
                click.echo(f"accepted: {printable(alarm.title)}, {alarm.metric}")
    finally:
        opened.close()


@baseline.command()
@click.argument("suite")
@click.argument("ids", metavar="ALARM", nargs=-1, required=True)
@store_option
@click.option("--debug", is_flag=True, hidden=True)
def acknowledge(suite: str, ids: Sequence[str], store: str | None, debug: bool) -> None:
    """Somebody looks into these alarms (or 'all'): they are shown, and turn no night red any more."""
    opened = _opened(store, suite)
    try:
        for alarm, _ in _chosen(opened, suite, ids, ()):
            assert alarm is not None
            nights.save_alarms(opened, [alarming.acknowledged(alarm, _who())])
            click.echo(f"acknowledged: {printable(alarm.title)}, {alarm.metric}")
    finally:
        opened.close()


def _opened(url: str | None, suite: str) -> Store:
    store = Store(url)
    known = nights.suites(store)
    if suite not in known:
        store.close()
        raise UsageError(
            f"the store has no nights of {suite!r}{nearest(suite, known)}; known: {', '.join(known) or 'none'}"
        )
    return store


def _chosen(store: Store, suite: str, ids: Sequence[str], series: Sequence[str]) -> list[tuple[Alarm | None, str]]:
    """Live alarms, and series, by their ids or the beginnings of them; each once."""
    live = [alarm for alarm in nights.alarms(store, suite) if alarm.state in alarming.LIVE]
    if list(ids) == [ALL]:
        return [(alarm, "") for alarm in live]
    chosen: list[tuple[Alarm | None, str]] = []
    for prefix in ids:
        found: list[tuple[Alarm | None, str]] = [(alarm, "") for alarm in live if alarm.id.startswith(prefix)]
        found += [(None, key) for key in series if key.startswith(prefix)]
        if len(found) != 1:
            told = "fits several" if found else "is no live alarm" + (" and no series" if series else "")
            raise UsageError(f"{prefix!r} {told} of {suite}; 'bench baseline show {suite}' lists them")
        chosen += found
    return chosen


def _pin(store: Store, suite: str, stored: nights.Stored, reason: str) -> None:
    """The files are kept by the host that measured them: they are those of the run."""
    from pocketbench.request import case_of

    _, asked = store.run_request(stored.run_id)
    doc = next((one for one in asked["cases"] if one.get("key") == stored.case_key), None)
    title = page.title(stored.result)
    try:
        if doc is None:
            raise UsageError("the store does not say how it was measured")
        kept.keep(case_of(doc), stored.result.environment.get("agent_build"))
    except (UsageError, OSError) as error:
        click.echo(f"{title}: its files could not be kept here, so that it cannot be paired later: {error}", err=True)
    nights.pin(store, suite, series_key(stored.result), stored.result.id, _who(), reason)
    click.echo(f"pinned: {title} on {printable(stored.result.device)}, {stored.result.id}")


def _row(one: Standing, pinned: nights.Pinned | None) -> list[str]:
    case = f"{one.model_name} {one.runtime} {one.delegate} x{one.threads}"
    p50 = one.metrics.get("latency_p50")
    value, before = (p50.value, p50.baseline) if p50 is not None else (None, None)
    numbers = [MISSING if number is None else significant(number) for number in (value, before)]
    change = percent(value / before - 1 if value is not None and before else None)
    status = "" if one.status == "OK" else f" {one.status}"
    who = MISSING if pinned is None else "itself" if pinned.by == BY_ITSELF else pinned.by
    newest = f"{one.night.partition('/')[2]}{status}"
    return [one.series, one.device, case, *numbers, change, newest, who, pinned.reason if pinned else MISSING]


def _shown(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[printable(cell) for cell in row] for row in rows]


def _who() -> str:
    try:
        return getuser()
    except (KeyError, OSError):
        return "unknown"


__all__: Sequence[Any] = ["baseline"]
