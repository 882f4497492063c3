"""Which devices of a host are free, and what they wait for: a device asks for its next share when it has none."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pocketbench.farm.shares import queues


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
        served = [self._queues(name) for name in self._free]
        return [*(own for own, *_ in served), *dict.fromkeys(kind for _, *kinds in served for kind in kinds)]

    def take(self, queue: str, job_id: int) -> str | None:
        """The device that has the job from now on: the queue's own, or the first free one of its kind; None where it is
        not free any more.
        """
        device = next((name for name in self._free if queue in self._queues(name)), None)
        if device is not None:
            del self._free[device]
            self._jobs[job_id] = device
        return device

    def _queues(self, name: str) -> tuple[str, ...]:
        return queues(name, None if name in self._barred else self._kinds[name])

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
