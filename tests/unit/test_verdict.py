"""One lie for each reason: it is found, it alone, and its honest neighbour passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pocketbench.measurement import EMPTY, OutputFact, Process, Reading, Told
from pocketbench.results import Accuracy, Fidelity
from pocketbench.verdict import verdict
from pocketbench.verdict.verdict import Evidence
from tests.unit import facts
from tests.unit.facts import BEGIN_NS, LEVELS_MS, MS, SPAN_NS


def loud(evidence: Evidence) -> dict[str, str]:
    """Severity by code, notes aside."""
    return {r.code: r.severity for r in verdict.judge(evidence) if r.severity != "note"}


def notes(evidence: Evidence) -> set[str]:
    """The codes of the notes."""
    return {r.code for r in verdict.judge(evidence) if r.severity == "note"}


def only(evidence: Evidence, code: str, severity: str) -> str:
    """Assert that this code alone was found; its message."""
    assert loud(evidence) == {code: severity}
    assert verdict.status(verdict.judge(evidence)) == ("INVALID" if severity == "invalid" else "OK")
    return next(r.message for r in verdict.judge(evidence) if r.code == code)


def one(change: Callable[[Process], Process]) -> Evidence:
    """The lie in one process of six."""
    made = facts.processes()
    made[2] = change(made[2])
    return facts.evidence(made)


def each(change: Callable[[Process], Process]) -> Evidence:
    """The lie in every process."""
    return facts.evidence([change(process) for process in facts.processes()])


def test_honest_facts_have_no_reason_at_all() -> None:
    assert verdict.judge(facts.evidence()) == []


def waiting(ns: int) -> Callable[[Process], Process]:
    return lambda p: replace(p, probe_read_ns=(ns + 11_000,) * 5)


def test_unsynchronised() -> None:
    message = only(each(waiting(1_100_000)), "unsynchronised", "invalid")
    assert "10 ms" in message and "1.1 ms" in message
    assert loud(each(waiting(990_000))) == {}


def test_unsynchronised_is_not_found_in_the_read_of_a_short_model() -> None:
    def short(wait_ns: int) -> Evidence:
        return each(
            lambda p: replace(p, probe_run_ns=(3_000,) * 5, probe_read_ns=(wait_ns,) * 5, probe_reread_ns=(0,) * 5)
        )

    assert loud(short(20_000)) == {}
    assert set(loud(short(20_001))) == {"unsynchronised"}


def test_unsynchronised_outlives_one_disturbed_probe() -> None:
    assert loud(one(waiting(50 * MS))) == {}


def test_unsynchronised_is_not_found_where_reads_wait_for_a_core() -> None:
    """Two of three, by chance: who returns early always does."""
    busy = (11_000, 8 * MS, 9 * MS, 8 * MS, 11_000)
    assert loud(each(lambda p: replace(p, probe_read_ns=busy))) == {}


def fastest(ns: int) -> Callable[[Process], Process]:
    def change(p: Process) -> Process:
        run_ns = p.run_ns.copy()
        run_ns[5] = ns
        return replace(p, run_ns=run_ns)

    return change


@pytest.mark.parametrize("ns", [0, 50])
def test_implausible_latency(ns: int) -> None:
    only(one(fastest(ns)), "implausible_latency", "invalid")


def test_implausible_latency_passes_what_a_call_may_take() -> None:
    assert loud(one(fastest(51))) == {}


def test_implausible_latency_of_the_null_runtime_is_zero_alone() -> None:
    assert loud(replace(one(fastest(1)), null_runtime=True)) == {}
    assert loud(replace(one(fastest(0)), null_runtime=True)) == {"implausible_latency": "invalid"}


@pytest.mark.parametrize(("nan", "inf"), [(1, 0), (0, 1)])
def test_output_nan(nan: int, inf: int) -> None:
    def lie(p: Process) -> Process:
        return replace(p, outputs=(OutputFact("y", 10, 0, 0, ""), OutputFact("z", 10, nan, inf, "")))

    assert "'z' holds 1 NaN or infinite of 10" in only(one(lie), "output_nan", "invalid")


def test_output_mismatch() -> None:
    near, far = Fidelity("y", 0.99, 0.001, 0.001), Fidelity("y", 0.99, 0.0011, 0.001)
    message = only(facts.evidence(fidelity=(near, far)), "output_mismatch", "invalid")
    assert "cosine 0.9900" in message and "0.0011" in message
    assert loud(facts.evidence(fidelity=(near,))) == {}


def test_output_mismatch_where_there_is_nothing_to_compare_with() -> None:
    message = only(facts.evidence(fidelity=(Fidelity("y", None, None, 0.0),)), "output_mismatch", "invalid")
    assert "not comparable" in message


def reads(*readings: Reading) -> Callable[[Process], Process]:
    def change(p: Process) -> Process:
        for reading in readings:
            p = facts.with_reading(p, reading)
        return p

    return change


@pytest.mark.parametrize(
    "reading",
    [
        facts.two("cpufreq:policy0", "ceiling", "khz", 2_400_000, 1_800_000),
        facts.two("cooling:cooling_device0:cpufreq-cpu0", "state", "state", 0, 2),
        facts.two("cooling:cooling_device1:Processor", "state", "state", 1, 0),
        *(
            facts.two(f"cooling:cooling_device2:{kind}", "state", "state", 0, 1)
            for kind in ("thermal-devfreq-0", "cdsp", "nsp0", "npu-cooling", "rknpu", "tpu_cooling", "edgetpu", "apu")
        ),
        facts.two("android", "thermal_status", "status", 0, 2),
        facts.two("raspberry", "throttled", "bits", 0x50000, 0x50004),
        facts.two("raspberry", "throttled", "bits", 0x10000, 0x50000),
    ],
    ids=lambda reading: reading.source.rpartition(":")[2],
)
def test_throttled(reading: Reading) -> None:
    only(one(reads(reading)), "throttled", "invalid")


def test_throttled_where_the_ceiling_fell_between_processes() -> None:
    lower = facts.two("cpufreq:policy0", "ceiling", "khz", 1_800_000, 1_800_000)
    assert "from 2400 to 1800 MHz" in only(one(reads(lower)), "throttled", "invalid")


@pytest.mark.parametrize(
    "reading",
    [
        facts.two("cooling:cooling_device0:pwm-fan", "state", "state", 0, 4),
        facts.two("cooling:cooling_device2:intel_powerclamp", "state", "state", -1, -1),
        *(
            facts.two(f"cooling:cooling_device1:{kind}", "state", "state", 0, 4)
            for kind in ("cpu-fan", "gpu_fan", "Fan", "usb-input-limit", "hdmi-output", "transport", "battery")
        ),
        facts.two("android", "thermal_status", "status", 0, 1),
        facts.two("raspberry", "throttled", "bits", 0x50000, 0x50000),
        facts.two("cpufreq:policy0", "ceiling", "khz", 2_400_000, 2_399_000),
    ],
    ids=lambda reading: reading.source.rpartition(":")[2],
)
def test_throttled_is_not_a_fan_or_what_was_before(reading: Reading) -> None:
    assert loud(each(reads(reading))) == {}


def test_throttled_is_what_the_sustained_scenario_asks_for() -> None:
    hot = one(reads(facts.two("android", "thermal_status", "status", 0, 3)))
    only(replace(hot, sustained=True), "throttled", "warn")


def test_background_cpuset() -> None:
    only(one(reads(Reading("android", "background", "flag", (BEGIN_NS,), (1,)))), "background_cpuset", "warn")


def test_battery_saver() -> None:
    only(one(reads(Reading("android", "battery_saver", "flag", (BEGIN_NS,), (1,)))), "battery_saver", "warn")
    assert loud(each(reads(Reading("android", "battery_saver", "flag", (BEGIN_NS,), (0,))))) == {}


def test_rebooted() -> None:
    only(one(lambda p: replace(p, boot_id="another")), "rebooted", "invalid")
    assert loud(one(lambda p: replace(p, boot_id=""))) == {}


def clock(name: str, ahead_ns: int, first: int = BEGIN_NS) -> Callable[[Process], Process]:
    return lambda p: facts.with_reading(p, facts.two("clock", name, "ns", first, first + SPAN_NS + ahead_ns))


@pytest.mark.parametrize("sign", [1, -1])
def test_clock_jumped(sign: int) -> None:
    only(one(clock("realtime", sign * 500 * MS)), "clock_jumped", "invalid")
    assert loud(one(clock("realtime", sign * 499 * MS))) == {}


def test_suspended() -> None:
    only(one(clock("boottime", 100 * MS)), "suspended", "invalid")
    assert loud(one(clock("boottime", 99 * MS))) == {}


def test_a_long_sleep_is_no_jump_of_the_wall_clock() -> None:
    asleep_ns = 30_000 * MS
    slept = clock("boottime", asleep_ns)
    assert "30.0 s" in only(one(lambda p: clock("realtime", asleep_ns)(slept(p))), "suspended", "invalid")
    jumped = one(lambda p: clock("realtime", asleep_ns + 600 * MS)(slept(p)))
    assert set(loud(jumped)) == {"suspended", "clock_jumped"}


def test_clocks_that_are_not_offered_accuse_nobody() -> None:
    def silent(p: Process) -> Process:
        for name in ("boottime", "realtime"):
            p = facts.with_reading(p, Reading("clock", name, "ns", missing="not offered by this system"))
        return p

    assert loud(each(silent)) == {}


def test_too_few_samples() -> None:
    assert "7 timed runs; 8" in only(one(lambda p: replace(p, run_ns=p.run_ns[:7])), "too_few_samples", "invalid")
    assert loud(one(lambda p: replace(p, run_ns=p.run_ns[:8]))) == {}


def spread(levels: list[float]) -> Evidence:
    return facts.evidence([facts.process(index, level) for index, level in enumerate(levels)])


def test_unstable_where_processes_disagree() -> None:
    only(spread([10.0, 10.9, 9.6, 10.8, 9.7, 10.2]), "unstable", "warn")
    assert loud(spread([10.0, 10.4, 9.8, 10.4, 9.7, 10.2])) == {}


def test_drift() -> None:
    rising = [10.0 * (1 + 0.01 * k) for k in range(6)]
    assert "up by 5 %" in only(spread(rising), "drift", "warn").replace("5%", "5 %")
    assert set(loud(spread(rising[::-1]))) == {"drift"}
    assert loud(spread([10.0 * (1 + 0.005 * k) for k in range(6)])) == {}


def test_drift_is_not_found_in_the_same_values_shuffled() -> None:
    assert "drift" not in loud(spread([10.3, 10.0, 10.5, 10.1, 10.4, 10.2]))


def cold(share: float) -> Callable[[Process], Process]:
    ramp = np.array([10 * MS] * 30 + [round(10 * MS * (1 - share))] * 10, np.int64)
    return lambda p: replace(p, warm_up_ns=ramp)


def test_warm_up_not_steady() -> None:
    made = facts.processes()
    made[:3] = [cold(0.04)(p) for p in made[:3]]
    assert "3 of 6" in only(facts.evidence(made), "warm_up_not_steady", "warn")
    made[2] = facts.process(2, LEVELS_MS[2])
    assert loud(facts.evidence(made)) == {}
    assert loud(each(cold(0.029))) == {}


def worker(quantity: str, last: int) -> Callable[[Process], Process]:
    return lambda p: facts.with_reading(p, facts.two("worker", quantity, "ns", 0, last))


def test_background_load_where_the_worker_waits_for_a_core() -> None:
    message = only(each(worker("run_delay", SPAN_NS * 21 // 1000)), "background_load", "warn")
    assert "2%" in message and "stolen" not in message
    assert loud(each(worker("run_delay", SPAN_NS * 20 // 1000))) == {}


def test_background_load_where_time_is_stolen() -> None:
    def stolen(ticks: int) -> Callable[[Process], Process]:
        return lambda p: facts.with_reading(p, facts.two("system", "stolen", "ticks", 3, 3 + ticks))

    assert "stolen" in only(one(stolen(17)), "background_load", "warn")
    assert loud(one(stolen(16))) == {}


def test_hot_start() -> None:
    assert "1 of 6" in only(one(lambda p: replace(p, hot_start=True)), "hot_start", "warn")


def test_swapped() -> None:
    assert "4.2 MB" in only(one(worker("swap", 4_200_000)), "swapped", "warn")


def test_output_constant() -> None:
    only(one(lambda p: replace(p, output_constant=True)), "output_constant", "warn")
    assert loud(each(lambda p: replace(p, output_constant=None))) == {}


def noted(evidence: Evidence, code: str) -> None:
    """Assert that this note alone was made, and that it costs nothing."""
    assert notes(evidence) == {code}
    assert loud(evidence) == {}


def test_inputs_random() -> None:
    noted(each(lambda p: replace(p, facts=replace(facts.FILE_FACTS, inputs_from="seed"))), "inputs_random")


def test_frequency_unpinned() -> None:
    moving = facts.two("cpufreq:policy0", "frequency", "khz", 1_500_000, 2_400_000)
    noted(one(lambda p: facts.with_reading(p, moving)), "frequency_unpinned")
    unseen = Reading("cpufreq:policy0", "frequency", "khz", missing="no cpufreq is offered")
    noted(each(lambda p: facts.with_reading(p, unseen)), "frequency_unpinned")


def test_percentile_withheld() -> None:
    few = [replace(p, run_ns=p.run_ns[:100]) for p in facts.processes()]
    noted(facts.evidence(few), "percentile_withheld")
    message = verdict.judge(facts.evidence(few))[0].message
    assert "p99" in message and "p95" not in message


def test_percentile_withheld_where_the_bound_is_far() -> None:
    rng = np.random.default_rng(8)

    def tailed(p: Process) -> Process:
        run_ns = p.run_ns.copy()
        slow = rng.random(len(run_ns)) < 0.011
        run_ns[slow] *= rng.integers(2, 40, int(slow.sum()))
        return replace(p, run_ns=run_ns)

    evidence = each(tailed)
    assert evidence.latency is not None
    assert evidence.latency.p99 is None and evidence.latency.p99_upper is None
    assert evidence.latency.p90 is not None
    noted(evidence, "percentile_withheld")


def test_no_thermal_sensor() -> None:
    noted(facts.evidence(has_thermal_sensor=False), "no_thermal_sensor")


def test_emulated() -> None:
    noted(facts.evidence(emulated_by="qemu-user"), "emulated")


def test_runtime_differs() -> None:
    found = verdict.runtime_differs({"litert": {"2.3.0"}, "onnxruntime": {"1.32.0", "1.31.0"}})
    assert set(found) == {"onnxruntime"}
    reason = found["onnxruntime"]
    assert (reason.code, reason.severity) == ("runtime_differs", "warn")
    assert "1.31.0, 1.32.0" in reason.message


def test_invalid_reasons_come_first() -> None:
    def lie(p: Process) -> Process:
        return replace(p, hot_start=True, boot_id=f"boot{p.round}", facts=replace(facts.FILE_FACTS, inputs_from="seed"))

    assert [r.severity for r in verdict.judge(each(lie))] == ["invalid", "warn", "note"]


@pytest.mark.parametrize(
    ("severity", "scope", "expected"),
    [
        ("invalid", "latency", "INVALID"),
        ("invalid", "case", "INVALID"),
        ("invalid", "energy", "OK"),
        ("warn", "latency", "OK"),
        ("note", "case", "OK"),
    ],
)
def test_validity_is_per_metric(severity: str, scope: str, expected: str) -> None:
    assert verdict.status([facts.reason("some_code", severity, scope=scope)]) == expected


def test_no_process_is_too_few_samples_and_nothing_else() -> None:
    assert set(loud(facts.evidence([]))) == {"too_few_samples"}


def test_the_message_of_every_reason_is_one_line() -> None:
    changes: dict[str, Any] = {"outputs": (OutputFact("a\nb", 3, 1, 0, ""),), "hot_start": True, "boot_id": "x"}
    for reason in verdict.judge(one(lambda p: replace(p, **changes))):
        assert "\n" not in reason.message


def test_fidelity_unavailable() -> None:
    noted(facts.evidence(fidelity=None), "fidelity_unavailable")


def planted(nodes: int, delegated: int, known: bool = True, delegate: str = "gpu", adapter: str = "") -> Evidence:
    placed = replace(facts.placed(nodes, delegated, known), adapter=adapter or "Adreno 740")
    return facts.evidence(delegate=delegate, placed=placed)


def test_partial_delegation() -> None:
    message = only(planted(10, 7), "partial_delegation", "warn")
    assert message == "3 of 10 nodes ran on the CPU (SOFTMAX x3), the rest in 1 partition"
    # All of it is full, none of it is FALLBACK; on the CPU XNNPACK's share is nobody's disappointment.
    for honest in (planted(10, 10), planted(10, 0), planted(10, 7, delegate="cpu"), planted(10, 7, known=False)):
        assert loud(honest) == {}


def test_coverage_unknown() -> None:
    noted(planted(0, 0, known=False), "coverage_unknown")
    assert "coverage_unknown" not in notes(planted(10, 10))


@pytest.mark.parametrize(
    "adapter",
    [
        "llvmpipe (LLVM 15.0.6, 256 bits)",
        "SwiftShader Device (Subzero)",
        "Microsoft Basic Render Driver",
        "QNN HTP simulator (x86_64)",
    ],
)
def test_software_adapter(adapter: str) -> None:
    noted(planted(10, 10, adapter=adapter), "software_adapter")
    assert "software_adapter" not in notes(planted(10, 10))


def by_tool(**told: Any) -> list[Process]:
    """Processes of a vendor's tool: statistics, and no samples."""
    said = replace(facts.FILE_FACTS, inputs_from="tool", inputs=(), outputs=())
    none: dict[str, Any] = {
        "run_ns": EMPTY,
        "io_ns": EMPTY,
        "warm_up_ns": EMPTY,
        "outputs": (),
        "output_constant": None,
    }
    probes: dict[str, Any] = {"probe_run_ns": (), "probe_read_ns": (), "probe_reread_ns": ()}
    figures = {"runs": 60, "mean_ns": 7e6, "min_ns": 6e6, "max_ns": 9e6, **told}
    return [replace(p, facts=said, told=Told(**figures), **none, **probes) for p in facts.processes()]


def test_told_by_tool() -> None:
    noted(facts.evidence(by_tool(median_ns=7e6)), "told_by_tool")
    assert "told_by_tool" not in notes(facts.evidence())
    mean = next(r for r in verdict.judge(facts.evidence(by_tool())) if r.code == "told_by_tool")
    assert mean.message.endswith("nor a median, so that there is no p50")
    # What holds for samples holds for what is told of them.
    assert loud(facts.evidence(by_tool(median_ns=7e6))) == {}
    only(facts.evidence(by_tool(median_ns=7e6, runs=5)), "too_few_samples", "invalid")
    only(facts.evidence(by_tool(median_ns=0.0, min_ns=0.0)), "implausible_latency", "invalid")
    only(facts.evidence(by_tool(min_ns=0.0)), "implausible_latency", "invalid")


def test_driven_from_host() -> None:
    noted(facts.evidence(driven=True), "driven_from_host")
    assert "driven_from_host" not in notes(facts.evidence(by_tool(median_ns=7e6)))


def test_runtime_changed() -> None:
    first, *rest = facts.processes()
    other = replace(first, facts=replace(facts.FILE_FACTS, runtime_version="1.33.0"))
    assert "1.33.0, 1.32.0" in only(facts.evidence([other, *rest]), "runtime_changed", "invalid")


def test_every_code_of_the_table_is_planted_here() -> None:
    tests = [name for name in globals() if name.startswith("test_")]
    codes = [check.__name__ for check in verdict.CHECKS] + ["runtime_differs"]
    assert [code for code in codes if not any(name.startswith(f"test_{code}") for name in tests)] == []


def test_codes_are_named_once() -> None:
    assert len(set(verdict.CODES)) == len(verdict.CODES)


def test_slower_than_original() -> None:
    before = facts.processes()
    slower = [facts.process(index, 1.2 * level) for index, level in enumerate(LEVELS_MS)]
    message = only(facts.evidence(slower, original=before), "slower_than_original", "warn")
    assert message == "takes 1.20 times as long as the original"
    assert loud(facts.evidence(before, original=slower)) == {}
    assert loud(facts.evidence(before, original=before)) == {}
    # Two per cent are no reason to warn, and an original that did not run is none either.
    little = [facts.process(index, 1.02 * level) for index, level in enumerate(LEVELS_MS)]
    assert loud(facts.evidence(little, original=before)) == {}
    assert loud(facts.evidence(slower, original=before[:3])) == {}


@pytest.mark.parametrize(
    ("difference", "interval", "higher", "found"),
    [
        (-0.02, (-0.03, -0.01), True, {"accuracy_dropped": "warn"}),
        (-0.02, (-0.05, 0.01), True, {}),
        (0.02, (0.01, 0.03), True, {}),
        (0.02, (0.01, 0.03), False, {"accuracy_dropped": "warn"}),
        (None, None, True, {}),
    ],
)
def test_accuracy_dropped(difference: Any, interval: Any, higher: bool, found: dict[str, str]) -> None:
    accuracy = Accuracy("top-1", 0.8, (0.7, 0.9), 100, 0.82, difference, interval, higher, {})
    assert loud(facts.evidence(accuracy=accuracy)) == found
