"""`bench compare A B`: is there a difference between two results?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from pocketbench.cli.options import report_options, run_options, store_option
from pocketbench.errors import UsageError
from pocketbench.figures import compare as comparing
from pocketbench.models import printable
from pocketbench.report.numbers import significant
from pocketbench.results import Result
from pocketbench.store.store import Store


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--rerun", is_flag=True, help="Measure both now, interleaved, and compare those.")
@store_option
@report_options
@run_options
@click.pass_context
def compare(ctx: click.Context, /, a: str, b: str, rerun: bool, **options: Any) -> None:
    """Compare the latency of results A and B (ids, or their beginnings; 'bench history' lists them).

    Results of one run are compared round by round. Results of different sessions get an interval that is
    widened by what sessions of that device differ by; --rerun measures both now, which is sharper.
    """
    if rerun:
        ctx.exit(_rerun(a, b, options))
    store = Store(options["store"])
    try:
        run_a, before = store.find_result(a)
        run_b, after = store.find_result(b)
        spread, known = store.session_spread(after)
    finally:
        store.close()
    for name, result in (("A", before), ("B", after)):
        click.echo(f"{name}: {_describe(result)}")
    found = comparing.compare(before, after, run_a == run_b, spread, known)
    if found is None:
        for name, result in (("A", before), ("B", after)):
            if result.latency_ms is not None and not result.process_medians_ns():
                raise UsageError(f"the samples of {name} were pruned from the store: --rerun measures both now")
        raise UsageError("there is nothing to compare: one of the two has no latency")
    click.echo(comparing.in_words(found))
    click.echo(_how(found))
    for name, result in (("A", before), ("B", after)):
        if result.status != "OK":
            codes = ", ".join(reason.code for reason in result.reasons if reason.severity != "note")
            click.echo(f"{name} is {result.status} ({codes}): its latency should not be ranked")


def _rerun(a: str, b: str, options: Mapping[str, Any]) -> int:
    """Measure both interleaved, report them, and say in words what came of it."""
    from pocketbench.cli.rerun import again

    code, outcome = again([a, b], options, distinct=True)
    if len(outcome.results) != 2:
        return code
    before, after = outcome.results
    found = comparing.compare(before, after, same_run=True, spread=0.0, spread_known=True)
    if found is not None:
        click.echo(f"{comparing.in_words(found)} ({_how(found)})", err=options["output"] is None)
    return code


def _describe(result: Result) -> str:
    p50 = result.metric("latency_p50")
    shown = "no latency" if p50 is None else f"{significant(p50)} ms"
    return printable(f"{result.id} {result.title} on {result.device}: {shown}, {result.status}")


def _how(found: comparing.Comparison) -> str:
    if found.paired:
        return "paired by the rounds of one run"
    if not found.spread:
        return "of one run, but not of the same rounds: unpaired"
    source = "of this device's own history" if found.spread_known else "assumed, for want of five sessions"
    return (
        f"of different sessions: the interval is widened by a between-session spread of {found.spread:.1%} ({source}); "
        "--rerun measures both interleaved now"
    )
