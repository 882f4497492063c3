"""Which devices of a host are free, and what they wait for: a device asks for its next share when it has none."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pocketbench.config.devices import ANY
from pocketbench.farm.shares import queue_of


class Bays:
    """Devices with their kinds, and the job that each one has. Not for several threads."""

    def __init__(self, kinds: Mapping[str, str | None]) -> None:
        # The one that has been free for longest comes first.
        self._free: dict[str, object] = dict(kinds)
        self._kinds = dict(kinds)
        self._jobs: dict[int, str] = {}
        self._barred: set[str] = set()

    def queues(self) -> list[str]:
        """Those that a free device can take a job from."""
        kinds = dict.fromkeys(f"{ANY}{kind}" for name, kind in self._free.items() if kind and name not in self._barred)
        return [queue_of(target) for target in (*self._free, *kinds)]

    def take(self, queue: str, job_id: int) -> str:
        """The device that has the job from now on: the queue's own, or the first free one of its kind."""
        device = next(
            name
            for name, kind in self._free.items()
            if queue == queue_of(name) or (kind and name not in self._barred and queue == f"kind.{kind}")
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

    def bar(self, devices: Collection[str]) -> None:
        """These take no job for any of their kind; their own end without a measurement."""
        self._barred = set(devices)

    def set_aside(self, device: str) -> bool:
        """Keep a free device from jobs for a while; False where it has one."""
        return self._free.pop(device, self) is not self

    def put_back(self, device: str) -> None:
        """It takes jobs again."""
        self._free[device] = self._kinds[device]
