"""Which devices of a host are free, and what they wait for: a device asks for its next share when it has none."""

from __future__ import annotations

from collections.abc import Mapping

from pocketbench.config.devices import ANY
from pocketbench.farm.shares import queue_of


class Bays:
    """Devices with their kinds, and the job that each one has. Not for several threads."""

    def __init__(self, kinds: Mapping[str, str | None]) -> None:
        # The one that has been free for longest comes first.
        self._free: dict[str, str | None] = dict(kinds)
        self._kinds = dict(kinds)
        self._jobs: dict[int, str] = {}

    def queues(self) -> list[str]:
        """Those that a free device can take a job from."""
        kinds = dict.fromkeys(f"{ANY}{kind}" for kind in self._free.values() if kind)
        return [queue_of(target) for target in (*self._free, *kinds)]

    def take(self, queue: str, job_id: int) -> str:
        """The device that has the job from now on: the queue's own, or the first free one of its kind."""
        device = next(
            name for name, kind in self._free.items() if queue in (queue_of(name), f"kind.{kind}" if kind else "")
        )
        del self._free[device]
        self._jobs[job_id] = device
        return device

    def device(self, job_id: int) -> str:
        """That has the job."""
        return self._jobs[job_id]

    def has(self, job_id: int) -> bool:
        """Has one of them that job?"""
        return job_id in self._jobs

    def release(self, job_id: int) -> None:
        """The job has ended."""
        device = self._jobs.pop(job_id, None)
        if device is not None:
            self._free[device] = self._kinds[device]

    def close(self, device: str) -> None:
        """It takes no jobs until it is opened again."""
        self._kinds.pop(device, None)
        self._free.pop(device, None)
