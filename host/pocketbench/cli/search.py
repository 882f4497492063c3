"""`bench --search`: recipes tried in waves within a time, then the best of them measured together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from pocketbench import request as asking
from pocketbench.cli.run import execute, measured
from pocketbench.compress.search import Search, is_costly
from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import UsageError
from pocketbench.figures.accuracy import Scored
from pocketbench.figures.goal import Term
from pocketbench.fleet import fleet
from pocketbench.fleet.progress import duration
from pocketbench.plan import ORIGINAL, Plan
from pocketbench.workload import load

# Enough to tell what is hopeless; who wins is measured afterwards.
LOOK_PROCESSES, LOOK_S = 2, 1.0


def run(
    options: Mapping[str, Any],
    entries: Mapping[str, DeviceEntry],
    plan: Plan,
    fail_on: Sequence[str],
    terms: Sequence[Term],
) -> int:
    """Search, then measure what is worth it as any run; the exit code."""
    if options["recipes"] or options["resume"] is not None:
        other = "--recipe" if options["recipes"] else "--resume"
        raise UsageError(f"--search chooses the recipes, and takes from the cache what was made: leave {other} out")
    if options["workload"] is None:
        raise UsageError("--search needs --workload FILE: a Python file with model() and score()")
    module = load(options["workload"]).module
    search = Search([name for name, one in vars(module).items() if callable(one)], terms)
    begun, budget_s = time.monotonic(), 60 * options["search"]
    look = replace(
        plan,
        processes=min(plan.processes, LOOK_PROCESSES),
        max_time_s=min(plan.max_time_s, LOOK_S),
        min_time_s=min(plan.min_time_s, LOOK_S),
        energy_s=None,
        profile=False,
    )
    # Of a model the score is the same in every wave, and may take longer than all else: it is asked for once. Times are
    # ratios to an original that was measured in turns with its variants, in the heat and clock that they had: that one
    # is measured anew in every wave, which takes a look.
    scored: dict[tuple[object, ...], Scored] = {}
    # Of a recipe, by whether a network has to be made for it: the longest so far.
    took_s: dict[bool, float] = {}
    made = None
    while wave := search.wave():
        left_s, costly = budget_s - (time.monotonic() - begun), is_costly(wave[0])
        able = wave[: int(max(0.0, left_s) / took_s[costly])] if costly in took_s else wave if left_s > 0 else ()
        search.give_up(wave[len(able) :], "there was no time left for it")
        if not able:
            continue
        since = time.monotonic()
        click.echo(f"search: {', '.join(able)} ({duration(max(0.0, left_s))} left)", err=True)
        asked = {**options, "recipes": able, "models": (), "resume": None}
        request, made = asking.make(asked, entries, look, made)
        _, outcome = measured(request, entries, asked, made, scored)
        if outcome.interrupted:
            click.echo("interrupted: the same command takes what was made from the cache", err=True)
            return fleet.INTERRUPTED
        scored |= outcome.scored
        search.learn(able, outcome.results, outcome.originals, made.failed if made else {})
        took_s[costly] = max(took_s.get(costly, 0.0), (time.monotonic() - since) / len(able))
    best = search.best()
    request, made = asking.make({**options, "recipes": best or (ORIGINAL,)}, entries, plan, made)
    said = [
        f"search: of {len(search.rows)} recipes that were tried, nothing beats {', '.join(best) or ORIGINAL}",
        *(f"search: {recipe}: {why}" for recipe, why in search.dropped.items()),
    ]
    code, _ = execute(request, entries, options, fail_on, made, terms, said, scored)
    return code
