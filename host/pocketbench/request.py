"""From what is asked, by options, a suite or the store, to a Request: cases and what they are fed and scored with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketbench.compress import variants
from pocketbench.compress.variants import Variants
from pocketbench.config import devices as config
from pocketbench.config import native_tools
from pocketbench.config.delegates import setups
from pocketbench.deploy import runtimes
from pocketbench.errors import UsageError
from pocketbench.models import ModelFile, PlacedFile, open_model, place
from pocketbench.plan import (
    NATIVE,
    SCENARIO,
    Case,
    DelegateSetup,
    NativeTool,
    Plan,
    Request,
    check_delegate,
    matrix,
    parse_runtime,
)
from pocketbench.workload import load as load_workload

# A file by name and sha256.
Kept = Callable[[str, str], PlacedFile]


def make(
    options: Mapping[str, Any],
    entries: Mapping[str, config.DeviceEntry],
    plan: Plan,
    earlier: Variants | None = None,
) -> tuple[Request, Variants | None]:
    """The request that the options describe, with what was made for it; UsageError for what cannot be.

    `options` has the names and values of the command line's; `earlier` variants of the same are not read anew.
    """
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
    scenario = _scenario(options)
    labels = dict(_label(text) for text in options["labels"])
    for option in ("inputs", "workload"):
        path = options[option]
        if path is not None and not path.is_file():
            raise UsageError(f"--{option} {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    models = [open_model(path) for path in dict.fromkeys(options["models"])]
    made = None
    if options["recipes"]:
        made = variants.make(load_workload(options["workload"]), options, chosen, names, entries, earlier)
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


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`NAME=1x3x640x640`; UsageError for anything else."""
    name, equals, dims = text.rpartition("=")
    parts = dims.split("x")
    if not equals or not name or not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", part, re.ASCII) for part in parts):
        raise UsageError(f"--shape {text}: write NAME=1x3x640x640")
    return name, tuple(int(part) for part in parts)


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


def _scenario(options: Mapping[str, Any]) -> str:
    """`single_stream`, `paced:HZ` or `sustained:SECONDS`: part of what tells cases apart."""
    if options["rate"] and options["sustained"]:
        raise UsageError("--rate and --sustained are two scenarios: measure one at a time")
    if options["rate"]:
        return f"paced:{options['rate']:g}"
    return f"sustained:{options['sustained']:g}" if options["sustained"] else SCENARIO


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--label {text}: write KEY=VALUE")
    return key, value


def case_of(doc: Mapping[str, Any], kept: Kept | None = None) -> Case:
    """A case from how the store keeps it. UsageError where a file is gone, or is another one by now.

    `kept` gives files by name and sha256, instead of those that lie where they lay then.
    """
    path = Path(doc["model"]["path"])
    if kept is not None and doc["model"].get("files"):
        model = ModelFile(path, tuple(kept(file["name"], file["sha256"]) for file in doc["model"]["files"]))
    else:
        model = open_model(path)
    if model.sha256 != doc["model"]["sha256"]:
        raise UsageError(f"{path}: is not the file that was measured then (its sha256 differs)")
    return Case(
        device=doc["device"],
        model=replace(model, recipe=doc["model"].get("recipe")),
        runtime=parse_runtime(doc["runtime"]),
        delegate=doc["delegate"],
        threads=doc["threads"],
        cpus=tuple(doc["cpus"]),
        shapes=tuple((name, tuple(dims)) for name, dims in doc["shapes"]),
        signature=doc["signature"],
        setup=_setup(doc.get("setup") or {}, kept),
        scenario=doc.get("scenario", SCENARIO),
        tool=_tool(doc.get("tool"), kept),
    )


def _setup(doc: Mapping[str, Any], kept: Kept | None) -> DelegateSetup:
    options = tuple((name, value) for name, value in doc.get("options", ()))
    return DelegateSetup(doc.get("base"), options, _files(doc, kept, "--delegate", "library"))


def _tool(doc: Mapping[str, Any] | None, kept: Kept | None) -> NativeTool | None:
    return None if doc is None else NativeTool(doc["name"], doc["path"], _files(doc, kept, "native_tools:", "tool"))


def _files(doc: Mapping[str, Any], kept: Kept | None, option: str, kind: str) -> tuple[PlacedFile, ...]:
    files = []
    for told in doc.get("files", ()):
        file = kept(told["name"], told["sha256"]) if kept else place(Path(told["path"]), told["name"], option)
        if file.sha256 != told["sha256"]:
            raise UsageError(f"{file.path}: is not the {kind} that was used then (its sha256 differs)")
        files.append(file)
    return tuple(files)
