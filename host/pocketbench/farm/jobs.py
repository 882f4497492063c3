"""A share as plain data for the queue, and as a request again on the host that measures it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from pocketbench.config.devices import ANY
from pocketbench.errors import UsageError
from pocketbench.farm.shares import Share, deadline_s
from pocketbench.models import PlacedFile, place
from pocketbench.plan import Case, Plan, Request
from pocketbench.request import case_of
from pocketbench.store import lab
from pocketbench.store.store import Store
from pocketbench.workload import Workload, load

Doc = dict[str, Any]


def describe(
    store: Store,
    run_id: str,
    request: Request,
    share: Share,
    inputs: PlacedFile | None,
    workload: Workload | None,
    keep: bool,
) -> Doc:
    """What the queue has of a share; its files are in the store afterwards, but for those that are too large for it.

    A workload is code, and no code goes through the store: the other host must see the same file under the same path.
    """
    files = {file.sha256: file for case in share.cases for file in case.files}
    if inputs is not None:
        files[inputs.sha256] = inputs
    large = {sha256: str(file.path.absolute()) for sha256, file in files.items() if not lab.put(store, file)}
    return {
        "run_id": run_id,
        "share": share.name,
        "any": share.target.startswith(ANY),
        "cases": [case.key for case in share.cases],
        "inputs": inputs and [inputs.name, inputs.sha256],
        "workload": workload and [str(workload.path), workload.sha256],
        "seen": {name: sorted(digests) for name, digests in workload.seen.items()} if workload else {},
        "content": request.content,
        "night": request.night,
        "large": large,
        "keep": keep,
        "deadline_s": deadline_s(share.cases, request.plan),
        "submitted_s": time.time(),
    }


def rebuild(store: Store, job: Mapping[str, Any], device: str) -> tuple[Request, PlacedFile | None, Workload | None]:
    """The share's request, for that device, with inputs and workload. UsageError for what this host does not have."""
    _, asked = store.run_request(job["run_id"])
    docs = {doc["key"]: doc for doc in asked["cases"]}

    def kept(name: str, sha256: str) -> PlacedFile:
        return _file(store, name, sha256, job["large"].get(sha256))

    cases = tuple(_case(docs[key], key, device, kept) for key in job["cases"])
    inputs = kept(*job["inputs"]) if job["inputs"] else None
    request = Request(
        cases,
        Plan(**asked["plan"]),
        str(inputs.path) if inputs else None,
        job["workload"] and job["workload"][0],
        job["content"],
        asked["labels"],
        job["night"],
    )
    return request, inputs, _workload(job)


def _case(doc: Mapping[str, Any], key: str, device: str, kept: Any) -> Case:
    case = replace(case_of(doc, kept), arm=doc["arm"], pair=doc["pair"])
    if case.device.startswith(ANY):
        case = replace(case, device=device, asked=case.device)
    if case.key != key:
        raise UsageError(
            f"{device}: {case.label} was asked for by another version of pocketbench: run the same on all hosts"
        )
    return case


def _file(store: Store, name: str, sha256: str, large: str | None) -> PlacedFile:
    """From this host's cache, from the store, or, of a large one, from where it lay on the other host."""
    if large is not None:
        path = Path(large)
        if not path.is_file() or (found := place(path, name, "--model")).sha256 != sha256:
            told = f"{lab.LARGEST / 2**20:.0f} MiB"
            raise UsageError(f"{path}: is larger than {told}, so this host must see the same file under that path")
        return found
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError(f"{name}: {sha256!r} is no sha256")
    path = Path(platformdirs.user_cache_dir("pocketbench")) / "lab" / sha256
    if path.is_file() and (found := place(path, name, "--model")).sha256 == sha256:
        return found
    if not lab.get(store, sha256, path):
        raise UsageError(f"{name} ({sha256[:12]}) is not in the store any more: ask for the same once more")
    return place(path, name, "--model")


def _workload(job: Mapping[str, Any]) -> Workload | None:
    if job["workload"] is None:
        return None
    path, sha256 = job["workload"]
    if not Path(path).is_file():
        raise UsageError(
            f"--workload {path}: is not on this host: code does not go through the store, so each host that measures "
            "with it needs the same file under the same path"
        )
    # Before it is run: whoever can write to the queue may not have any file of this host run as Python.
    if place(Path(path), Path(path).name, "--workload").sha256 != sha256:
        raise UsageError(f"--workload {path}: is another file on this host (its sha256 differs)")
    found = load(Path(path))
    return replace(found, seen={name: frozenset(digests) for name, digests in job["seen"].items()})
