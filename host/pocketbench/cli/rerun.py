"""`bench rerun ID`: measure an earlier run, or one result of it, again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

import click

from pocketbench.cli.options import report_options, run_options, store_option
from pocketbench.cli.run import check_output, execute
from pocketbench.config import devices as config
from pocketbench.errors import UsageError, nearest
from pocketbench.fleet.fleet import Outcome
from pocketbench.plan import Case, Plan, Request
from pocketbench.request import case_of, content_of
from pocketbench.store.store import Store


@click.command()
@click.argument("ids", metavar="ID", nargs=-1, required=True)
@store_option
@report_options
@run_options
@click.pass_context
def rerun(ctx: click.Context, /, ids: tuple[str, ...], **options: Any) -> None:
    """Measure a run or a result again, as it was asked for then; several IDs are measured interleaved.

    The model files must still be where they were, with the same content.
    """
    code, _ = again(ids, options)
    ctx.exit(code)


def again(ids: Sequence[str], options: Mapping[str, Any], distinct: bool = False) -> tuple[int, Outcome]:
    """Run the cases of those runs and results as one request: the exit code, and what came of it.

    `distinct`: UsageError, before anything runs, where two of the ids are the same case.
    """
    check_output(options["output"])
    entries = config.with_kinds(config.load(config.find(options["devices_file"])))
    store = Store(options["store"])
    try:
        parts = [_cases(store, id_) for id_ in ids]
    finally:
        store.close()
    first = parts[0][0]
    for asked, _ in parts[1:]:
        if any(asked[name] != first[name] for name in ("inputs", "workload")):
            raise UsageError("these were measured on different inputs or workloads: rerun them one by one")
        if {**asked["plan"], "seed": 0} != {**first["plan"], "seed": 0}:
            raise UsageError(
                "these were measured under different plans (--processes, --min-time …): rerun them one by one"
            )
    cases = {case.key: case for _, chosen in parts for case in chosen}
    if distinct and len(cases) < len(ids):
        raise UsageError("A and B are the same case: measured again there is one result, and nothing to compare")
    for case in cases.values():
        if case.device not in entries:
            raise UsageError(f"device {case.device!r} is not in devices.yaml any more{nearest(case.device, entries)}")
    plan = Plan(**{**first["plan"], "seed": SystemRandom().randrange(2**31)})
    used = [Path(first[name]) if first[name] else None for name in ("inputs", "workload")]
    for path in used:
        if path is not None and not path.is_file():
            raise UsageError(f"{path}: was used then, and is not there any more")
    request = Request(
        tuple(cases.values()), plan, first["inputs"], first["workload"], content_of(used), first["labels"]
    )
    return execute(request, entries, options)


def _cases(store: Store, id_: str) -> tuple[Mapping[str, Any], list[Case]]:
    """What was asked, and the cases that the id names: all of a run, or the one of a result."""
    try:
        _, request = store.run_request(id_)
        return request, [case_of(doc) for doc in request["cases"]]
    except UsageError as not_a_run:
        try:
            run_id, key = store.find_case(id_)
        except UsageError as error:
            raise UsageError(f"{error}; and {not_a_run}") from error
    _, request = store.run_request(run_id)
    chosen = [case_of(doc) for doc in request["cases"] if doc.get("key") == key]
    if not chosen:
        raise UsageError(f"the run {run_id} does not say how {id_} was measured")
    return request, chosen
