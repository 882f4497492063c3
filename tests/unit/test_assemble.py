"""From processes to a result: statuses, their order, and nothing unavailable shown as 0."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest

from pocketbench.assemble import STATUS_OF, Context, assemble, case_reason
from pocketbench.documents import from_doc, to_doc
from pocketbench.measurement import Ended, Process, Tensor
from pocketbench.results import METRICS, STATUSES, Accuracy, Fidelity, Result
from pocketbench.verdict.verdict import CODES
from pocketbench_agent.device_info import Cluster
from tests.unit import facts
from tests.unit.facts import DEVICE, MS

CONTEXT = Context("ssh", DEVICE, plan={"seed": 3}, labels={"k": "v"}, load_avg=0.25, has_thermal_sensor=True)
ACCURACY = Accuracy("top-1", 0.98, (0.97, 0.99), 500, None, None, None, True, {"top-5": 1.0})


def broken(how: str, stage: str = "timed", message: str = "went wrong") -> Process:
    """A process that did not come to its end."""
    return Process(3, Ended(how, stage, message))


def test_an_honest_case_is_ok_and_has_no_reason() -> None:
    result = assemble(facts.case(), facts.processes(), CONTEXT)
    assert (result.status, result.stage, result.reasons) == ("OK", None, ())


def test_statistics_are_those_of_the_processes() -> None:
    processes = facts.processes()
    result = assemble(facts.case(), processes, CONTEXT)
    assert result.latency_ms is not None and result.latency_ms.ci95 is not None
    medians = [float(np.median(p.run_ns)) / MS for p in processes]
    pooled = np.concatenate([p.run_ns for p in processes]) / MS
    assert result.latency_ms.p50 == pytest.approx(median(medians))
    assert result.latency_ms.p50 is not None
    assert result.latency_ms.ci95[0] < result.latency_ms.p50 < result.latency_ms.ci95[1]
    assert (result.latency_ms.n, result.latency_ms.processes) == (1200, 6)
    assert result.latency_ms.mean == pytest.approx(pooled.mean())
    assert (result.latency_ms.min, result.latency_ms.max) == (pooled.min(), pooled.max())
    assert result.latency_ms.stdev_between == pytest.approx(np.std(medians, ddof=1))
    assert result.latency_ms.p90 == pytest.approx(np.sort(pooled)[1079])
    assert result.samples_ns == tuple(tuple(p.run_ns.tolist()) for p in processes)
    assert result.process_medians_ns() == [m * MS for m in medians]


def test_the_clock_is_that_of_the_cores_that_a_case_was_kept_to() -> None:
    fast = (
        facts.two("cpufreq:policy4", "frequency", "khz", 2_800_000, 2_800_000),
        facts.two("cpufreq:policy4", "ceiling", "khz", 3_000_000, 3_000_000),
    )
    processes = [replace(p, readings=(*p.readings, *fast)) for p in facts.processes()]
    clusters = (Cluster("policy0", (0, 1, 2, 3), 2_400_000, 400), Cluster("policy4", (4, 5), 3_000_000, 1024))
    context = replace(CONTEXT, device=replace(DEVICE, clusters=clusters))
    for cpus, mhz in (((), (2800, 3000)), ((4,), (2800, 3000)), ((1, 2), (1800, 2400)), ((1, 4), (2800, 3000))):
        result = assemble(replace(facts.case(), cpus=cpus), processes, context)
        assert result.cpu_mhz is not None and (result.cpu_mhz.mean, result.cpu_mhz.ceiling) == mhz, cpus
        assert [(one.cpu_mhz, one.ceiling_mhz) for one in result.heat] == [mhz] * len(processes)
        assert [(list(c.cpus), c.max_mhz, c.capacity) for c in result.device_info.clusters or ()] == [
            ([0, 1, 2, 3], 2400, 400),
            ([4, 5], 3000, 1024),
        ]


def test_each_process_says_how_hot_it_was() -> None:
    zones = [facts.two("thermal:cpu", "temperature", "millicelsius", 40_000, 41_000 + 1000 * n) for n in range(3)]
    processes = [
        replace(p, readings=(zone,) if n else ())
        for n, (p, zone) in enumerate(zip(facts.processes(), zones, strict=False))
    ]
    result = assemble(facts.case(), processes, CONTEXT)
    assert [one.temperature_c for one in result.heat] == [None, 42, 43]
    assert [one.cpu_mhz for one in result.heat] == [None] * 3


def test_other_measurements_have_their_units() -> None:
    result = assemble(facts.case(), facts.processes(), CONTEXT)
    assert (result.load_ms, result.first_inference_ms) == (80.0, 15.0)
    assert result.io_ms is not None and result.io_ms.p50 == pytest.approx(0.02)
    assert result.latency_ms is not None and result.latency_ms.p50 is not None
    assert result.serial_rate_per_s == pytest.approx(1000 / (result.latency_ms.p50 + 0.02))
    assert result.cpu_per_wall == pytest.approx(1.0)
    assert result.run_delay_share == pytest.approx(1 / 1001)
    memory = result.memory_mb
    assert memory is not None
    assert (memory.start, memory.runtime, memory.loaded, memory.peak, memory.model) == (20, 50, 58, 70, 8)
    assert result.temperature_c is not None
    assert (result.temperature_c.start, result.temperature_c.end, result.temperature_c.max) == (41, 42.5, 42.5)
    assert result.cpu_mhz is not None
    assert (result.cpu_mhz.mean, result.cpu_mhz.ceiling) == (1800, 2400)
    assert result.warm_up is not None and (result.warm_up.runs, result.warm_up.steady) == (240, True)
    assert (result.load_avg, result.plan, result.labels) == (0.25, {"seed": 3}, {"k": "v"})


def test_copying_is_the_median_of_the_processes() -> None:
    processes = [replace(p, io_ns=p.io_ns * (p.round + 1)) for p in facts.processes()]
    result = assemble(facts.case(), processes, CONTEXT)
    assert result.io_ms is not None and result.io_ms.p50 == pytest.approx(0.02 * 3.5)


def test_memory_is_the_most_of_all_processes() -> None:
    processes = facts.processes()
    peak = facts.two("memory", "peak", "bytes", 1, 90 * 10**6)
    processes[1] = facts.with_reading(processes[1], peak)
    result = assemble(facts.case(), processes, CONTEXT)
    assert result.memory_mb is not None and result.memory_mb.peak == 90


ENDS = [
    ("signal", "timed", "worker_died", "CRASHED"),
    ("no_output", "load", "worker_died", "CRASHED"),
    ("timeout", "warm_up", "timed_out", "TIMEOUT"),
    ("unavailable", "runtime", "not_available", "SKIPPED"),
    ("error", "push", "load_failed", "FAILED"),
    ("error", "start", "load_failed", "FAILED"),
    ("error", "runtime", "load_failed", "FAILED"),
    ("error", "load", "load_failed", "FAILED"),
    ("error", "inputs", "load_failed", "FAILED"),
    ("error", "first", "run_failed", "FAILED"),
    ("error", "timed", "run_failed", "FAILED"),
    ("something new", "timed", "run_failed", "FAILED"),
]


@pytest.mark.parametrize(("how", "stage", "code", "status"), ENDS)
@pytest.mark.parametrize("good", [0, 5])
def test_a_process_that_ends_badly_ends_the_case(how: str, stage: str, code: str, status: str, good: int) -> None:
    result = assemble(facts.case(), [*facts.processes()[:good], broken(how, stage)], CONTEXT)
    assert (result.status, result.stage) == (status, stage)
    assert [(r.code, r.severity, r.scope, r.message) for r in result.reasons if r.severity != "note"] == [
        (code, "invalid", "case", "went wrong")
    ]


def test_a_process_without_a_message_names_its_stage() -> None:
    result = assemble(facts.case(), [broken("error", "load", "")], CONTEXT)
    assert result.reasons[0].message == "failed in stage load"


@pytest.mark.parametrize("bad", [[], [broken("signal")]])
def test_what_could_not_be_prepared_is_said_of_every_result(bad: list[Process]) -> None:
    failed = ("doze could not be set", "airplane_mode is left alone: it would cut the link")
    result = assemble(facts.case(), [*facts.processes(), *bad], replace(CONTEXT, not_prepared=failed))
    (reason,) = (r for r in result.reasons if r.code == "not_prepared")
    assert (reason.severity, result.status) == ("warn", "CRASHED" if bad else "OK")
    assert all(why in reason.message for why in failed)


def test_the_same_reason_is_given_once() -> None:
    result = assemble(facts.case(), [broken("signal"), broken("signal")], CONTEXT)
    assert len(result.reasons) == 1


def lying(p: Process) -> Process:
    """An honest process of a device that started anew."""
    return replace(p, boot_id=f"boot{p.round}")


# Each row ends with its status; any set of rows together ends with the last one of the set.
PLANTS: dict[str, dict[str, Any]] = {
    "OK": {},
    "INVALID": {"lie": True},
    "FALLBACK": {"delegate": "gpu"},
    "FAILED": {"failure": "workload_failed"},
    "TIMEOUT": {"failure": "timed_out"},
    "CRASHED": {"failure": "worker_died"},
    "LOST": {"failure": "device_lost"},
    "SKIPPED": {"failure": "not_available"},
}


@pytest.mark.parametrize("later", STATUSES)
@pytest.mark.parametrize("earlier", STATUSES)
def test_the_later_status_wins(earlier: str, later: str) -> None:
    plants = [PLANTS[earlier], PLANTS[later]]
    processes = facts.processes()
    if any(plant.get("lie") for plant in plants):
        processes = [lying(p) for p in processes]
    delegate = "cpu"
    if any("delegate" in plant for plant in plants):
        delegate = "gpu"
        processes = [replace(p, placed=facts.placed(nodes=4, delegated=0)) for p in processes]
    failures = [case_reason(plant["failure"], "planted") for plant in plants if "failure" in plant]
    result = assemble(facts.case(delegate=delegate), processes, CONTEXT, failures)
    assert result.status == max(earlier, later, key=STATUSES.index)
    assert result.status == "OK" or result.reasons


@pytest.mark.parametrize("code", STATUS_OF)
def test_every_code_that_ends_a_case_has_a_status_and_can_be_asked_for(code: str) -> None:
    assert STATUS_OF[code] in STATUSES
    assert code in CODES
    result = assemble(facts.case(), [], CONTEXT, [case_reason(code, "so")])
    assert (result.status, [r.code for r in result.reasons]) == (STATUS_OF[code], [code])


def test_no_accelerated_node_is_a_fallback() -> None:
    processes = [replace(p, placed=facts.placed(nodes=4, delegated=0)) for p in facts.processes()]
    result = assemble(facts.case(delegate="gpu"), processes, CONTEXT)
    assert (result.status, result.delegate.coverage, result.delegate.nodes_delegated) == ("FALLBACK", "none", 0)
    assert [r.code for r in result.reasons] == ["fallback"]
    assert assemble(facts.case(), processes, CONTEXT).status == "OK"


def test_a_crash_is_not_also_called_a_fallback() -> None:
    processes = [replace(p, placed=facts.placed(nodes=4, delegated=0)) for p in facts.processes()]
    result = assemble(facts.case(delegate="gpu"), [*processes, broken("signal")], CONTEXT)
    assert (result.status, [r.code for r in result.reasons]) == ("CRASHED", ["worker_died"])


@pytest.mark.parametrize(("delegated", "coverage"), [(4, "full"), (3, "partial")])
def test_coverage(delegated: int, coverage: str) -> None:
    processes = [replace(p, placed=facts.placed(4, delegated)) for p in facts.processes()]
    delegate = assemble(facts.case(delegate="gpu"), processes, CONTEXT).delegate
    assert (delegate.coverage, delegate.nodes, delegate.nodes_delegated) == (coverage, 4, delegated)
    assert (delegate.requested, delegate.used, delegate.adapter, delegate.accelerated_by) == (
        *("gpu", "gpu", "Adreno", "webgpu"),
    )


def test_a_runtime_that_cannot_tell_is_not_accused_of_a_fallback() -> None:
    processes = [replace(p, placed=facts.placed(0, 0, known=False)) for p in facts.processes()]
    result = assemble(facts.case(delegate="gpu"), processes, CONTEXT)
    assert result.status == "OK"
    delegate = result.delegate
    assert (delegate.coverage, delegate.nodes, delegate.nodes_delegated, delegate.partitions) == (
        *("n/a", None, None, None),
    )
    assert delegate.on_cpu is None


def test_what_was_never_measured_is_none() -> None:
    result = assemble(facts.case(), [], Context("adb"), [case_reason("device_lost", "gone")])
    doc = to_doc(result)
    unknown = [
        *("load_ms", "first_inference_ms", "warm_up", "latency_ms", "io_ms", "serial_rate_per_s", "cpu_per_wall"),
        *("run_delay_share", "load_avg", "memory_mb", "energy", "temperature_c", "cpu_mhz", "curve", "profile"),
        *("accuracy", "fidelity", "cpus"),
    ]
    assert {key: doc[key] for key in unknown} == dict.fromkeys(unknown)
    assert set(doc["device_info"].values()) == {None}
    assert {doc["delegate"][key] for key in ("used", "nodes", "nodes_delegated", "partitions", "on_cpu")} == {None}
    assert (doc["model"]["inputs"], doc["model"]["outputs"], doc["samples_ns"]) == (None, None, [])
    assert {m.name: result.metric(m.name) for m in METRICS if m.name != "size"} == {
        m.name: None for m in METRICS if m.name != "size"
    }


def test_readings_that_are_missing_become_none() -> None:
    processes = [replace(p, readings=(), load_ns=None, first_ns=None, warm_up_runs=0) for p in facts.processes()]
    result = assemble(facts.case(), processes, CONTEXT)
    assert result.status == "OK"
    for value in (result.memory_mb, result.temperature_c, result.cpu_mhz, result.cpu_per_wall, result.run_delay_share):
        assert value is None
    assert (result.load_ms, result.first_inference_ms, result.warm_up) == (None, None, None)


def test_what_a_device_does_not_say_is_none() -> None:
    silent = replace(DEVICE, model="", soc="", fingerprint="")
    info = assemble(facts.case(), facts.processes(), replace(CONTEXT, device=silent)).device_info
    assert (info.model, info.soc, info.fingerprint, info.os) == (None, None, None, "Debian 13")


def test_one_process_has_no_interval_and_no_spread_between() -> None:
    latency = facts.latency([facts.process()])
    assert latency is not None
    assert (latency.ci95, latency.stdev_between, latency.p99) == (None, None, None)
    assert latency.stdev_within is not None and latency.stdev_within > 0


def test_samples_of_processes_that_failed_are_left_out() -> None:
    failed = replace(facts.process(5, 99.0), ended=Ended("error", "report", "no placement"))
    result = assemble(facts.case(), [*facts.processes()[:5], failed], CONTEXT)
    assert len(result.samples_ns) == 5
    assert result.latency_ms is not None and result.latency_ms.max is not None
    assert result.latency_ms.max < 50


def test_the_attempt_is_the_highest() -> None:
    processes = facts.processes()
    processes[4] = replace(processes[4], attempt=2)
    assert assemble(facts.case(), processes, CONTEXT).attempt == 2


def lists(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("how", ["ok", "signal"])
def test_a_result_outlives_json(how: str) -> None:
    tensor = Tensor("x", "int8", (1, 2), (0.1, 0.2), (3, 4), 1)
    said = replace(facts.FILE_FACTS, inputs=(tensor,))
    processes = [replace(p, facts=said, placed=facts.placed(4, 3)) for p in facts.processes()]
    if how != "ok":
        processes.append(broken(how))
    case = facts.case(delegate="gpu", cpus=(0, 2), threads=2)
    result = assemble(case, processes, CONTEXT, (), [Fidelity("y", 0.5, None, 0.1)], ACCURACY)
    doc = json.loads(json.dumps(to_doc(result), allow_nan=False))
    again = from_doc(Result, doc)
    assert lists(to_doc(again)) == doc
    assert again == result
    assert again.model.inputs is not None and again.model.inputs[0].quantization is not None
    assert again.model.inputs[0].quantization.axis == 1


def test_keys_of_a_newer_version_are_ignored_and_missing_ones_take_their_default() -> None:
    doc = to_doc(facts.result())
    doc["news"] = 1
    doc["latency_ms"]["p999"] = 2.0
    del doc["energy"]
    assert from_doc(Result, lists(doc)) == facts.result()
