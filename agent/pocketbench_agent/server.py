"""The gRPC side of the agent: token and lease on every call, blobs, jobs, scoring."""

from __future__ import annotations

import hmac
import importlib.util
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from pocketbench_agent import PROTOCOL_MAX, PROTOCOL_MIN, chunks, device_info, driven, handover, observe
from pocketbench_agent.cache import BlobCache, CacheError, NoSpace
from pocketbench_agent.framing import frame
from pocketbench_agent.job_files import JobError, prepare_files, release_files
from pocketbench_agent.jobs import Jobs
from pocketbench_agent.lease import Lease
from pocketbench_agent.rpc import agent_pb2 as pb
from pocketbench_agent.rpc import agent_pb2_grpc as rpc
from pocketbench_agent.runtimes import PACKAGES
from pocketbench_agent.spawn import Worker

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
SERVER_OPTIONS: Sequence[tuple[str, int]] = (
    # Without this two agents could share one port and answer in turns.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # The default of 16 KiB cuts every chunk of an upload into 64 frames.
    ("grpc.http2.max_frame_size", 256 * 1024),
    # A window that grows with the link would read ahead without end while a slow disk keeps an upload waiting.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4 * 1024 * 1024),
    # The client pings every 10 s; a default server would answer that with too_many_pings.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
if TYPE_CHECKING:
    _Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.ServerInterceptor


class Guard(_Interceptor):
    """Refuses every call without the session's token, and notes when the last one ended."""

    def __init__(self, token: str) -> None:
        # Of hashes, for that is how a second host's token comes.
        self._tokens = [handover.digest(token).encode()]
        self._active = 0
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def idle_s(self) -> float:
        """Seconds since the last call ended; 0 while one is going on."""
        with self._lock:
            return 0.0 if self._active else time.monotonic() - self._last

    def let_in(self, token_sha256: str) -> None:
        """Another token is good from now on."""
        with self._lock:
            self._tokens = [*self._tokens, token_sha256.encode()]
            self._last = time.monotonic()

    def count(self, change: int) -> None:
        """A call begins (+1) or ends (-1)."""
        with self._lock:
            self._active += change
            self._last = time.monotonic()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """grpc's hook: compare the token in constant time before anything else happens."""
        given = dict(details.invocation_metadata or ()).get("token", "")
        hashed = handover.digest(str(given)).encode()
        if any([hmac.compare_digest(hashed, token) for token in self._tokens]):
            return continuation(details)

        def refuse(_: Any, context: grpc.ServicerContext) -> NoReturn:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this agent wants the token of its session")

        handler = continuation(details)
        if handler is None:
            return None
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(refuse)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(refuse)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)


class RawChunks(_Interceptor):
    """Has the messages of PutBlob read by `chunks`, for the generated code offers no way to say so."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """grpc's hook: the same handler with another deserializer."""
        handler = continuation(details)
        if handler is None or not details.method.endswith("/PutBlob"):
            return handler
        return grpc.stream_unary_rpc_method_handler(handler.stream_unary, chunks.decode, handler.response_serializer)


class Agent(rpc.AgentServicer):
    """The service; one method a call of agent.proto."""

    def __init__(self, home: Path, build: str, guard: Guard) -> None:
        self._home, self._build, self._guard = home, build, guard
        self._cache = BlobCache(home / "blobs")
        self.jobs = Jobs(home, self._cache)
        self.lease = Lease(home / "lease.json", self.jobs.busy)

    def Hello(self, request: pb.HelloRequest, context: grpc.ServicerContext) -> pb.HelloReply:
        protocol = min(request.protocol_max, PROTOCOL_MAX)
        if protocol < max(request.protocol_min, PROTOCOL_MIN):
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the agent speaks protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, "
                f"the host {request.protocol_min} to {request.protocol_max}",
            )
        info = device_info.device_info(self._home)
        return pb.HelloReply(
            protocol=protocol,
            build_sha256=self._build,
            device=pb.DeviceInfo(**{**vars(info), "clusters": [pb.Cluster(**vars(one)) for one in info.clusters]}),
            runtimes=_runtimes(),
            unacknowledged=self.jobs.unacknowledged(),
        )

    def Lease(self, request: pb.LeaseRequest, context: grpc.ServicerContext) -> pb.LeaseReply:
        if request.op == pb.LeaseRequest.TAKE:
            held = self.lease.take(request.owner, request.epoch, request.ttl_s, request.instead_of)
        elif request.op == pb.LeaseRequest.RENEW:
            held = self.lease.renew(request.epoch, request.ttl_s)
        else:
            held = self.lease.release(request.epoch)
        return pb.LeaseReply(epoch=held.epoch, holder=held.owner, left_s=held.left_s)

    def Clock(self, request: pb.ClockRequest, context: grpc.ServicerContext) -> pb.ClockReply:
        now = device_info.clocks()
        return pb.ClockReply(
            host_send_ns=request.host_send_ns,
            mono_ns=now.mono_ns,
            boottime_ns=now.boottime_ns or 0,
            realtime_ns=now.realtime_ns,
        )

    def Observe(self, request: pb.ObserveRequest, context: grpc.ServicerContext) -> pb.Observation:
        self._enter(context)
        return pb.Observation(
            readings=observe.observe(min(max(request.window_s, 0.0), 10.0), request.meters),
            boot_id=device_info.boot_id(),
        )

    def HaveBlobs(self, request: pb.BlobList, context: grpc.ServicerContext) -> pb.BlobStates:
        self._enter(context)
        return pb.BlobStates(blobs=[self._blob_state(sha256) for sha256 in request.sha256])

    def PutBlob(  # type: ignore[override]
        self, request_iterator: Iterator[chunks.Chunk], context: grpc.ServicerContext
    ) -> pb.BlobState:
        self._enter(context)
        first = next(request_iterator, None)
        if first is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an upload needs at least one chunk")
            raise AssertionError
        try:
            self._cache.put(first.sha256, first.offset, first.total, _data(first, request_iterator))
        except NoSpace as error:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except CacheError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return self._blob_state(first.sha256)

    def Start(self, request: pb.Job, context: grpc.ServicerContext) -> pb.JobState:
        self._enter(context)
        try:
            return self.jobs.start(request)
        except JobError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except OSError as error:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"cannot prepare the job: {error.strerror}")
        raise AssertionError

    def Watch(self, request: pb.JobRef, context: grpc.ServicerContext) -> Iterator[pb.Event]:
        self._enter(context)
        yield from self.jobs.watch(request.job_id, request.from_seq)

    def Cancel(self, request: pb.JobRef, context: grpc.ServicerContext) -> pb.JobState:
        self._enter(context)
        return self.jobs.cancel(request.job_id)

    def Acknowledge(self, request: pb.JobRef, context: grpc.ServicerContext) -> pb.JobState:
        self._enter(context)
        return self.jobs.acknowledge(request.job_id)

    def Infer(self, request_iterator: Iterator[pb.InferRequest], context: grpc.ServicerContext) -> Iterator[pb.Event]:
        """Score: the first message is the Job, then Tensors; each answer is an Event, the last one Ended."""
        self._enter(context)
        first = next(request_iterator, None)
        if first is None or not first.HasField("job"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message of Infer is a job")
            raise AssertionError
        job = first.job
        folder = self._home / "scores" / uuid.uuid4().hex
        try:
            prepare_files(job, folder, self._cache, self._home)
        except JobError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        worker = Worker(job, folder, self._home)
        context.add_callback(worker.kill)
        feeder = threading.Thread(target=_feed, args=(worker, job, request_iterator), daemon=True)
        feeder.start()
        try:
            yield from worker.events()
            yield pb.Event(mono_ns=time.perf_counter_ns(), ended=worker.ended())
        finally:
            worker.close()
            release_files(job, self._cache)
            shutil.rmtree(folder, ignore_errors=True)

    def _blob_state(self, sha256: bytes) -> pb.BlobState:
        committed, complete = self._cache.committed(sha256)
        return pb.BlobState(sha256=sha256, committed=committed, complete=complete)

    def _enter(self, context: grpc.ServicerContext) -> None:
        """Count the call and check its lease: a host whose lease ended can start or change nothing."""
        self._guard.count(1)
        context.add_callback(lambda: self._guard.count(-1))
        epoch = dict(context.invocation_metadata()).get("epoch", "0")
        if not str(epoch).isdigit() or not self.lease.valid(int(str(epoch))):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, self.lease.refusal())


def _runtimes() -> list[str]:
    """Those of this environment; none of them runs on a device that is driven from here."""
    if driven.link() is not None:
        return []
    return [name for name, package in PACKAGES.items() if not package or importlib.util.find_spec(package)]


def serve(home: Path, build: str, token: str) -> tuple[grpc.Server, Agent, Guard, int]:
    """A started server on a loopback port that the system picked."""
    guard = Guard(token)
    agent = Agent(home, build, guard)
    server = grpc.server(ThreadPoolExecutor(16), interceptors=[guard, RawChunks()], options=list(SERVER_OPTIONS))
    rpc.add_AgentServicer_to_server(agent, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, agent, guard, port


def _data(first: chunks.Chunk, rest: Iterator[chunks.Chunk]) -> Iterator[bytes | memoryview]:
    """The chunks' bytes; a link that breaks ends them, and what came so far stays."""
    yield first.data
    try:
        for chunk in rest:
            yield chunk.data
    except grpc.RpcError:
        log.info("an upload broke off")


def _feed(worker: Worker, job: pb.Job, requests: Iterator[pb.InferRequest]) -> None:
    worker.write(frame(job))
    try:
        for request in requests:
            worker.write(frame(request.tensors))
    except grpc.RpcError:
        worker.kill()
    worker.close_stdin()
