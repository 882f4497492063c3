"""The null runtime: no model at all, so that what is left is the harness.

It reads a `.null` file, JSON. `{}` is the floor; `{"sleep_ms": 10}` sleeps. The other keys rehearse models
that misbehave, so that a lab (and our own tests) can see how each shows up in a table:

    read_ms          time that only reading an output waits for (an accelerator that returns early)
    versions         {"2": 1.08}: a factor on sleep_ms of the versions that can be asked for (an upgrade that is slower)
    speed_file       a file on the device with a factor on sleep_ms, read at load (a device that is slower today)
    factors          one factor on sleep_ms a process, by its index (drift, unstable devices)
    output           echo (default) | nan | constant | noise (differs from process to process)
    inputs           {name: [dtype, shape]}; default {"x": ["float32", [1, 4]]}
    placement        {"nodes": 9, "delegated": 7, "partitions": 1, "on_cpu": {"SOFTMAX": 2}, "adapter": NAME}: any
                     delegate is accepted, and that is what it is said to have taken; {} says nothing
    fail             {"stage": "load" | "run", "how": "error" | "memory" | "exit" | "hang" | SIGNAL, "after": RUNS}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.runtimes import Array, LoadOptions, ModelFacts, OpTime, Placement, TensorInfo, dtype_name

KEYS = frozenset({"versions", "speed_file", "sleep_ms", "read_ms", "factors", "output", "inputs", "fail", "placement"})


class Null:
    """Sleeps as told; its outputs are its inputs."""

    version = "1"

    def load(self, files: Sequence[Path], options: LoadOptions) -> ModelFacts:
        """Read the file; StageError where it is not such JSON."""
        self._told = _read(files[0])
        if options.delegate != "cpu" and "placement" not in self._told:
            raise NotAvailable(f"the null runtime has no delegate {options.delegate!r}")
        self._delegate = options.delegate
        factors = self._told.get("factors") or [1.0]
        self._sleep_s = self._told.get("sleep_ms", 0) / 1e3 * factors[options.process_index % len(factors)]
        self.version = options.version or "1"
        self._sleep_s *= self._told.get("versions", {}).get(self.version, 1.0) * _speed(self._told.get("speed_file"))
        self._read_s = self._told.get("read_ms", 0) / 1e3
        self._fail = self._told.get("fail") or {}
        self._runs = 0
        self._pending = False
        if self._fail.get("stage") == "load":
            self._misbehave()
        self._inputs = [
            np.zeros([int(d) for d in shape], dtype)
            for dtype, shape in self._told.get("inputs", {"x": ["float32", [1, 4]]}).values()
        ]
        self._outputs = [array.copy() for array in self._inputs]
        self._noise = np.random.default_rng(os.getpid())
        names = list(self._told.get("inputs", {"x": 0}))
        infos = [
            TensorInfo(name, dtype_name(array.dtype), array.shape)
            for name, array in zip(names, self._inputs, strict=True)
        ]
        outputs = tuple(TensorInfo(f"{i.name}_out", i.dtype, i.shape) for i in infos)
        return ModelFacts(tuple(infos), outputs)

    def bind(self, arrays: Sequence[Array]) -> None:
        """Copy the inputs."""
        for own, array in zip(self._inputs, arrays, strict=True):
            np.copyto(own, array)

    def run(self) -> None:
        """Sleep as told."""
        if self._fail and self._fail.get("stage") == "run" and self._runs >= self._fail.get("after", 0):
            self._misbehave()
        self._runs += 1
        self._pending = True
        if self._sleep_s:
            time.sleep(self._sleep_s)

    def read(self) -> list[Array]:
        """The outputs as told."""
        if self._read_s and self._pending:
            time.sleep(self._read_s)
        self._pending = False
        how = self._told.get("output", "echo")
        for own, out in zip(self._inputs, self._outputs, strict=True):
            if how == "echo":
                np.copyto(out, own)
            elif how == "nan":
                out.fill(np.nan)
            elif how == "noise":
                np.copyto(out, self._noise.random(out.shape), casting="unsafe")
        return self._outputs

    def placement(self) -> Placement:
        """As told; else nothing is placed anywhere."""
        told = self._told.get("placement")
        if not told:
            return Placement()
        taken = bool(told.get("delegated"))
        return Placement(known=True, **told, evidence="told so", used=self._delegate if taken else "cpu")

    def profile(self) -> list[OpTime]:
        """Its sleep, as one op."""
        return [OpTime("SLEEP", "cpu", 1, round(self._sleep_s * 1e9))]

    def close(self) -> None:
        """Nothing to free."""

    def _misbehave(self) -> None:
        how = self._fail.get("how", "error")
        if how == "memory":
            raise MemoryError
        if how == "exit":
            os._exit(0)
        if how == "hang":
            time.sleep(3600)
        if isinstance(how, int):
            os.kill(os.getpid(), how)
        raise StageError(str(self._fail.get("message", "told to fail")))


def _speed(path: str | None) -> float:
    try:
        return float(Path(path).read_text()) if path else 1.0
    except (OSError, ValueError) as error:
        raise StageError(f"speed_file: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise StageError(f"not a .null file: {error}") from error
    if not isinstance(told, dict):
        raise StageError("not a .null file: it must hold a JSON object")
    unknown = sorted(set(told) - KEYS)
    if unknown:
        raise StageError(f"unknown keys in the .null file: {', '.join(unknown)}; known: {', '.join(sorted(KEYS))}")
    return told
