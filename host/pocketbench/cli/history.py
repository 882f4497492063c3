"""`bench history`: earlier results of the store."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pocketbench.cli.options import store_option
from pocketbench.documents import to_doc
from pocketbench.errors import UsageError, nearest
from pocketbench.models import printable
from pocketbench.plan import READERS
from pocketbench.report.columns import MISSING
from pocketbench.report.numbers import significant
from pocketbench.results import Result
from pocketbench.store.store import Store


@click.command()
@click.argument("device", required=False)
@click.argument("model", required=False)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Newest so many.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--debug", is_flag=True, hidden=True)
@store_option
def history(device: str | None, model: str | None, limit: int, form: str, store: str | None, debug: bool) -> None:
    """Earlier results, newest first: of all devices, of DEVICE, or of DEVICE and MODEL (its name, or its file)."""
    opened = Store(store)
    try:
        rows = _found(opened, device, model, limit)
    finally:
        opened.close()
    if form == "json":
        docs = [{"created": created, "run_id": run_id, **to_doc(result)} for created, run_id, result in rows]
        click.echo(json.dumps(docs, indent=1))
        return
    if not rows:
        click.echo("no results yet")
        return
    from tabulate import tabulate

    headings = ["when (UTC)", "run", "result", "device", "model", "runtime", "delegate", "threads", "p50", "status"]
    shown = [[created[:16].replace("T", " "), run_id, *_cells(result)] for created, run_id, result in rows]
    click.echo(tabulate(shown, headings, tablefmt="simple", disable_numparse=True))


def _found(opened: Store, device: str | None, model: str | None, limit: int) -> list[tuple[str, str, Result]]:
    """UsageError with the nearest name, where the store has something, and nothing of these."""
    rows = opened.history(device, model, limit)
    if model is not None and not rows and Path(model).suffix.lower() in READERS:
        model = Path(model).stem
        rows = opened.history(device, model, limit)
    measured = opened.measured() if device is not None and not rows else []
    if not measured:
        return rows
    devices = [name for name, _ in measured]
    if device not in devices:
        assert device is not None
        raise UsageError(f"the store has no results of the device {device!r}{nearest(device, devices)}")
    assert model is not None
    models = [name for of, name in measured if of == device]
    raise UsageError(f"the store has no results of the model {model!r} on {device}{nearest(model, models)}")


def _cells(result: Result) -> list[str]:
    p50 = result.metric("latency_p50")
    return [
        result.id,
        printable(result.device),
        printable(result.model.name),
        f"{result.runtime.name} {result.runtime.version or ''}".strip(),
        result.delegate.requested,
        str(result.threads),
        MISSING if p50 is None else f"{significant(p50)} ms",
        result.status,
    ]
