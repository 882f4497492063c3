"""The root command: options to a request, run it, report it, decide the exit code."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from pocketbench import report
from pocketbench import request as asking
from pocketbench.compress.variants import Variants
from pocketbench.config import devices as config
from pocketbench.errors import UsageError, nearest
from pocketbench.farm.shares import in_lab
from pocketbench.figures import goal as goals
from pocketbench.fleet import fleet, progress
from pocketbench.models import printable
from pocketbench.plan import Plan, Request
from pocketbench.report.findings import goal_lines
from pocketbench.results import Result, is_again
from pocketbench.store import lease as leases
from pocketbench.store.store import Store, request_doc

STRICT, NOT_OK = 1, 3


def run(options: Mapping[str, Any]) -> int:
    """Measure what was asked; the exit code."""
    check_output(options["output"], [*options["models"], options["inputs"], options["workload"]])
    codes = [_reason_code(code) for code in options["fail_on"]]
    entries = config.with_kinds(config.load(config.find(options["devices_file"])))
    terms = goals.parse(options["goal"]) if options["goal"] else ()
    if options["recipes"] and options["workload"] is None:
        raise UsageError("--recipe needs --workload FILE: a Python file with model() and score()")
    if options["formats"] and not options["recipes"] and not options["search"]:
        raise UsageError("--to says in which formats recipes are made: give --recipe, or leave it out")
    if options["search"]:
        from pocketbench.cli import search

        return search.run(options, entries, _plan(options), codes, terms)
    request, made = asking.make(options, entries, _plan(options))
    code, _ = execute(request, entries, options, codes, made, terms)
    return code


def execute(
    request: Request,
    entries: Mapping[str, config.DeviceEntry],
    options: Mapping[str, Any],
    fail_on: Sequence[str] = (),
    made: Variants | None = None,
    terms: Sequence[goals.Term] = (),
    remarks: Sequence[str] = (),
    scored: fleet.Scores = MappingProxyType({}),
) -> tuple[int, fleet.Outcome]:
    """Run a request and report it, with what else there is to say: the exit code, and what came of it."""
    run_id, outcome = measured(request, entries, options, made, scored)
    judged = goals.judge(terms, outcome.results) if terms else []
    paths = {case.model.sha256: str(case.model.path) for case in request.cases}
    said = [*remarks, *(made.remarks if made else ()), *goal_lines(judged, options.get("goal") or "", paths)]
    shown_as = report.FORMATS[options["form"]]
    write(shown_as(report.Report(run_id, outcome.results, outcome.originals, said)), options["output"])
    if options["form"] in ("csv", "json") or options["output"]:
        for line in said:
            click.echo(line, err=True)
    if outcome.interrupted:
        click.echo(
            f"interrupted: {len(outcome.results)} of {len(request.cases)} cases are complete; "
            "the same command with --resume goes on",
            err=True,
        )
        return fleet.INTERRUPTED, outcome
    code = exit_code(outcome.results, bool(options.get("require_full_delegation")), fail_on)
    if len(outcome.results) < len(request.cases):
        # Somebody else has taken a device meanwhile: an empty table is no success.
        click.echo(
            f"incomplete: {len(outcome.results)} of {len(request.cases)} cases have a result; "
            "the same command with --resume goes on",
            err=True,
        )
        code = code or NOT_OK
    elif any(is_again(result) for result in outcome.results):
        again = sum(is_again(result) for result in outcome.results)
        click.echo(f"{again} case(s) lost, or never reached: the same command with --resume measures them", err=True)
    if any(one.winner is None for one in judged):
        code = STRICT
    elif made is not None and made.failed:
        code = code or NOT_OK
    return code, outcome


def measured(
    request: Request,
    entries: Mapping[str, config.DeviceEntry],
    options: Mapping[str, Any],
    made: Variants | None = None,
    scored: fleet.Scores = MappingProxyType({}),
) -> tuple[str, fleet.Outcome]:
    """Run a request: its id, and what came of it. `scored` is what its workload has scored already."""
    fed = fleet.feed(request, made.seen if made is not None else {}, scored)
    store = Store(options["store"])
    try:
        resume = options.get("resume")
        if resume is not None:
            run_id = store.unfinished_run(request.digest, resume or None)
            for device in dict.fromkeys(case.device for case in request.cases):
                # A lab's workers go on by themselves, and take turns with whoever uses their devices.
                theirs = store.database.path is None and in_lab(entries[device])
                holder = None if theirs else leases.held(store, leases.place(device, entries[device]))
                if holder is not None:
                    raise UsageError(f"--resume {run_id}: it may still be running: {device} is in use by {holder}")
            _, stored = store.run_request(run_id)
            request = replace(request, plan=replace(request.plan, seed=int(stored["plan"]["seed"])))
        else:
            run_id = store.create_run(request, request_doc(request))
        with progress.create() as shown:
            outcome = fleet.measure(
                request,
                entries,
                store,
                run_id,
                shown,
                fed,
                resume is not None,
                bool(options.get("debug")),
            )
    finally:
        store.close()
    return run_id, outcome


def exit_code(results: Sequence[Result], full_delegation: bool, fail_on: Sequence[str]) -> int:
    """1 a strict check failed, 3 a case is not OK, 0 all well; 1 before 3."""
    if full_delegation:
        for result in results:
            if result.delegate.requested != "cpu" and result.delegate.coverage != "full":
                told = f"{printable(result.title)}: coverage {result.delegate.coverage}"
                click.echo(f"--require-full-delegation: {told}", err=True)
                return STRICT
    for result in results:
        for reason in result.reasons:
            if reason.code in fail_on:
                told = f"{printable(result.title)}: {printable(reason.message)}"
                click.echo(f"--fail-on {reason.code}: {told}", err=True)
                return STRICT
    return 0 if all(result.status == "OK" for result in results) else NOT_OK


def _plan(options: Mapping[str, Any]) -> Plan:
    if options["min_runs"] > options["max_runs"]:
        if click.get_current_context().get_parameter_source("min_runs") is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--min-runs {options['min_runs']} is more than --max-runs {options['max_runs']}")
        options = {**options, "min_runs": options["max_runs"]}
    if options["min_time"] > options["max_time"]:
        if click.get_current_context().get_parameter_source("min_time") is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--min-time {options['min_time']} is more than --max-time {options['max_time']}")
        options = {**options, "min_time": options["max_time"]}
    given = click.get_current_context().get_parameter_source("processes") is click.core.ParameterSource.COMMANDLINE
    return Plan(
        # A long look at one process, unless more are asked for.
        processes=1 if options["sustained"] and not given else options["processes"],
        min_runs=options["min_runs"],
        max_runs=options["max_runs"],
        min_time_s=options["min_time"],
        max_time_s=options["max_time"],
        cooldown_s=_cooldown(options["cooldown"]),
        energy_s=_energy(options["energy"]),
        seed=random.SystemRandom().randrange(2**31),
        profile=bool(options.get("profile")),
    )


def _cooldown(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise UsageError(f"--cooldown {text}: give auto, or seconds from 0 to 3600")
    return seconds


def _energy(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= 3600:
        raise UsageError(f"--energy {text}: give seconds from 1 to 3600, or nothing for 30")
    return seconds


def _reason_code(code: str) -> str:
    from pocketbench.verdict.verdict import CODES

    if code not in CODES:
        raise UsageError(f"--fail-on {code}: unknown reason{nearest(code, CODES)}; known: {', '.join(CODES)}")
    return code


def check_output(path: Path | None, read: Sequence[Path | None] = ()) -> None:
    """An output that cannot be written, or would overwrite what is read, is found before anything runs."""
    if path is None:
        return
    if any(other is not None and other.exists() and path.exists() and path.samefile(other) for other in read):
        raise UsageError(f"--output {path}: would overwrite what is measured")
    if path.is_dir():
        raise UsageError(f"--output {path}: is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"--output {path}: cannot be written")


def write(text: str, path: Path | None) -> None:
    """A report to a file or stdout; a reader that went away (`| head`) is no error, anything else is the output's."""
    if path is not None:
        try:
            path.write_text(text, encoding="utf-8")
            return
        except OSError as error:
            _print(text)
            raise UsageError(f"--output {path}: {error.strerror}; the report went to stdout") from error
    _print(text)


def _print(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show must not cost the report.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, AttributeError, ValueError) as error:
        raise UsageError(f"stdout cannot be written: {error}; the results are in the store (bench history)") from error
