"""What names a series: results that say how one thing went over time.

In the name is what was asked for: it survives a new file, runtime or agent, for those are what nights compare. What the
device is at the time is not: a new OS cuts a series, and does not begin one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pocketbench.plan import SCENARIO, Case
from pocketbench.results import Result


def series_key(result: Result) -> str:
    """16 hexadecimal digits; the same for every result of a series, of whatever status."""
    return _hash(
        result.device,
        (result.model.name, result.model.recipe),
        result.runtime.name,
        result.delegate.requested,
        result.threads,
        result.cpus,
        result.shapes,
        result.signature,
        result.scenario,
    )


def series_of_case(case: Case) -> str:
    """The same before anything was measured."""
    model = (case.model.name, case.model.recipe)
    runtime, shapes = case.runtime.name, dict(case.shapes)
    return _hash(
        case.device, model, runtime, case.delegate, case.threads, case.cpus, shapes, case.signature, case.scenario
    )


def series_of_doc(doc: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The same of a stored result, without building it; `asked` is its case as the run was told.

    Results did not always say which shapes and signature they were asked for.
    """
    model = doc["model"]
    return _hash(
        doc["device"],
        (model["name"], model.get("recipe")),
        doc["runtime"]["name"],
        doc["delegate"]["requested"],
        doc["threads"],
        doc.get("cpus"),
        doc["shapes"] if "shapes" in doc else dict(asked.get("shapes", ())),
        doc["signature"] if "signature" in doc else asked.get("signature"),
        doc.get("scenario", SCENARIO),
    )


def _hash(
    device: str,
    model: tuple[str, str | None],
    runtime: str,
    delegate: str,
    threads: int,
    cpus: Sequence[int] | None,
    shapes: Mapping[str, Sequence[int]],
    signature: str | None,
    scenario: str,
) -> str:
    """Stores keep these: another way to name series needs a migration."""
    dims = sorted((name, list(dims)) for name, dims in shapes.items())
    parts = [device, model, runtime, delegate, threads, list(cpus or ()), dims, signature, scenario]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
