"""`bench suite`: what a file names, run once or night by night."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pocketbench import report
from pocketbench.cli.options import run_options, store_option
from pocketbench.cli.run import check_output, exit_code, write
from pocketbench.config import devices as config
from pocketbench.config import suite as suites
from pocketbench.errors import UsageError
from pocketbench.fleet import fleet, progress
from pocketbench.night import Night
from pocketbench.nightly.notify import tell
from pocketbench.nightly.parts import Clock
from pocketbench.nightly.run import Interrupted, Nightly
from pocketbench.results import Result, with_samples
from pocketbench.store import nights
from pocketbench.store.store import Store

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,39}")
Options = dict[str, Any]


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a night's reports go."""
    path = click.Path(path_type=Path)
    forms = click.Choice(["table", "markdown", "csv", "json"])
    command = click.option("--html", type=path, help="Also write one page that needs nothing else.")(command)
    command = click.option("--junit", type=path, help="Also write JUnit XML.")(command)
    command = click.option("--format", "form", type=forms, default="table", show_default=True)(command)
    return click.option("--output", type=path, help="Write there instead of stdout.")(command)


@click.group()
def suite() -> None:
    """Measure what a suite.yaml names: once, or night by night with a verdict on what changed."""


@suite.command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on where the last run of this suite was cut.")
@click.option("--format", "form", type=click.Choice(["table", "markdown", "csv", "json"]), default="table")
@click.option("--output", type=click.Path(path_type=Path), help="Write there instead of stdout.")
@store_option
@run_options
@click.pass_context
def run_(ctx: click.Context, /, file: Path, resume: bool, **options: Any) -> None:
    """Run a suite once, and print its table."""
    check_output(options["output"], [file])
    found, store = _opened(file, options)
    try:
        label = nights.unfinished_run(store, found.suite) if resume else None
        if resume and label is None:
            raise UsageError(f"--resume: no run of {found.suite} was cut")
        label = label or datetime.now(UTC).strftime(f"{nights.RUN}%Y%m%dT%H%M%S")
        with progress.create() as shown:
            nightly = _nightly(found, label, store, shown, options)
            nightly.prepare()
            try:
                nightly.measure()
                stopped = False
            except Interrupted:
                stopped = True
        measured = {stored.series: stored for stored in nightly.tonight()}
        results = [_with_samples(store, stored) for stored in measured.values()]
        if not stopped:
            nights.finish(store, found.suite, label, {}, ())
    finally:
        store.close()
    shown_as = report.FORMATS[options["form"]]
    write(shown_as(report.Report(label, results, {}, nightly.remarks)), options["output"])
    if stopped:
        click.echo(f"interrupted: {len(results)} of {nightly.cases} cases are complete; --resume goes on", err=True)
        ctx.exit(fleet.INTERRUPTED)
    code = exit_code([r for r in results if not nightly.optional(r)], False, ())
    ctx.exit(code or (3 if len(results) < nightly.cases else 0))


@suite.command("nightly")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--night", "label", metavar="LABEL", help="What to call it; default today's date.")
@click.option("--resume", is_flag=True, help="Go on with a night that was cut.")
@page_options
@store_option
@run_options
@click.pass_context
def nightly(ctx: click.Context, /, file: Path, label: str | None, resume: bool, **options: Any) -> None:
    """Run a suite, hold it against the nights before, confirm what is suspected, and report.

    Exit code 1 where a regression is confirmed and nobody has acknowledged it.
    """
    for name in ("output", "html", "junit"):
        check_output(options[name], [file])
    found, store = _opened(file, options)
    try:
        label = _label(store, found.suite, label, resume)
        with progress.create() as shown:
            one = _nightly(found, label, store, shown, options)
            try:
                night = one.run()
            except Interrupted:
                again = f"--night {label} --resume"
                click.echo(f"interrupted: the same command with {again} goes on", err=True)
                ctx.exit(fleet.INTERRUPTED)
    finally:
        store.close()
    publish(night, options)
    for why in tell(night, found.notify):
        click.echo(why, err=True)
    ctx.exit(night.exit_code)


def publish(night: Night, options: Options) -> None:
    """The reports that were asked for."""
    from pocketbench.report import night_text
    from pocketbench.report.junit import as_junit

    if options["html"]:
        from pocketbench.report.night_html import as_html

        write(as_html(night), options["html"])
    if options["junit"]:
        write(as_junit(night), options["junit"])
    write(night_text.FORMATS[options["form"]](night), options["output"])


def _with_samples(store: Store, stored: nights.Stored) -> Result:
    measured = store.processes(stored.run_id).get(stored.case_key, {})
    return with_samples(stored.result, measured)


def _opened(file: Path, options: Options) -> tuple[suites.SuiteFile, Store]:
    found = suites.load(file)
    return found, Store(options["store"] or found.store)


def _nightly(found: suites.SuiteFile, label: str, store: Store, shown: progress.Progress, options: Options) -> Nightly:
    entries = config.with_kinds(config.load(config.find(options["devices_file"])))
    clock = Clock(time.monotonic(), found.budget)
    return Nightly(found, label, entries, store, shown, clock, bool(options["debug"]))


def _label(store: Store, suite_name: str, label: str | None, resume: bool) -> str:
    """A night is measured once; one that was cut is gone on with."""
    label = label or datetime.now().strftime("%Y-%m-%d")
    if not LABEL.fullmatch(label) or label.startswith(nights.RUN):
        raise UsageError(f"--night {label}: a name of letters, digits, ':', '.', '_' and '-', at most 40")
    known = {row.label: row for row in nights.nights(store, suite_name, 1000, finished=False)}
    if label in known and known[label].finished_utc is not None:
        raise UsageError(f"the night {label} of {suite_name} is over; --night gives another name")
    if label in known and not resume:
        raise UsageError(f"the night {label} of {suite_name} was cut: --resume goes on with it")
    if resume and label not in known:
        raise UsageError(f"--resume: {suite_name} has no night {label}")
    return label
