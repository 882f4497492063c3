"""`bench devices`: which devices there are and how they are; add one, check one, a command there, the agent's log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketbench.cli.options import refuse_before_subcommand, run_options, store_option
from pocketbench.errors import DeviceError, NotReachable, StoreError, UsageError

if TYPE_CHECKING:
    from pocketbench.config.devices import DeviceEntry
    from pocketbench.devices.condition import Condition
    from pocketbench.devices.roster import Row

COMMAND_S = 600.0
LOG_S = 30.0
NO_LOG = 44
# A full log becomes agent.log.1.
LOG = """
f="$h/agent.log"; echo "$f"; [ -f "$f" ] || exit {no_log}
: <"$f" || exit 1
[ -f "$f.1" ] && set -- "$f.1"
cat "$@" "$f" | tail -n {lines}
"""
MISSING = "-"
WRITTEN = ("transport", "serial", "address", "host", "port", "user", "host_key")


@click.group(invoke_without_command=True)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@store_option
@run_options
@click.pass_context
def devices(ctx: click.Context, /, **options: Any) -> None:
    """List every device with its state, and what to do where one is not ready.

    Nothing is installed or started on the devices. The exit code is 0 whatever their states.
    """
    if ctx.invoked_subcommand is not None:
        refuse_before_subcommand(ctx, options)
        return
    from pocketbench.config import devices as config
    from pocketbench.devices import roster

    entries = config.load(config.find(options["devices_file"]))
    held, conditions = _known(entries, options["store"])
    rows = roster.look(entries, held)
    click.echo(_as_json(rows, conditions) if options["form"] == "json" else _as_table(rows, conditions))


@devices.command(short_help="Add devices to devices.yaml.")
@click.argument("what", nargs=-1)
@click.option("--name", help="What to call it; default from its model.")
@click.option("--accept-host-key", is_flag=True, help="Accept and pin a host key that is unknown so far.")
@run_options
def add(what: tuple[str, ...], name: str | None, accept_host_key: bool, devices_file: Path | None, debug: bool) -> None:
    """Add devices to devices.yaml: USER@HOST or an alias (SSH), SERIAL or HOST:PORT (ADB).

    Without WHAT: the phones that the running adb server sees.
    """
    from pocketbench.config import devices as config
    from pocketbench.config import edit
    from pocketbench.devices import discover

    path = edit.target(devices_file)
    known = config.load(path if path.exists() else None)
    if name is not None:
        edit.check_name(name, known)
    found = [discover.from_text(text) for text in dict.fromkeys(what)] if what else _choose(known)
    if name is not None and len(found) > 1:
        raise UsageError(f"--name {name}: is for one device, and {len(found)} are to be added")
    for entry in found:
        known = config.load(path if path.exists() else None)
        _add(entry, name, path, accept_host_key, known)


@devices.command(short_help="Check devices in depth.")
@click.argument("names", metavar="NAME", nargs=-1, required=True)
@click.option("--delegates", is_flag=True, help="Try every delegate too, each with a tiny model; the list shows them.")
@store_option
@run_options
@click.pass_context
def check(ctx: click.Context, /, names: tuple[str, ...], delegates: bool, **options: Any) -> None:
    """Check devices in depth: the agent is put there, and models of known behaviour are run.

    Exit code 0 where nothing failed (warnings do not count), else 3.
    """
    from pocketbench.config import devices as config
    from pocketbench.devices import health
    from pocketbench.models import printable
    from pocketbench.store.store import Store

    entries = config.load(config.find(options["devices_file"]))
    failed = False
    store = Store(options["store"])
    try:
        for name in config.select(names, entries):
            wrong = []
            for finding in health.check(name, entries[name], store, partial(click.echo, err=True), delegates):
                if finding.verdict == "failed":
                    wrong.append(finding)
                text = printable(f"{name}: {finding.verdict:7}  {finding.check:9}  {finding.text}")
                click.echo(text)
            failed = failed or bool(wrong)
            health.keep(name, wrong, store)
    finally:
        store.close()
    ctx.exit(3 if failed else 0)


@devices.command(
    short_help="Run a command on a device.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@run_options
@click.pass_context
def shell(ctx: click.Context, /, name: str, command: tuple[str, ...], **options: Any) -> None:
    """Run COMMAND on a device: one word is a line for its shell, several are a program and its arguments.

    The exit code is the command's. Without COMMAND: what opens a shell there.
    """
    from pocketbench.config import devices as config
    from pocketbench.transports import create

    # `--` may stand before a command, as in other tools that run one.
    command = command[1:] if command[:1] == ("--",) else command
    entries = config.load(config.find(options["devices_file"]))
    if name not in entries:
        config.select([name], entries)
        raise UsageError(f"{name} is a tag or 'all': a shell needs one device")
    if not command:
        click.echo(_shell_line(entries[name]))
        return
    transport = create(name, entries[name])
    transport.open()
    try:
        done = transport.run(["sh", "-c", command[0]] if len(command) == 1 else command, COMMAND_S)
    finally:
        transport.close()
    for stream, data in ((sys.stdout.buffer, done.stdout), (sys.stderr.buffer, done.stderr)):
        stream.write(data)
        stream.flush()
    # A child of this machine that died of a signal has a negative code; a shell says 128 + signal.
    ctx.exit(done.code if done.code >= 0 else 128 - done.code)


@devices.command(short_help="Show the agent's log of devices.")
@click.argument("names", metavar="NAME", nargs=-1, required=True)
@click.option("--lines", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Newest so many.")
@run_options
@click.pass_context
def log(ctx: click.Context, /, names: tuple[str, ...], lines: int, **options: Any) -> None:
    """Show the agent's log of devices, each line with the device's name before it."""
    from pocketbench.config import devices as config
    from pocketbench.models import printable

    entries = config.load(config.find(options["devices_file"]))
    failed = False
    for name in config.select(names, entries):
        try:
            for line in _log(name, entries[name], lines):
                click.echo(printable(f"{name}: {line}"))
        except DeviceError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
    ctx.exit(3 if failed else 0)


def at_terminal() -> bool:
    """Is there somebody to ask?"""
    return sys.stdin.isatty()


def _known(
    entries: Mapping[str, DeviceEntry], url: str | None
) -> tuple[Mapping[str, str | None], Mapping[str, Condition]]:
    """Who has which device, and its condition, by the store; a store that is away costs those columns only."""
    from pocketbench.store import health
    from pocketbench.store import lease as leases
    from pocketbench.store.store import Store

    try:
        store = Store(url)
        try:
            held = {name: leases.held(store, leases.place(name, entry)) for name, entry in entries.items()}
            return held, {name: health.condition_of(store, name) for name in entries}
        finally:
            store.close()
    except StoreError as error:
        click.echo(f"warning: who has which device, and how it is, is unknown: {error}", err=True)
        return {}, {}


def _as_table(rows: list[Row], conditions: Mapping[str, Condition]) -> str:
    from tabulate import tabulate

    from pocketbench.devices.condition import GOOD, Condition
    from pocketbench.models import printable
    from pocketbench.plan import NATIVE

    headings = ["name", "reached by", "state", "model", "SoC", "OS", "arch", "runtimes", "delegates", "sensors"]
    cells = []
    for row in rows:
        told = row.survey
        facts = [told.model, told.soc, told.os, told.arch] if told else [""] * 4
        # Of the vendor's tools any may be asked for, of a runtime's versions the last is the default.
        shown_versions = {n: v if n == NATIVE else v[-1:] for n, v in row.runtimes.items()}
        runtimes = ", ".join(f"{name} {version}" for name, v in shown_versions.items() for version in v)
        sensors = ", ".join(told.sensors) if told else ""
        reached = f"{row.transport} {row.address}".strip()
        health = conditions.get(row.name, Condition(GOOD))
        state = row.state if health.state == GOOD else f"{row.state}, {health.state}"
        shown = [row.name, reached, state, *facts, runtimes, ", ".join(row.delegates), sensors]
        cells.append([printable(cell) or MISSING for cell in shown])
    table = tabulate(cells, headings, tablefmt="simple", disable_numparse=True)
    remedies = [printable(row.remedy) for row in rows if row.remedy]
    remedies += [printable(f"{name}: {found.state}: {found.why}") for name, found in conditions.items() if found.why]
    return "\n".join([table, *(["", *remedies] if remedies else [])])


def _as_json(rows: list[Row], conditions: Mapping[str, Condition]) -> str:
    import json
    from dataclasses import asdict

    healths = {name: found.state for name, found in conditions.items()}
    return json.dumps([{**asdict(row), "health": healths.get(row.name)} for row in rows], indent=1)


def _choose(known: Mapping[str, DeviceEntry]) -> list[DeviceEntry]:
    """Which of the phones that the adb server sees; asked, where there is somebody to ask."""
    from pocketbench.devices import discover
    from pocketbench.transports import adb_server

    ways = "give USER@HOST for a board over SSH, HOST:PORT for a phone over TCP"
    if not adb_server.server_runs():
        raise UsageError(
            f"no adb server runs that would see phones: start one with {adb_server.start_command()}, or {ways}"
        )
    fresh: list[DeviceEntry] = []
    for serial, state in discover.server_states().items():
        entry = discover.phone(serial)
        name = discover.same_device(entry, known)
        if name is None and state == "device":
            fresh.append(entry)
            click.echo(f"{len(fresh)}. {serial}", err=True)
        else:
            told = f"is {name} already" if name else f"{adb_server.NAMES.get(state, state)}: {adb_server.remedy(state)}"
            click.echo(f"-  {serial}: {told}", err=True)
    if not fresh:
        raise UsageError(
            f"the adb server sees no phone that could be added: plug one in with USB debugging on, or {ways}"
        )
    if not at_terminal():
        serials = ", ".join(entry.serial or entry.address or "" for entry in fresh)
        raise UsageError(f"which? There is no terminal to ask at: give them as arguments: {serials}")
    answer = click.prompt("Add which (numbers, or all)", default="all", err=True)
    return fresh if answer.strip() == "all" else [fresh[number] for number in _numbers(answer, len(fresh))]


def _numbers(text: str, count: int) -> list[int]:
    """`1, 3` as positions."""
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() and 0 < int(word) <= count for word in words):
        raise UsageError(f"{text!r}: give numbers from 1 to {count}, or all")
    return [int(word) - 1 for word in dict.fromkeys(words)]


def _add(entry: DeviceEntry, name: str | None, path: Path, accept: bool, known: Mapping[str, DeviceEntry]) -> None:
    from pocketbench.config import edit
    from pocketbench.devices import discover, roster

    told = {key: value for key in WRITTEN if (value := getattr(entry, key)) is not None}
    label = roster.address(entry)
    twin = discover.same_device(edit.as_loaded(path, told), known)
    if twin is not None:
        raise UsageError(f"{label}: is registered already, as {twin}")
    row = roster.contact(label, edit.as_loaded(path, told))
    if row.host_key and _accepted(row, accept):
        told["host_key"] = row.host_key
        row = roster.contact(label, edit.as_loaded(path, told))
    if row.survey is None or row.state == roster.NOT_USABLE:
        raise NotReachable(f"{row.remedy} (not added)", row.state)
    fallback = (entry.host or "").partition(".")[0] or "phone"
    chosen = name or edit.propose_name(row.survey.model, fallback, known)
    line = edit.add(path, chosen, told)
    about = ", ".join(filter(None, (row.survey.model, row.survey.os, row.survey.arch)))
    click.echo(f"{path}: added {line}\n{about}; `bench devices check {chosen}` tries it in depth")


def _accepted(row: Row, accept: bool) -> bool:
    """UsageError, with the fingerprint, where nobody accepts the key."""
    if accept:
        return True
    if not at_terminal():
        raise UsageError(f"{row.remedy}; or give --accept-host-key, which pins it in devices.yaml")
    click.echo(row.remedy, err=True)
    if not click.confirm("Accept it, and pin it in devices.yaml?", err=True):
        raise UsageError(f"{row.name}: the host key was not accepted: not added")
    return True


def _shell_line(entry: DeviceEntry) -> str:
    import shlex

    from pocketbench.devices import discover

    if entry.transport == "ssh":
        return shlex.join(discover.ssh_line(entry))
    if entry.transport == "adb":
        connect = f"{shlex.join(['adb', 'connect', entry.address])} && " if entry.address else ""
        serial = entry.serial or entry.address
        return connect + shlex.join(["adb", *(["-s", serial] if serial else []), "shell"])
    return "this is this machine: use its own shell"


def _log(name: str, entry: DeviceEntry, lines: int) -> list[str]:
    from pocketbench.config.devices import DeviceEntry
    from pocketbench.devices.survey import places
    from pocketbench.transports import create

    if entry.driven:
        # Its agent runs here.
        from pocketbench.driven.agent import folder_of

        entry = DeviceEntry(transport="local", workdir=str(folder_of(name)))
    script = places(entry) + LOG.format(no_log=NO_LOG, lines=lines)
    transport = create(name, entry)
    transport.open()
    try:
        done = transport.run(["sh", "-c", script], LOG_S)
    finally:
        transport.close()
    path, *found = done.stdout.decode(errors="replace").rstrip("\n").split("\n")
    if done.code == NO_LOG:
        raise NotReachable(
            f"{name}: no log at {path}: no agent has run there yet; `bench devices check {name}` starts one"
        )
    if done.code:
        raise NotReachable(f"{name}: {path} cannot be read: {done.stderr.decode(errors='replace').strip()[:200]}")
    return found
