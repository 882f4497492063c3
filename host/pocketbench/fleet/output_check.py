"""A case's outputs against one CPU thread of the same file and runtime, on the same bytes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from pocketbench import plan as planning
from pocketbench.errors import DeviceLost
from pocketbench.fleet.link import Link
from pocketbench.fleet.reference import ARCH, HostReference
from pocketbench.measurement import Output, Process, Rounding
from pocketbench.plan import Case, Plan, program
from pocketbench.results import Fidelity
from pocketbench.session.session import NoSpaceOnDevice
from pocketbench.session.wire import JobFiles
from pocketbench.verdict import fidelity
from pocketbench.verdict.verdict import within_tolerance

# Of one comparison, where the link breaks in it.
ATTEMPTS = 2


class OutputCheck:
    """One device's. The reference is the host's CPU, or, where the device is this machine, its own."""

    def __init__(self, link: Link, plan: Plan, reference: HostReference | None, stop: threading.Event) -> None:
        self._link, self._plan, self._reference, self._stop = link, plan, reference, stop
        self._known: dict[tuple[object, ...], list[Output] | None] = {}

    def compare(self, case: Case, files: JobFiles, processes: Sequence[Process]) -> list[Fidelity] | None:
        """One an output; None where the outputs could not be had."""
        if case.runtime.name == planning.NATIVE:
            # A vendor's tool gives none.
            return None
        for _ in range(ATTEMPTS):
            try:
                return self._compare(case, files, processes)
            except DeviceLost as error:
                if self._stop.is_set():
                    return None
                self._link.reopen(str(error))
        return None

    def _compare(self, case: Case, files: JobFiles, processes: Sequence[Process]) -> list[Fidelity] | None:
        on_cpu = case.on_cpu()
        key = (*program(on_cpu), files.inputs and files.inputs.sha256)
        if self._reference is not None:
            self._known[key] = self._reference.outputs(case, self._plan, files.inputs, key)
        elif key not in self._known:
            self._known[key] = self._outputs(on_cpu, files)
        reference, ours = self._known[key], self._outputs(case, files)
        if reference is None or ours is None:
            return None
        same_arch = self._reference is None or (self._link.info is not None and self._link.info.arch == ARCH)
        accelerated = case.delegate_base not in (planning.CPU, "xnnpack")
        facts = next((p.facts for p in processes if p.facts is not None), None)
        computed = facts.precision if facts is not None else ""
        quantized = any(p.placed is not None and p.placed.quantized for p in processes)
        compare = partial(
            fidelity.compare,
            *(ours, reference, same_arch),
            accelerated=accelerated,
            precision=computed,
            quantized=quantized,
        )
        compared = compare()
        if (self._reference is not None or accelerated) and not all(map(within_tolerance, compared)):
            # Another processor rounds otherwise: how much may that do to this model?
            if self._reference is not None:
                rounding = self._reference.rounding(case, self._plan, files.inputs, key)
            else:
                rounding = self._rounding(on_cpu, files)
            compared = compare(rounding=rounding)
        return compared

    def _rounding(self, case: Case, files: JobFiles) -> list[Rounding] | None:
        try:
            return self._link.live.rounding(case, self._plan, files)
        except NoSpaceOnDevice:
            return None

    def _outputs(self, case: Case, files: JobFiles) -> list[Output] | None:
        try:
            ended, outputs = self._link.live.reference(case, self._plan, files)
        except NoSpaceOnDevice:
            return None
        return outputs if ended.how == "ok" and outputs else None
