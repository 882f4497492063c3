"""What a suite measures: its groups as requests, the riskiest cases first, no longer than there is time for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pocketbench import request as asking
from pocketbench.config.devices import DeviceEntry
from pocketbench.config.suite import Group, SuiteFile
from pocketbench.plan import Case, Plan, Request

# Cases a device that are measured together where there is a budget: few enough to stop between them.
TOGETHER = 8
# Of a budget: what is left is for pairs.
MEASURING = 0.75
# Of a process beside its warm-up and timed runs, while no night has told.
OVERHEAD_S = 3.0


@dataclass(frozen=True)
class Part:
    """A group as a request; `seen`: digests of what its recipes learnt from."""

    request: Request
    seen: Mapping[str, frozenset[str]]
    optional: bool
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Clock:
    """When a night began, by the monotonic clock, and how long it may take."""

    begun_s: float
    budget_s: float | None

    @property
    def spent_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self.begun_s

    def has(self, seconds: float, share: float = 1.0) -> bool:
        """Is there time for so much more, within that share of the budget?"""
        return self.budget_s is None or self.spent_s + seconds <= self.budget_s * share


def plan_of(suite: SuiteFile) -> Plan:
    """How the suite measures."""
    return Plan(**suite.plan.model_dump(), seed=random.SystemRandom().randrange(2**31))


def parts(suite: SuiteFile, entries: Mapping[str, DeviceEntry], night: str) -> list[Part]:
    """The groups of a suite; recipes are carried out. UsageError for what cannot be."""
    made = []
    for group in suite.measure:
        request, variants = asking.make(_options(suite, group), entries, plan_of(suite))
        made.append(
            Part(
                replace(request, night=night),
                variants.seen if variants else {},
                group.optional,
                variants.remarks if variants else (),
            )
        )
    return made


def estimate_s(cases: Sequence[Case], plan: Plan, known_s: Mapping[str, float]) -> float:
    """Of cases that are measured together: the slowest device's. `known_s` is what a case of a device took last."""
    each = plan.processes * (plan.warm_up_min_time_s + plan.min_time_s + OVERHEAD_S) + 2 * (plan.energy_s or 0)
    took: dict[str, float] = {}
    for case in cases:
        took[case.device] = took.get(case.device, 0.0) + known_s.get(case.device, each)
    return max(took.values(), default=0.0)


def batches(cases: Sequence[Case], risk: Callable[[Case], float], budgeted: bool) -> list[list[Case]]:
    """The riskiest first, a few of each device together; all together where nothing has to be left out."""
    if not cases:
        return []
    if not budgeted:
        return [list(cases)]
    families: dict[object, list[Case]] = {}
    for case in cases:
        families.setdefault(_family(case), []).append(case)
    queues: dict[str, list[list[Case]]] = {}
    for family in sorted(families.values(), key=lambda one: max(map(risk, one)), reverse=True):
        queues.setdefault(family[0].device, []).append(family)
    made = []
    while any(queues.values()):
        batch: list[Case] = []
        for queue in queues.values():
            taken: list[Case] = []
            while queue and (not taken or len(taken) + len(queue[0]) <= TOGETHER):
                taken += queue.pop(0)
            batch += taken
        made.append(batch)
    return made


def _family(case: Case) -> object:
    """Variants of one network stay together: their accuracy is told beside the original's."""
    if case.model.recipe is None:
        return case.key
    return case.device, case.model.suffix, str(case.runtime), case.delegate, case.threads, case.cpus


def _options(suite: SuiteFile, group: Group) -> Mapping[str, object]:
    """A group by the names of the command line's options."""
    return {
        "models": list(group.models),
        "recipes": list(group.recipes),
        "formats": list(group.to),
        "devices": list(group.devices or suite.devices),
        "runtimes": list(group.runtimes),
        "delegates": list(group.delegates),
        "threads": list(group.threads),
        "cpus": group.cpus,
        "shapes": list(group.shapes),
        "signature": group.signature,
        "inputs": group.inputs,
        "workload": group.workload,
        "rate": group.rate,
        "sustained": None,
        "labels": [],
    }
