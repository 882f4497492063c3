"""From the wire's events to our own facts, and from a case to a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench.assemble import Context, assemble
from pocketbench.measurement import Tensor
from pocketbench.models import PlacedFile
from pocketbench.plan import Plan
from pocketbench.session import wire
from pocketbench.session.wire import JobFiles
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.unit import facts

EVENTS = [
    pb.Event(mono_ns=100, phase=pb.Phase(name="load", begin=True)),
    pb.Event(mono_ns=850, phase=pb.Phase(name="inputs", begin=True)),
    pb.Event(
        facts=pb.ModelFacts(
            inputs=[
                pb.TensorInfo(name="x", dtype="int8", shape=[1, 2], scale=[0.5, 1], zero_point=[1, 2], has_axis=True)
            ],
            outputs=[pb.TensorInfo(name="y", dtype="float32", shape=[])],
            runtime_version="2.3.0",
            inputs_from="seed",
        )
    ),
    pb.Event(samples=pb.Samples(phase="first", run_ns=[77], io_ns=[0], every=1)),
    pb.Event(outputs=pb.OutputFacts(outputs=[pb.OutputFact(name="y", values=3, nan=1)], constant_checked=True)),
    pb.Event(synchronisation=pb.Synchronisation(run_ns=[5, 6], read_ns=[1, 2], reread_ns=[1, 1])),
    pb.Event(warm_up=pb.WarmUp(runs=40, steady=True)),
    pb.Event(samples=pb.Samples(phase="warm_up", run_ns=[9, 8], io_ns=[1, 1], every=1)),
    pb.Event(samples=pb.Samples(phase="timed", run_ns=[7, 2**40], io_ns=[1, 2], every=1)),
    pb.Event(reading=pb.Reading(source="s", quantity="q", unit="u", t_ns=[1, 2], value=[-3, 4])),
    pb.Event(reading=pb.Reading(source="s", quantity="r", unit="u", missing="no such file")),
    pb.Event(placed=pb.Placed(known=True, nodes=4, delegated=3, on_cpu={"SOFTMAX": 1}, used="gpu")),
    pb.Event(ended=pb.Ended(how=pb.Ended.OK)),
]


def test_a_whole_job() -> None:
    found = wire.process(EVENTS, 3)
    assert (found.round, found.ended.how, found.load_ns, found.first_ns) == (3, "ok", 750, 77)
    assert (found.run_ns.tolist(), found.io_ns.tolist(), found.warm_up_ns.tolist()) == ([7, 2**40], [1, 2], [9, 8])
    assert (found.warm_up_runs, found.warm_up_steady, found.output_constant) == (40, True, False)
    assert (found.probe_run_ns, found.probe_read_ns, found.probe_reread_ns) == ((5, 6), (1, 2), (1, 1))
    assert found.facts is not None
    assert found.facts.inputs == (Tensor("x", "int8", (1, 2), (0.5, 1), (1, 2), 0),)
    assert found.facts.outputs == (Tensor("y", "float32", ()),)
    assert found.placed is not None and (found.placed.delegated, found.placed.on_cpu) == (3, {"SOFTMAX": 1})
    reading = found.reading("s", "q")
    assert reading is not None and (reading.change, reading.value) == (7, (-3, 4))
    missing = found.reading("s", "r")
    assert missing is not None and (missing.change, missing.missing) == (None, "no such file")
    assert found.outputs[0].nan == 1


@pytest.mark.parametrize("length", range(len(EVENTS)))
def test_a_job_that_breaks_off_anywhere_can_be_judged(length: int) -> None:
    found = wire.process(EVENTS[:length], 0)
    assert (found.ended.how, found.ended.stage) == ("no_output", "agent")
    result = assemble(facts.case(), [found], Context("ssh"))
    assert result.status == "CRASHED" and result.reasons and result.latency_ms is None


def test_what_was_not_checked_is_unknown() -> None:
    assert wire.process([pb.Event(outputs=pb.OutputFacts(constant=False))], 0).output_constant is None


def test_every_end_of_the_wire_has_a_name() -> None:
    assert set(wire.HOW) == set(pb.Ended.How.values())
    assert wire.ended(pb.Ended(how=99)).how == "error"  # type: ignore[arg-type]
    said = pb.Ended(how=pb.Ended.SIGNAL, signal=11, stage="timed", message="m", log_tail=["a"])
    found = wire.ended(said)
    assert (found.how, found.signal, found.stage, found.message, found.log_tail) == ("signal", 11, "timed", "m", ("a",))


@given(
    st.sampled_from(["float32", "int8", "uint16", "int64", "bool", "float16"]), st.lists(st.integers(0, 3), max_size=3)
)
def test_arrays_come_through_the_wire(dtype: str, shape: list[int]) -> None:
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    for given_array in (array, array.T):
        (found,) = wire.arrays(wire.tensors([given_array]))
        assert found.dtype == given_array.dtype and np.array_equal(found, given_array)


def test_a_job_carries_its_case() -> None:
    case = facts.case(delegate="gpu", threads=4, cpus=(0, 3), shapes=(("x", (1, 3)),), signature="serve")
    plan = Plan(seed=9, min_runs=5)
    inputs = PlacedFile("inputs.npz", Path("some.npz"), "cd" * 32, 10)
    job = wire.job(case, plan, JobFiles(inputs), "latency", 2)
    assert [(file.path, file.sha256.hex()) for file in job.files] == [("model.onnx", "ab" * 32)]
    assert (job.program.runtime, job.program.delegate, job.program.signature) == ("onnxruntime", "gpu", "serve")
    assert list(job.program.shapes["x"].dims) == [1, 3]
    assert (job.program.inputs.path, job.program.seed) == ("inputs.npz", 9)
    assert (job.placement.threads, list(job.placement.cpus)) == (4, [0, 3])
    assert (job.plan.process_index, job.plan.min_runs, job.deadline_s) == (2, 5, plan.deadline_s)
    assert (job.phase, list(job.meters)) == ("latency", ["thermal", "cpufreq", "cooling", "throttled", "android"])
    assert list(wire.job(case, plan, JobFiles(), "score", 0).meters) == []
    assert not wire.job(case, plan, JobFiles(), "score", 0).program.HasField("inputs")
