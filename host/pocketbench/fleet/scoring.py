"""What a workload makes of a case through the agent: its score, and the first item, which feeds the timed runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pocketbench import workload as work
from pocketbench.assemble import case_reason
from pocketbench.compress.disjoint import Guard
from pocketbench.errors import DeviceLost, NotReachable
from pocketbench.figures.accuracy import Scored, evaluate
from pocketbench.fleet.link import Link
from pocketbench.fleet.progress import working
from pocketbench.measurement import Ended, WorkerEnded
from pocketbench.models import PlacedFile, place
from pocketbench.plan import Case, Plan, program
from pocketbench.results import Reason
from pocketbench.session.session import NoSpaceOnDevice
from pocketbench.session.wire import JobFiles


class _FirstItem(BaseException):
    """No Exception: the user's score() may catch those."""

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self.arrays = arrays


def _stop_at_once(arrays: Sequence[NDArray[Any]]) -> NoReturn:
    raise _FirstItem(arrays)


Call = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]

ATTEMPTS = 2
SEED = 20_261_125


class Scoring:
    """Of one lane. `first_items` are the first item of each program that was scored, an .npz by position."""

    def __init__(
        self,
        workload: work.Workload | None,
        link: Link,
        plan: Plan,
        files: Callable[[Case], JobFiles],
        stop: threading.Event,
        scratch: Path,
        say: Callable[[str], None],
    ) -> None:
        self._workload, self._link, self._plan, self._say = workload, link, plan, say
        # How often score() asks: of how many is known once it has been seen to its end, for every variant.
        self._asked = 0
        self._of: int | None = None
        self._files, self._stop, self._scratch = files, stop, scratch
        self.first_items: dict[tuple[object, ...], PlacedFile] = {}

    def score(self, case: Case) -> Scored | Reason | Ended | None:
        """What came of it through the agent, why nothing did, how the worker ended, or None when stopped."""
        assert self._workload is not None
        lost = ""
        for _ in range(ATTEMPTS):
            try:
                with self._link.live.scoring(case, self._plan, self._files(case)) as scorer:
                    predict = work.DevicePredict(self._told(scorer.call, case), scorer.facts)
                    guard = Guard(predict, self._workload.seen)
                    score = self._workload.score(guard)
                    guard.verify(self._workload.path.name)
                self._of = self._asked
                if predict.first is not None:
                    self.first_items[program(case)] = self._keep(predict.first)
                return evaluate(score, SEED)
            except work.WorkloadFailed as error:
                return None if self._stop.is_set() else case_reason("workload_failed", str(error))
            except WorkerEnded as error:
                return None if self._stop.is_set() else error.ended
            except NoSpaceOnDevice as error:
                return Ended("error", "push", str(error))
            except NotReachable as error:
                return case_reason("not_available", str(error))
            except DeviceLost as error:
                if self._stop.is_set():
                    return None
                lost = str(error)
                self._link.reopen(lost)
        return case_reason("device_lost", f"{lost} (twice, while it was scored)")

    def _told(self, call: Call, case: Case) -> Call:
        tell, self._asked = working(self._say, f"accuracy: {case.label}: inference", self._of), 0

        def told(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
            self._asked += 1
            tell(self._asked)
            return call(arrays)

        return told

    def feed(self, case: Case) -> bool:
        """The first item alone, of a case that was scored before its run was cut; False where it cannot be had."""
        assert self._workload is not None
        if program(case) in self.first_items:
            return True
        try:
            with self._link.live.scoring(case, self._plan, self._files(case)) as scorer:
                self._workload.score(work.DevicePredict(_stop_at_once, scorer.facts))
        except _FirstItem as first:
            self.first_items[program(case)] = self._keep(first.arrays)
            return True
        except DeviceLost as error:
            if not self._stop.is_set():
                self._link.reopen(str(error))
        except (work.WorkloadFailed, WorkerEnded, NoSpaceOnDevice, NotReachable):
            pass
        return False

    def _keep(self, arrays: Sequence[NDArray[Any]]) -> PlacedFile:
        path = self._scratch / f"inputs-{len(self.first_items)}.npz"
        named: dict[str, Any] = {str(position): array for position, array in enumerate(arrays)}
        np.savez(path, **named)
        return place(path, path.name, "--workload")
