"""`bench export`: the store's results as a file for other tools."""

from __future__ import annotations

import csv
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pocketbench.cli.options import store_option
from pocketbench.errors import UsageError
from pocketbench.store.export import COLUMNS, Row, chunks
from pocketbench.store.store import Store

Write = Callable[[list[Row]], None]
IN_A_FOLDER = "results.parquet"


@click.command()
@click.option("--csv", "as_csv", type=click.Path(path_type=Path), metavar="FILE", help="Write a CSV file.")
@click.option(
    "--parquet",
    "as_parquet",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help=f"Write a Parquet file; in a folder, {IN_A_FOLDER}.",
)
@click.option("--debug", is_flag=True, hidden=True)
@store_option
def export(as_csv: Path | None, as_parquet: Path | None, store: str | None, debug: bool) -> None:
    """Write every result of the store to a file: one row a result and metric."""
    if (as_csv is None) == (as_parquet is None):
        raise UsageError("give --csv FILE or --parquet FILE, one of them")
    opened = Store(store)
    try:
        if as_csv is not None:
            path, rows = as_csv, _export(opened, as_csv, _csv)
        else:
            assert as_parquet is not None
            path = as_parquet / IN_A_FOLDER if as_parquet.is_dir() else as_parquet
            rows = _export(opened, path, _parquet)
    finally:
        opened.close()
    click.echo(f"{rows} rows in {path}")


def _export(opened: Store, path: Path, kind: Callable[[Path], Any]) -> int:
    """Whole or not at all: what was there stays until the new file is complete."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    rows = 0
    try:
        with kind(partial) as write:
            for some in chunks(opened):
                write(some)
                rows += len(some)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return rows


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        yield writer.writerows


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise UsageError("--parquet needs pyarrow: pip install 'pocketbench[export]'") from error
    kinds = {str: arrow.string(), int: arrow.int32(), float: arrow.float64(), bool: arrow.bool_()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(arrow.Table.from_pylist(rows, schema))
