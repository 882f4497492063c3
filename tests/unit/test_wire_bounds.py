"""Whatever a device says: it is refused, or what is made of it is a whole result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketbench.assemble import Context, assemble
from pocketbench.report import FORMATS, Report
from pocketbench.session import wire, wire_bounds
from pocketbench_agent.rpc import agent_pb2 as pb
from tests.unit import facts
from tests.unit.test_wire import EVENTS

INTEGERS = {
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
}
WORDS = st.sampled_from(
    [
        "",
        "x",
        "timed",
        "load",
        "first",
        "warm_up",
        "thermal",
        "temperature",
        "float32",
        "object",
        "<b>",
        "../..",
        "\x1b[31m",
    ]
)


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Of one field, the ends of what it can hold among them."""
    if field.type in INTEGERS:
        low, high = INTEGERS[field.type]
        return st.sampled_from([low, 0, 1, high]) | st.integers(max(low, -1000), 10**9)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.floats()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.integers(-1, 99)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=16)
    if field.type == FieldDescriptor.TYPE_STRING:
        return WORDS
    assert field.message_type is not None
    return messages(field.message_type)


def messages(kind: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """As keyword arguments of its class."""
    told: dict[str, st.SearchStrategy[Any]] = {}
    empty = GetMessageClass(kind)()
    for field in kind.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            told[field.name] = st.dictionaries(WORDS, st.integers(0, 2**32 - 1), max_size=3)
        elif not isinstance(getattr(empty, field.name), (str, bytes, int, float, Message)):
            told[field.name] = st.lists(values(field), max_size=4)
        else:
            told[field.name] = values(field)
    return st.fixed_dictionaries({}, optional=told)


def event(field: FieldDescriptor) -> st.SearchStrategy[pb.Event]:
    """An event of that kind."""
    return values(field).map(lambda told: pb.Event(**{field.name: told}))


ANY = st.one_of([event(field) for field in pb.Event.DESCRIPTOR.oneofs_by_name["what"].fields])


@settings(max_examples=200)
@given(st.lists(ANY, min_size=1, max_size=4), st.integers(0, len(EVENTS)))
def test_a_job_that_reports_anything(said: list[pb.Event], place: int) -> None:
    """In the middle of an honest job, or in place of its end."""
    events = [*EVENTS[:place], *said, *EVENTS[place:]]
    try:
        checked = list(wire_bounds.bounded(events))
    except wire_bounds.Nonsense as error:
        assert len(str(error)) < 300
        return
    found = wire.process(checked, 0)
    result = assemble(facts.case(), [found, found], Context("ssh"))
    for form in ("json", "table", "markdown", "csv"):
        text = FORMATS[form](Report("run", (result,), {}, ()))
        assert "\x1b" not in text
        if form == "json":
            json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    "said",
    [
        pb.Event(samples=pb.Samples(phase="timed", run_ns=[2**63])),
        pb.Event(samples=pb.Samples(phase="timed", run_ns=[1, 2], io_ns=[1])),
        pb.Event(statistics=pb.Statistics(mean_ns=float("nan"))),
        pb.Event(facts=pb.ModelFacts(inputs=[pb.TensorInfo(scale=[float("inf")])])),
        pb.Event(facts=pb.ModelFacts(inputs=[pb.TensorInfo(shape=[1] * 33)])),
        pb.Event(placed=pb.Placed(nodes=1, delegated=2)),
        pb.Event(placed=pb.Placed(on_cpu={"x" * 3000: 1})),
        pb.Event(reading=pb.Reading(t_ns=[1], value=[1, 2])),
        pb.Event(tensors=pb.Tensors(t=[pb.Tensor(dtype="object", shape=[1], data=b"12345678")])),
        pb.Event(tensors=pb.Tensors(t=[pb.Tensor(dtype="float32", shape=[2**39, 2**39], data=b"1234")])),
        pb.Event(outputs=pb.OutputFacts(outputs=[pb.OutputFact(values=1, nan=2)])),
        pb.Event(profile=pb.Profile(ops=[pb.OpTime()] * 10_001)),
    ],
)
def test_what_cannot_be_is_refused(said: pb.Event) -> None:
    with pytest.raises(wire_bounds.Nonsense):
        wire_bounds.check(said)


def test_what_is_only_shown_is_cut() -> None:
    said = pb.Event(ended=pb.Ended(message="x" * 10**6, log_tail=["y" * 10**6]))
    wire_bounds.check(said)
    assert len(said.ended.message) == len(said.ended.log_tail[0]) == wire_bounds.MAX_TEXT


def test_events_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_bounds, "MAX_EVENTS", 10)
    with pytest.raises(wire_bounds.Nonsense, match="11 events"):
        list(wire_bounds.bounded(pb.Event() for _ in range(20)))
    monkeypatch.setattr(wire_bounds, "MAX_JOB_BYTES", 1000)
    with pytest.raises(wire_bounds.Nonsense, match="and more to come"):
        list(wire_bounds.bounded([pb.Event(log=pb.LogLine(text="x" * 600))] * 3))
