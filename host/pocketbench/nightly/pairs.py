"""Pairs: what is there now against the baseline's files, runtime and agent, by turns, in the same night."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pocketbench.config.devices import DeviceEntry
from pocketbench.fleet.fleet import Outcome
from pocketbench.night import Treatment
from pocketbench.nightly import kept
from pocketbench.nightly.judge import MEASURED
from pocketbench.nightly.regression import order
from pocketbench.plan import ALTERNATING, BASELINE, MIRRORED, NEW, Case, Request, RuntimeChoice
from pocketbench.results import Result

# Runs a request with the devices as they are given; an interrupted one ends the night.
Run = Callable[[Request, Mapping[str, DeviceEntry]], Outcome]


@dataclass(frozen=True)
class Arms:
    """Two cases that differ in what was changed, and the agents that run them (None: today's)."""

    new: Case
    baseline: Case
    old_agent: str | None


def treatment(result: Result) -> Treatment:
    """What made a result, by content."""
    environment = result.environment
    files = environment.get("model_files") or {}
    return Treatment(
        model=" ".join(sorted(map(str, files.values()))) or result.model.sha256,
        runtime=f"{result.runtime.name} {result.runtime.version or ''}".strip(),
        delegate=" ".join(
            [
                *(f"{name}={value}" for name, value in sorted(result.delegate.options.items())),
                *sorted(map(str, (environment.get("delegate_files") or {}).values())),
            ]
        ),
        agent=str(environment.get("agent_build") or ""),
    )


def arms(new: Case, tonight: Result, baseline: Result, asked: Mapping[str, Any]) -> Arms:
    """`asked` is the baseline's case as its run was asked. UsageError where its files are gone from this host."""
    changed = treatment(tonight).changed(treatment(baseline))
    runtime = new.runtime
    if "runtime" in changed and new.tool is None:
        runtime = RuntimeChoice(baseline.runtime.name, baseline.runtime.version)
    old = replace(new, runtime=runtime)
    if {"model", "delegate"} & set(changed):
        then = kept.case(asked)
        old = replace(old, model=then.model, setup=then.setup)
    if "runtime" in changed and new.tool is not None:
        # A tool that lies on the device is the one of tonight, and there is nothing to pair it with but itself.
        old = replace(old, tool=kept.case(asked).tool)
    agent = treatment(baseline).agent if "agent" in changed else None
    return Arms(new, old, agent)


def measure(
    pair: Arms, entries: Mapping[str, DeviceEntry], request: Request, count: int, mirrored: bool, run: Run
) -> tuple[dict[str, list[float]], list[Result]]:
    """ln(new / baseline) of each metric, pair by pair, and the new arm's results.

    A pair of which one is not trusted counts for nothing. `request` says how the night measured the case.
    """
    turns = order(count, mirrored)
    cases = [
        replace(pair.new if name == NEW else pair.baseline, arm=name, pair=number)
        for number, names in enumerate(turns)
        for name in names
    ]
    plan = replace(request.plan, turns=MIRRORED if mirrored else ALTERNATING)
    found: dict[tuple[str, int], Result] = {}
    for batch, devices in _batches(pair, cases, entries):
        outcome = run(replace(request, cases=tuple(batch), plan=plan, night=None), devices)
        by_key = dict(zip(outcome.keys, outcome.results, strict=True))
        found |= {(case.arm, case.pair): by_key[case.key] for case in batch if case.key in by_key}
    return _ratios(found, count), [result for (arm, _), result in sorted(found.items()) if arm == NEW]


def again(case: Case, request: Request, entries: Mapping[str, DeviceEntry], count: int, run: Run) -> list[Result]:
    """The same once more, so many times, where there is nothing to pair it with."""
    cases = tuple(replace(case, arm=NEW, pair=number) for number in range(count))
    outcome = run(replace(request, cases=cases, plan=replace(request.plan, turns=ALTERNATING), night=None), entries)
    return list(outcome.results)


def _batches(
    pair: Arms, cases: Sequence[Case], entries: Mapping[str, DeviceEntry]
) -> list[tuple[list[Case], Mapping[str, DeviceEntry]]]:
    """All in one run; where the agents differ, one run each, in the same order."""
    if pair.old_agent is None:
        return [(list(cases), entries)]
    device = pair.new.device
    old = {**entries, device: kept.with_agent(entries[device], pair.old_agent)}
    return [([case], old if case.arm == BASELINE else entries) for case in cases]


def _ratios(found: Mapping[tuple[str, int], Result], count: int) -> dict[str, list[float]]:
    ratios: dict[str, list[float]] = {}
    for number in range(count):
        new, old = found.get((NEW, number)), found.get((BASELINE, number))
        if new is None or old is None or new.status != "OK" or old.status != "OK":
            continue
        for metric in MEASURED:
            one, two = new.metric(metric), old.metric(metric)
            if one is not None and two is not None and one > 0 and two > 0:
                ratios.setdefault(metric, []).append(math.log(one / two))
    return ratios
