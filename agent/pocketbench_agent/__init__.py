"""The agent: a process on the device that caches files, runs jobs in fresh workers and keeps what they measured."""

from __future__ import annotations

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
