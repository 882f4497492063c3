"""Options that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def store_option(command: Command) -> Command:
    """--store."""
    return click.option("--store", metavar="PATH|URL", help="Results store; default in the user's data folder.")(
        command
    )


def report_options(command: Command) -> Command:
    """--format and --output."""
    forms = click.Choice(["table", "markdown", "csv", "json"])
    command = click.option("--format", "form", type=forms, default="table", show_default=True)(command)
    return click.option("--output", type=click.Path(path_type=Path), help="Write there instead of stdout.")(command)


def run_options(command: Command) -> Command:
    """What a command that measures again needs."""
    path = click.Path(path_type=Path)
    command = click.option("--devices", "devices_file", type=path, help="devices.yaml.")(command)
    return click.option("--debug", is_flag=True, help="Tracebacks instead of one-line errors.")(command)


def refuse_before_subcommand(ctx: click.Context, options: Iterable[str]) -> None:
    """UsageError where an option was given before a subcommand, which would ignore it."""
    given = [name for name in options if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given:
        flags = {p.name: p.opts[0] for p in ctx.command.params}
        shown = ", ".join(sorted(flags[name] for name in given))
        raise click.UsageError(f"{shown} before '{ctx.invoked_subcommand}' would be ignored: put it after", ctx)
