"""The bare loops that overhead.py compares with: what a careful user script does, and nothing of ours.

Only the runtime's own API and `time.perf_counter_ns`; nothing of pocketbench is imported. The interpreter or session
comes ready made, so that both loops run the very same model in the very same memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Loop = Callable[[float, int], list[int]]


def litert(interpreter: Any, arrays: Sequence[NDArray[Any]]) -> tuple[Loop, Loop]:
    """(set, invoke, get) and (invoke alone) of a LiteRT interpreter; only invoke is timed."""
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def whole(seconds: float, at_least: int) -> list[int]:
        times: list[int] = []
        end = time.perf_counter_ns() + round(seconds * 1e9)
        while True:
            for index, array in zip(inputs, arrays, strict=True):
                interpreter.set_tensor(index, array)
            begin = time.perf_counter_ns()
            interpreter.invoke()
            done = time.perf_counter_ns()
            times.append(done - begin)
            for index in outputs:
                interpreter.get_tensor(index)
            if done >= end and len(times) >= at_least:
                return times

    def run_only(seconds: float, at_least: int) -> list[int]:
        times: list[int] = []
        end = time.perf_counter_ns() + round(seconds * 1e9)
        while True:
            begin = time.perf_counter_ns()
            interpreter.invoke()
            done = time.perf_counter_ns()
            times.append(done - begin)
            if done >= end and len(times) >= at_least:
                return times

    return whole, run_only


def onnxruntime(
    session: Any, binding: Any, values: Sequence[Any], results: Sequence[Any], arrays: Sequence[NDArray[Any]]
) -> tuple[Loop, Loop]:
    """(update, run, copy out) and (run alone) of a session with bound inputs and outputs; only run is timed."""
    copies = [value.numpy().copy() for value in results]

    def whole(seconds: float, at_least: int) -> list[int]:
        times: list[int] = []
        end = time.perf_counter_ns() + round(seconds * 1e9)
        while True:
            for value, array in zip(values, arrays, strict=True):
                value.update_inplace(array)
            begin = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            done = time.perf_counter_ns()
            times.append(done - begin)
            for copy, value in zip(copies, results, strict=True):
                np.copyto(copy, value.numpy())
            if done >= end and len(times) >= at_least:
                return times

    def run_only(seconds: float, at_least: int) -> list[int]:
        times: list[int] = []
        end = time.perf_counter_ns() + round(seconds * 1e9)
        while True:
            begin = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            done = time.perf_counter_ns()
            times.append(done - begin)
            if done >= end and len(times) >= at_least:
                return times

    return whole, run_only
