"""A real agent process and a session with it, for tests below the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy.agent import RunningAgent, start
from pocketbench.session.session import Session
from pocketbench.transports.local import Local
from pocketbench_agent.rpc import agent_pb2_grpc as rpc


@contextmanager
def agent(home: Path, *more: str) -> Iterator[RunningAgent]:
    """A running agent with that home; ended afterwards."""
    transport = Local("local", DeviceEntry(transport="local"))
    command = [sys.executable, "-m", "pocketbench_agent", "--home", str(home), "--end-with-stdin", *more]
    running = start("local", transport, command)
    try:
        yield running
    finally:
        transport.close()


@contextmanager
def session(running: RunningAgent, owner: str = "test") -> Iterator[Session]:
    """An open session."""
    opened = Session("local", running, owner)
    opened.open()
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def stub(running: RunningAgent) -> Iterator[rpc.AgentStub]:
    """The bare calls."""
    with grpc.insecure_channel(running.address) as channel:
        yield rpc.AgentStub(channel)
