"""What of a run goes to which queue, and how long it may take there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocketbench.config.devices import ANY, DeviceEntry
from pocketbench.plan import Case, Plan, original

# Beside the jobs themselves: the gate before each (300 s), files, a link that comes back.
BESIDE_JOB_S = 400.0
BESIDE_CASE_S = 600.0


@dataclass(frozen=True)
class Share:
    """Cases that one device measures together, in rounds. `name` tells it apart within its run; `target` is a device,
    or any of a kind.
    """

    name: str
    target: str
    cases: tuple[Case, ...]

    @property
    def queue(self) -> str:
        """Where it waits."""
        return queue_of(self.target)

    @property
    def lock(self) -> str | None:
        """What it keeps everybody else from while it runs; of a kind the worker knows it, once it has a device."""
        return None if self.target.startswith(ANY) else self.target


def queue_of(target: str) -> str:
    """`dev.NAME` or `kind.KIND`."""
    return f"kind.{target.removeprefix(ANY)}" if target.startswith(ANY) else f"dev.{target}"


def queues(device: str, kind: str | None) -> tuple[str, ...]:
    """That a device takes shares from: its own, and that of its kind."""
    return (queue_of(device), *([queue_of(f"{ANY}{kind}")] if kind else []))


def target_of(queue: str) -> str:
    """The device, or any of a kind, that a queue is for."""
    kind, _, name = queue.partition(".")
    return f"{ANY}{name}" if kind == "kind" else name


def in_lab(entry: DeviceEntry) -> bool:
    """Is it measured by the worker of the host that has it?"""
    return entry.lab_host is not None


def split(cases: Sequence[Case]) -> list[Share]:
    """A device's cases stay together, for they are measured by turns; those of a kind spread over its devices, but for
    what is compared with each other.
    """
    made = []
    for target in dict.fromkeys(case.device for case in cases):
        mine = [case for case in cases if case.device == target]
        if not target.startswith(ANY):
            made.append(Share(target, target, tuple(mine)))
            continue
        for number, group in enumerate(_groups(mine)):
            made.append(Share(f"{target} {number + 1}", target, tuple(group)))
    return made


def _groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases with what they are compared with; pairs all in one, as they were asked for."""
    if any(case.arm for case in cases):
        return [list(cases)]
    groups: dict[str, list[Case]] = {}
    for case in cases:
        first = original(case, cases)
        groups.setdefault((first or case).key, []).append(case)
    return list(groups.values())


def deadline_s(cases: Sequence[Case], plan: Plan) -> float:
    """When a share is ended that has not ended by itself: each job at its own deadline, and what stands between."""
    total = 0.0
    for case in cases:
        jobs = plan.processes + 2 + plan.profile
        each = plan.deadline_s + BESIDE_JOB_S + 2 * (case.sustained_s or 0.0)
        total += BESIDE_CASE_S + jobs * each + 5 * (plan.energy_s or 0.0)
    return total


def unserved(shares: Sequence[Share], served: Sequence[tuple[str, str | None]]) -> list[Share]:
    """Those that no worker will ever take; `served` are devices in force, each with its kind."""
    taken = {queue for device, kind in served for queue in queues(device, kind)}
    return [share for share in shares if share.queue not in taken]


def hosts(share: Share, entries: Mapping[str, DeviceEntry]) -> str:
    """Where its worker would run, for people."""
    kind = share.target.removeprefix(ANY)
    found = {
        entry.lab_host
        for name, entry in entries.items()
        if entry.lab_host and (name == share.target or (share.target.startswith(ANY) and entry.kind == kind))
    }
    return " or ".join(sorted(found)) or "its host"
