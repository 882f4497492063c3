"""A session: one device from opened to closed. The only place where protobuf meets our own dataclasses."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import grpc
from numpy.typing import NDArray

from pocketbench.deploy.agent import RunningAgent
from pocketbench.errors import DeviceBusy, DeviceError, DeviceLost, LeaseLost, NotReachable
from pocketbench.fleet.progress import sending
from pocketbench.measurement import (
    Device,
    Echo,
    Ended,
    EnergyRun,
    Observation,
    Output,
    Process,
    Rounding,
    WorkerEnded,
)
from pocketbench.models import PlacedFile, printable
from pocketbench.plan import Case, Plan
from pocketbench.session import wire, wire_bounds
from pocketbench.session.wire import JobFiles
from pocketbench_agent import PROTOCOL_MAX, PROTOCOL_MIN, chunks
from pocketbench_agent.rpc import agent_pb2 as pb
from pocketbench_agent.rpc import agent_pb2_grpc as rpc
from pocketbench_agent.runtimes import OpTime

CHUNK_BYTES = 1024 * 1024
CALL_TIMEOUT_S = 20.0
# A slow card, and a processor that hashes slowly.
READ_BYTES_S = 10_000_000
GIVE_UP_S = 5.0
LEASE_TTL_S = 90
RENEW_S = 30.0
PUT_BLOB = pb.DESCRIPTOR.services_by_name["Agent"].methods_by_name["PutBlob"]
MAX_HOLDER = 200
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without this a dead link takes 61 s to be noticed, whatever keepalive says.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
)


REPORT = "report"
"""The stage of a job whose events make no sense."""


class NoSpaceOnDevice(DeviceError):
    """The device cannot take the file."""


@dataclass
class Session:
    """An opened device. Every method raises DeviceLost when the link or the agent is gone."""

    device: str
    agent: RunningAgent
    owner: str
    say: Callable[[str], None] = lambda text: None
    info: Device = field(init=False)

    def __post_init__(self) -> None:
        self._channel = grpc.insecure_channel(self.agent.address, options=list(CHANNEL_OPTIONS))
        self._stub = rpc.AgentStub(self._channel)
        self._put_blob = self._channel.stream_unary(
            f"/{PUT_BLOB.containing_service.full_name}/{PUT_BLOB.name}",
            request_serializer=chunks.encode,
            response_deserializer=pb.BlobState.FromString,
        )
        self._epoch = 0
        self._closed = threading.Event()
        self._have: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        self._running = ""
        self._scorer: Scorer | None = None

    def open(self, gone: Callable[[str], bool] = lambda holder: False) -> None:
        """Handshake and lease; that of a holder who is `gone` is taken over.

        NotReachable, or DeviceBusy with who holds it and for how long.
        """
        request = pb.HelloRequest(protocol_min=PROTOCOL_MIN, protocol_max=PROTOCOL_MAX)
        try:
            hello = self._stub.Hello(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata(), wait_for_ready=True)
            wire_bounds.check(hello)
            held = self._take()
            if held.epoch == 0 and gone(held.holder):
                held = self._take(instead_of=held.holder)
        except grpc.RpcError as error:
            raise NotReachable(f"{self.device}: the agent refused the session: {_detail(error)}") from error
        except wire_bounds.Nonsense as error:
            raise NotReachable(f"{self.device}: what its agent says makes no sense: {error}") from error
        if held.epoch == 0:
            holder = printable(held.holder[:MAX_HOLDER])
            raise DeviceBusy(f"{self.device}: in use by {holder} for {held.left_s} s more", held.holder)
        self._epoch = held.epoch
        self._kept = frozenset(job.job_id for job in hello.unacknowledged)
        self.info = wire.device(hello)
        threading.Thread(target=self._renew, name=f"{self.device}-lease", daemon=True).start()

    def keeps(self, job_id: str) -> bool:
        """Did the agent, when the session opened, have that job already, running or done?"""
        return job_id in self._kept

    def put(self, files: Sequence[PlacedFile]) -> int:
        """Send what the device does not have yet; returns the bytes sent. NoSpaceOnDevice when it is full."""
        missing = [file for file in files if file.sha256 not in self._have]
        if not missing:
            return 0
        # What the device has it reads once, to see whether it is still what it was.
        timeout = CALL_TIMEOUT_S + sum(file.bytes for file in missing) / READ_BYTES_S
        asked = pb.BlobList(sha256=[bytes.fromhex(file.sha256) for file in missing])
        with self._errors():
            states = self._stub.HaveBlobs(asked, timeout=timeout, metadata=self._metadata())
            if len(states.blobs) != len(missing):
                raise wire_bounds.Nonsense(f"{len(states.blobs)} answers about {len(missing)} files")
            for file, state in zip(missing, states.blobs, strict=True):
                if state.committed > file.bytes:
                    raise wire_bounds.Nonsense(f"it has {state.committed} of {file.bytes} bytes of a file")
        sent = 0
        for file, state in zip(missing, states.blobs, strict=True):
            if not state.complete:
                told = sending(self.say, f"{self.device}: sending {printable(file.name)}", file.bytes)
                with self._errors():
                    parts = _chunks(file, state.committed, told)
                    arrived = self._put_blob(parts, timeout=3600.0, metadata=self._metadata())
                if not arrived.complete:
                    whole = f"{arrived.committed} of {file.bytes} bytes of {printable(file.name)} arrived"
                    raise NoSpaceOnDevice(f"{self.device}: {whole}: did the file change while it was sent?")
                sent += file.bytes - state.committed
            self._have.add(file.sha256)
        return sent

    def observe(self, window_s: float, meters: Sequence[str] = ()) -> Observation:
        """The device's heat, load and clocks now, and what the named meters read."""
        with self._errors():
            seen = self._stub.Observe(pb.ObserveRequest(window_s=window_s, meters=meters), **self._call())
            wire_bounds.check(seen)
        return Observation(tuple(wire.reading(reading) for reading in seen.readings), seen.boot_id)

    def measure(
        self,
        case: Case,
        plan: Plan,
        files: JobFiles,
        round_index: int,
        job_id: str,
        started: Callable[[], None] = lambda: None,
    ) -> Process:
        """Run one process of a case and collect what it measured; the agent keeps it until `acknowledge`.

        `started` is called when the worker has the model loaded, or is not going to.
        A job that the agent knows already (the host died after it had begun) is not run again.
        """
        job = self._job(case, plan, files, "latency", round_index)
        job.job_id = job_id
        events = self._run(job, started)
        return replace(wire.process(events, round_index), job_id=job.job_id)

    def echo(self, times: int = 8) -> Echo:
        """The device's monotonic clock against this host's: the quickest of several answers bounds it best."""
        found = []
        for _ in range(times):
            sent = time.perf_counter_ns()
            with self._errors():
                said = self._stub.Clock(pb.ClockRequest(host_send_ns=sent), **self._call())
            half = (time.perf_counter_ns() - sent) // 2
            found.append(Echo(said.mono_ns - sent - half, half))
        return min(found, key=lambda one: one.bound_ns)

    def start_energy(self, case: Case, plan: Plan, files: JobFiles, job_id: str) -> None:
        """Begin the energy phase; it runs detached, so that its supply, and the link with it, may be cut."""
        job = self._job(case, plan, files, "energy", 0)
        job.job_id = job_id
        with self._errors():
            self._stub.Start(job, **self._call())

    def energy(self, job_id: str, timeout_s: float) -> EnergyRun:
        """Wait for the energy phase and collect what it measured."""
        self._running = job_id
        try:
            return wire.energy_run(self._watch(job_id, timeout_s))
        finally:
            self._running = ""

    def acknowledge(self, job_id: str) -> None:
        """The job's events are stored: the agent may delete them."""
        with self._errors():
            self._stub.Acknowledge(pb.JobRef(job_id=job_id), **self._call())

    def reference(self, case: Case, plan: Plan, files: JobFiles) -> tuple[Ended, list[Output]]:
        """One inference of a case with its outputs kept."""
        return wire.outputs(self._ask(case, plan, files, "reference"))

    def rounding(self, case: Case, plan: Plan, files: JobFiles) -> list[Rounding] | None:
        """How far each output moves when only the rounding changes; None where the runtime cannot tell."""
        ended, found = wire.outputs(self._ask(case, plan, files, "rounding"))
        if ended.how != "ok" or not found or found[0].array.ndim != 2 or found[0].array.shape[1] != 2:
            return None
        return [Rounding(*map(float, row)) for row in found[0].array]

    def profile(self, case: Case, plan: Plan, files: JobFiles) -> list[OpTime] | None:
        """Time by kind of op, in a session of its own; None where the runtime does not tell."""
        return wire.profile(self._ask(case, plan, files, "profile"))

    @contextlib.contextmanager
    def scoring(self, case: Case, plan: Plan, files: JobFiles) -> Iterator[Scorer]:
        """A loaded model that answers arrays with arrays."""
        job = self._job(case, plan, files, "score", 0)
        job.deadline_s = 24 * 3600
        self._scorer = scorer = Scorer(self, job, plan.deadline_s)
        try:
            yield scorer
        finally:
            self._scorer = None
            scorer.close()

    def cancel(self) -> None:
        """End the running job now, from another thread; a device that is gone needs no cancelling."""
        scorer = self._scorer
        if scorer is not None:
            scorer.cancel()
        with contextlib.suppress(DeviceError), self._errors():
            if self._running:
                self._stub.Cancel(pb.JobRef(job_id=self._running), **self._call())

    def close(self) -> None:
        """Give the lease back and hang up."""
        self._closed.set()
        with contextlib.suppress(grpc.RpcError, ValueError):
            self._stub.Lease(
                pb.LeaseRequest(op=pb.LeaseRequest.RELEASE, epoch=self._epoch), timeout=2.0, metadata=self._metadata()
            )
        self._channel.close()

    def _job(self, case: Case, plan: Plan, files: JobFiles, phase: str, round_index: int) -> pb.Job:
        self.put([*case.files, *files.placed()])
        if self.agent.place is not None:
            tool = case.tool.files if case.tool is not None else ()
            self.agent.place([case.model.files, case.setup.files, tool])
        return wire.job(case, plan, files, phase, round_index)

    def _ask(self, case: Case, plan: Plan, files: JobFiles, phase: str) -> list[pb.Event]:
        """Events of a job that is asked about the case, and that nobody comes back to."""
        job = self._job(case, plan, files, phase, 0)
        job.job_id, job.plan.keep_outputs = uuid.uuid4().hex, phase == "reference"
        events = self._run(job)
        self.acknowledge(job.job_id)
        return events

    def _run(self, job: pb.Job, started: Callable[[], None] = lambda: None) -> list[pb.Event]:
        self._running = job.job_id
        try:
            with self._errors():
                self._stub.Start(job, **self._call())
            return self._watch(job.job_id, job.deadline_s + 30.0, started)
        finally:
            self._running = ""

    def _watch(self, job_id: str, timeout_s: float, started: Callable[[], None] = lambda: None) -> list[pb.Event]:
        """All that a job has to say; where that makes no sense it has failed, and its events end there."""
        events: list[pb.Event] = []
        watch = pb.JobRef(job_id=job_id, from_seq=1)
        with self._errors():
            answers = self._stub.Watch(watch, timeout=timeout_s, metadata=self._metadata())
            try:
                for event in wire_bounds.bounded(answers):
                    events.append(event)
                    if event.HasField("phase") and event.phase.name in ("first", "warm_up", "timed"):
                        started()
            except wire_bounds.Nonsense as error:
                answers.cancel()  # type: ignore[no-untyped-call]
                self._give_up(job_id)
                message = f"what the device reports makes no sense: {error}"
                events.append(pb.Event(ended=pb.Ended(how=pb.Ended.ERROR, stage=REPORT, message=message)))
        return events

    def _give_up(self, job_id: str) -> None:
        """End a job that reports nonsense, and wait a moment until it has ended."""
        self._stub.Cancel(pb.JobRef(job_id=job_id), **self._call())
        beyond = pb.JobRef(job_id=job_id, from_seq=2**63)
        with contextlib.suppress(grpc.RpcError):
            list(self._stub.Watch(beyond, timeout=GIVE_UP_S, metadata=self._metadata()))

    def _take(self, instead_of: str = "") -> pb.LeaseReply:
        request = pb.LeaseRequest(op=pb.LeaseRequest.TAKE, owner=self.owner, ttl_s=LEASE_TTL_S, instead_of=instead_of)
        return self._stub.Lease(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata())

    def _renew(self) -> None:
        while not self._closed.wait(RENEW_S):
            with contextlib.suppress(grpc.RpcError, ValueError):
                self._stub.Lease(
                    pb.LeaseRequest(op=pb.LeaseRequest.RENEW, epoch=self._epoch, ttl_s=LEASE_TTL_S),
                    timeout=CALL_TIMEOUT_S,
                    metadata=self._metadata(),
                )

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self.agent.token), ("epoch", str(self._epoch)))

    def _call(self) -> Mapping[str, Any]:
        return {"timeout": CALL_TIMEOUT_S, "metadata": self._metadata()}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._translate(error) from error
        except wire_bounds.Nonsense as error:
            raise DeviceLost(f"{self.device}: what its agent says makes no sense: {error}") from error

    def _translate(self, error: grpc.RpcError) -> DeviceError:
        code = error.code() if isinstance(error, grpc.Call) else None
        message = f"{self.device}: {_detail(error)}"
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" not in message:
            return NoSpaceOnDevice(message)
        if code == grpc.StatusCode.PERMISSION_DENIED:
            return LeaseLost(message)
        return DeviceLost(message)


class Scorer:
    """A stream of inferences; `call` raises WorkerEnded when the worker gave up, hung or was told to stop."""

    def __init__(self, session: Session, job: pb.Job, patience_s: float) -> None:
        self._session, self._patience_s = session, patience_s
        self._requests = wire.Requests(job)
        self._answers = session._stub.Infer(iter(self._requests), metadata=session._metadata())
        self._timed_out = False
        self._asked_s = time.monotonic()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name=f"{session.device}-scoring", daemon=True).start()
        self.facts = wire.facts(self._next("facts").facts)

    def call(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs for inputs, both in stored values, in the file's order."""
        self._asked_s = time.monotonic()
        self._requests.send(wire.tensors(arrays))
        event = self._next("tensors")
        self._asked_s = math.inf
        return wire.arrays(event.tensors)

    def cancel(self) -> None:
        """End the stream now."""
        self._answers.cancel()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """No more inferences; a stream that is gone already needs no closing."""
        self._closed.set()
        self._requests.end()
        self._answers.cancel()  # type: ignore[no-untyped-call]

    def _watch(self) -> None:
        """No call waits for ever: a model that hangs ends as timed out."""
        while not self._closed.wait(1.0):
            if time.monotonic() - self._asked_s > self._patience_s:
                self._timed_out = True
                self.cancel()
                return

    def _next(self, kind: Literal["facts", "tensors"]) -> pb.Event:
        try:
            for event in wire_bounds.bounded(self._answers):
                if event.HasField("ended"):
                    raise WorkerEnded(wire.ended(event.ended))
                if event.HasField(kind):
                    return event
        except wire_bounds.Nonsense as error:
            self.cancel()
            message = f"what the device reports makes no sense: {error}"
            raise WorkerEnded(Ended("error", REPORT, message)) from error
        except grpc.RpcError as error:
            if self._timed_out:
                message = f"an inference did not end within {self._patience_s:.0f} s"
                raise WorkerEnded(Ended("timeout", "score", message)) from error
            if isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.CANCELLED:
                raise WorkerEnded(Ended("cancelled", "score", "stopped")) from error
            raise self._session._translate(error) from error
        raise DeviceLost(f"{self._session.device}: the scoring stream ended early")


def _chunks(file: PlacedFile, offset: int, sent: Callable[[int], None]) -> Iterator[chunks.Chunk]:
    sha256 = bytes.fromhex(file.sha256)
    with Path(file.path).open("rb", buffering=0) as source:
        source.seek(offset)
        while True:
            data = source.read(CHUNK_BYTES)
            if not data and offset < file.bytes:
                return
            yield chunks.Chunk(sha256, offset, file.bytes, data)
            offset += len(data)
            sent(offset)
            if offset >= file.bytes:
                return


def _detail(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.Call):
        code, details = error.code(), error.details() or ""
        known = {
            grpc.StatusCode.UNAVAILABLE: "the agent or the link to it is gone",
            grpc.StatusCode.DEADLINE_EXCEEDED: "the agent did not answer in time",
            grpc.StatusCode.UNAUTHENTICATED: "the agent does not accept this session's token",
        }
        return known.get(code, printable(details[: wire_bounds.MAX_TEXT]))
    return str(error)
