"""What a device says is not trusted: sizes, counts and numbers are bounded before anything is made of them.

A device may be broken, or hostile. Texts are cut where they are too long, for they are only shown; all else that cannot
be is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pocketbench_agent.rpc import agent_pb2 as pb

MAX_TEXT = 2_000
MAX_ENTRIES = 10_000
# What may be longer: samples of a process, readings of a sensor, jobs that wait, dimensions of nothing.
MAX_OF: Mapping[str, int] = {
    **dict.fromkeys(("Samples.run_ns", "Samples.io_ns", "Samples.at_ns"), 4_000_000),
    **dict.fromkeys(("Reading.t_ns", "Reading.value"), 1_000_000),
    **dict.fromkeys(("TensorInfo.scale", "TensorInfo.zero_point"), 1_000_000),
    "HelloReply.unacknowledged": 100_000,
    "Placed.on_cpu": 1_000,
    **dict.fromkeys(("TensorInfo.shape", "Tensor.shape", "OutputFact.shape"), 32),
    **dict.fromkeys(("Synchronisation.run_ns", "Synchronisation.read_ns", "Synchronisation.reread_ns"), 1_000),
}
# Ten days: no job lasts for so long.
MAX_SPAN_NS = 864_000_000_000_000
MAX_DIMENSION = 2**40
# Of one job: its events, and all of them together.
MAX_EVENTS = 100_000
MAX_JOB_BYTES = 1024 * 1024 * 1024
DTYPES = frozenset(
    ("bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
)


class Nonsense(ValueError):
    """It cannot be true."""


def check(said: Message) -> None:
    """Cut its texts; Nonsense where something of it cannot be."""
    name = said.DESCRIPTOR.name
    for field, value in said.ListFields():
        _field(said, field, value, f"{name}.{field.name}")
    sensible = SENSE.get(name)
    if sensible is not None and not sensible(said):
        raise Nonsense(f"its {name} contradicts itself")


def bounded(events: Iterable[pb.Event]) -> Iterator[pb.Event]:
    """The events of a job as they come, checked; Nonsense also where there is no end of them."""
    size = 0
    for number, event in enumerate(events):
        size += event.ByteSize()
        if number >= MAX_EVENTS or size > MAX_JOB_BYTES:
            raise Nonsense(f"{number + 1} events of {size / 1e6:.0f} MB, and more to come")
        check(event)
        yield event


def _field(said: Message, field: FieldDescriptor, value: Any, name: str) -> None:
    if isinstance(value, Message):
        check(value)
        return
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            setattr(said, field.name, value[:MAX_TEXT])
        return
    if isinstance(value, (bytes, int, float)):
        if isinstance(value, float) and not math.isfinite(value):
            raise Nonsense(f"its {name} is {value}")
        return
    if len(value) > MAX_OF.get(name, MAX_ENTRIES):
        raise Nonsense(f"its {name} has {len(value)} entries")
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if any(len(key) > MAX_TEXT for key in value):
            raise Nonsense(f"a name in its {name} has more than {MAX_TEXT} characters")
    elif field.message_type is not None:
        for each in value:
            check(each)
    elif field.type == field.TYPE_STRING:
        value[:] = [text[:MAX_TEXT] for text in value]
    elif field.type == field.TYPE_DOUBLE:
        if not all(map(math.isfinite, value)):
            raise Nonsense(f"its {name} holds what is no number")
    elif field.type == field.TYPE_UINT64 and field.name.endswith("_ns") and max(value) > MAX_SPAN_NS:
        raise Nonsense(f"its {name} holds {max(value)} ns")


def _samples(said: pb.Samples) -> bool:
    kept = len(said.run_ns)
    return len(said.io_ns) in (0, kept) and len(said.at_ns) in (0, kept) and said.every < 2**31 and said.total < 2**53


def _tensor_info(said: pb.TensorInfo) -> bool:
    return all(-1 <= dim < MAX_DIMENSION for dim in said.shape)


def _tensor(said: pb.Tensor) -> bool:
    if said.dtype not in DTYPES or any(not 0 <= dim < MAX_DIMENSION for dim in said.shape):
        return False
    return math.prod(said.shape) * np.dtype(said.dtype).itemsize == len(said.data)


def _statistics(said: pb.Statistics) -> bool:
    return said.runs < 2**53 and all(
        0 <= value <= MAX_SPAN_NS for field, value in said.ListFields() if field.name.endswith("_ns")
    )


SENSE: Mapping[str, Callable[[Any], bool]] = {
    "Samples": _samples,
    "TensorInfo": _tensor_info,
    "Tensor": _tensor,
    "Statistics": _statistics,
    "Reading": lambda said: len(said.t_ns) == len(said.value),
    "Placed": lambda said: said.delegated <= said.nodes and said.partitions < 2**31,
    "OutputFact": lambda said: said.nan + said.inf <= said.values < 2**53,
    "Synchronisation": lambda said: len(said.run_ns) == len(said.read_ns) == len(said.reread_ns),
    "WarmUp": lambda said: said.runs < 2**53,
    "OpTime": lambda said: said.total_ns <= MAX_SPAN_NS,
}
