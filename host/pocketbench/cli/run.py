"""The root command: options to a request, run it, report it, decide the exit code."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from pocketbench import fleet, native_tools, progress, report
from pocketbench import goal as goals
from pocketbench.cli import variants
from pocketbench.cli.options import parse_shape
from pocketbench.cli.variants import Variants
from pocketbench.config import devices as config
from pocketbench.delegates import setups
from pocketbench.deploy import runtimes
from pocketbench.errors import UsageError, nearest
from pocketbench.models import open_model, place, printable
from pocketbench.plan import NATIVE, SCENARIO, Case, Plan, Request, check_delegate, matrix, parse_runtime
from pocketbench.report.findings import goal_lines
from pocketbench.results import Result
from pocketbench.store import lease as leases
from pocketbench.store.store import Store, request_doc
from pocketbench.workload import device_pipeline
from pocketbench.workload import load as load_workload

STRICT, NOT_OK = 1, 3


def run(options: Mapping[str, Any]) -> int:
    """Measure what was asked; the exit code."""
    check_output(options["output"], [*options["models"], options["inputs"], options["workload"]])
    codes = [_reason_code(code) for code in options["fail_on"]]
    entries = config.load(config.find(options["devices_file"]))
    terms = goals.parse(options["goal"]) if options["goal"] else ()
    if options["recipes"] and options["workload"] is None:
        raise UsageError("--recipe needs --workload FILE: a Python file with model() and score()")
    if options["formats"] and not options["recipes"]:
        raise UsageError("--to says in which formats recipes are made: give --recipe, or leave it out")
    request, made = make_request(options, entries)
    code, _ = execute(request, entries, options, codes, made, terms)
    return code


def execute(
    request: Request,
    entries: Mapping[str, config.DeviceEntry],
    options: Mapping[str, Any],
    fail_on: Sequence[str] = (),
    made: Variants | None = None,
    terms: Sequence[goals.Term] = (),
) -> tuple[int, fleet.Outcome]:
    """Run a request and report it: the exit code, and what came of it."""
    inputs = place(Path(request.inputs), "inputs.npz", "--inputs") if request.inputs else None
    workload = load_workload(Path(request.workload)) if request.workload else None
    if workload is not None and made is not None:
        workload = replace(workload, seen=made.seen)
    store = Store(options["store"])
    try:
        resume = options.get("resume")
        if resume is not None:
            run_id = store.unfinished_run(request.digest, resume or None)
            for device in dict.fromkeys(case.device for case in request.cases):
                holder = leases.held(store, leases.place(device, entries[device].transport))
                if holder is not None:
                    raise UsageError(f"--resume {run_id}: it may still be running: {device} is in use by {holder}")
            _, stored = store.run_request(run_id)
            request = replace(request, plan=replace(request.plan, seed=int(stored["plan"]["seed"])))
        else:
            run_id = store.create_run(request, request_doc(request))
        with progress.create() as shown, TemporaryDirectory(prefix="pocketbench-") as scratch:
            pipeline = device_pipeline(workload, Path(scratch)) if workload is not None else None
            outcome = fleet.run(
                request,
                entries,
                store,
                run_id,
                shown,
                inputs,
                workload,
                pipeline,
                resume is not None,
                bool(options.get("debug")),
            )
    finally:
        store.close()
    judged = goals.judge(terms, outcome.results) if terms else []
    paths = {case.model.sha256: str(case.model.path) for case in request.cases}
    said = [*(made.remarks if made else ()), *goal_lines(judged, options.get("goal") or "", paths)]
    shown_as = report.FORMATS[options["form"]]
    _write(shown_as(report.Report(run_id, outcome.results, outcome.originals, said)), options["output"])
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
    if any(one.winner is None for one in judged):
        code = STRICT
    elif made is not None and made.failed:
        code = code or NOT_OK
    return code, outcome


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


def make_request(
    options: Mapping[str, Any], entries: Mapping[str, config.DeviceEntry]
) -> tuple[Request, Variants | None]:
    """The request that the options describe, with what was made for it; UsageError for what cannot be."""
    if not options["models"] and not options["recipes"]:
        raise UsageError("nothing to measure: give --model FILE (bench --help shows more)")
    if not options["devices"]:
        raise UsageError("where to measure? give --device NAME; --device local is this machine")
    names = config.select(options["devices"], entries)
    chosen = [parse_runtime(text) for text in options["runtimes"]]
    for runtime in chosen:
        runtimes.check(runtime)
    own = [name for device in names for name in entries[device].delegates]
    delegates = [check_delegate(name, own) for name in options["delegates"]] or ["cpu"]
    shapes = tuple(parse_shape(text) for text in options["shapes"])
    cpus = parse_cpus(options["cpus"]) if options["cpus"] else ()
    scenario, plan = _scenario(options), _plan(options)
    labels = dict(_label(text) for text in options["labels"])
    for option in ("inputs", "workload"):
        path = options[option]
        if path is not None and not path.is_file():
            raise UsageError(f"--{option} {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    models = [open_model(path) for path in dict.fromkeys(options["models"])]
    made = None
    if options["recipes"]:
        made = variants.make(load_workload(options["workload"]), options, chosen, names, entries)
    cases = [
        matrix(
            [name],
            [*(made.of(name) if made else ()), *models],
            chosen,
            delegates,
            options["threads"] or (1,),
            cpus,
            shapes,
            options["signature"],
            setups(delegates, name, entries[name]),
            scenario,
        )
        for name in names
    ]
    request = Request(
        cases=tuple(_with_tool(case, entries) for of_device in cases for case in of_device),
        plan=plan,
        inputs=str(options["inputs"].absolute()) if options["inputs"] else None,
        workload=str(options["workload"].absolute()) if options["workload"] else None,
        content=content_of([options["inputs"], options["workload"]]),
        labels=labels,
    )
    return request, made


def _with_tool(case: Case, entries: Mapping[str, config.DeviceEntry]) -> Case:
    if case.runtime.name != NATIVE:
        return case
    tool = native_tools.choose(case.device, entries[case.device], case.model.suffix, case.delegate_base)
    return replace(case, tool=tool)


def content_of(paths: Sequence[Path | None]) -> str:
    """One hash over the files that are given: a resumed run must feed and score with the same."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path else bytes(32))
    return digest.hexdigest()


def parse_cpus(text: str) -> tuple[int, ...]:
    """`0-3,6` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if match is None:
            raise UsageError(f"--cpus {text}: give core numbers such as 0-3,6")
        first = int(match[1])
        found += range(first, int(match[2] or first) + 1)
    if not found:
        raise UsageError(f"--cpus {text}: names no core")
    return tuple(dict.fromkeys(found))


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


def _scenario(options: Mapping[str, Any]) -> str:
    """`single_stream`, `paced:HZ` or `sustained:SECONDS`: part of what tells cases apart."""
    if options["rate"] and options["sustained"]:
        raise UsageError("--rate and --sustained are two scenarios: measure one at a time")
    if options["rate"]:
        return f"paced:{options['rate']:g}"
    return f"sustained:{options['sustained']:g}" if options["sustained"] else SCENARIO


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


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--label {text}: write KEY=VALUE")
    return key, value


def _reason_code(code: str) -> str:
    from pocketbench.verdict import CODES

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


def _write(text: str, path: Path | None) -> None:
    """The report; a reader that went away (`| head`) is no error, anything else is the output's."""
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
