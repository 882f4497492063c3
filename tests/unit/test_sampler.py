"""One meters' process for all jobs: what it reads, and that its death costs readings and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketbench_agent import device_info
from pocketbench_agent.sampler import Sampler


@pytest.fixture
def sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sampler]:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu\n")
    (zone / "temp").write_text("41000\n")
    monkeypatch.setenv(device_info.ROOT_VARIABLE, str(tmp_path))
    made = Sampler()
    yield made
    made.close()


def pid(sampler: Sampler) -> int:
    assert sampler._process is not None
    return sampler._process.pid


def values(sampler: Sampler) -> list[int]:
    return [v for event in sampler.end() for v in event.reading.value]


def test_one_process_reads_for_job_after_job(sampler: Sampler) -> None:
    sampler.begin(["thermal", "no such meter"])
    first = pid(sampler)
    assert set(values(sampler)) == {41000}
    sampler.begin([])
    assert values(sampler) == []
    sampler.begin(["thermal"])
    assert pid(sampler) == first
    assert set(values(sampler)) == {41000}
    assert values(sampler) == []


def test_a_job_shorter_than_the_interval_has_a_before_and_an_after(sampler: Sampler) -> None:
    sampler.begin(["thermal"])
    assert len(values(sampler)) == 2


def test_a_process_that_died_costs_its_readings_alone(sampler: Sampler) -> None:
    sampler.begin(["thermal"])
    os.kill(pid(sampler), signal.SIGKILL)
    assert values(sampler) == []
    sampler.begin(["thermal"])
    assert len(values(sampler)) == 2


def test_a_process_that_hangs_is_given_up(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketbench_agent.sampler.ANSWER_S", 0.3)
    sampler.begin(["thermal"])
    os.kill(pid(sampler), signal.SIGSTOP)
    begin = time.monotonic()
    assert values(sampler) == []
    assert time.monotonic() - begin < 5
    sampler.begin(["thermal"])
    assert len(values(sampler)) == 2


def test_it_ends_with_the_agent(sampler: Sampler) -> None:
    sampler.begin(["thermal"])
    process = sampler._process
    assert process is not None
    sampler.close()
    assert process.returncode is not None
