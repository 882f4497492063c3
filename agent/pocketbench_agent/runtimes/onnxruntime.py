"""ONNX Runtime: the CPU provider, and whatever other provider the installed build has."""

from __future__ import annotations

import json
import mmap
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from pocketbench_agent.errors import StageError
from pocketbench_agent.runtimes import (
    OPEN,
    Array,
    LoadOptions,
    ModelFacts,
    OpTime,
    Placement,
    TensorInfo,
    check_shapes,
    check_static,
    ort_providers,
)
from pocketbench_agent.runtimes.ort_providers import CPU

ROUNDING = (
    b"QuantizeLinear",
    b"QLinear",
    b"DynamicQuantize",
    b"ConvInteger",
    b"MatMulInteger",
    b"QGemm",
    b"QAttention",
)
PROFILE_WARM_UP, PROFILE_RUNS = 3, 10
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"

# https://onnxruntime.ai/docs/api/python: NodeArg.type is the ONNX type's name.
DTYPES = {
    "float": "float32",
    "float16": "float16",
    "double": "float64",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class OnnxRuntime:
    """One InferenceSession with its inputs and outputs bound, so that a run copies nothing."""

    def __init__(self) -> None:
        self.version = ort.__version__
        ort.set_default_logger_severity(3)

    def load(self, files: Sequence[Path], options: LoadOptions) -> ModelFacts:
        """Create the session; StageError for a broken file, an unsupported op, open dimensions."""
        if options.signature is not None:
            raise StageError("--signature is for .tflite files; ONNX has none")
        self._path, self._options = files[0], options
        self._provider = ort_providers.find(options.delegate, options.options, options.libraries)
        self._session = self._open(ort.SessionOptions())
        nodes = {node.name: node for node in self._session.get_inputs()}
        check_shapes(options.shapes, {name: node.shape for name, node in nodes.items()})
        check_static([(name, node.shape) for name, node in nodes.items() if name not in options.shapes])
        inputs = tuple(
            TensorInfo(n.name, _dtype(n), tuple(options.shapes.get(n.name, tuple(n.shape)))) for n in nodes.values()
        )
        self._binding = self._session.io_binding()
        self._in = [ort.OrtValue.ortvalue_from_numpy(np.zeros(i.shape, i.dtype)) for i in inputs]
        for info, value in zip(inputs, self._in, strict=True):
            self._binding.bind_ortvalue_input(info.name, value)
        self._input_names = [info.name for info in inputs]
        outputs: list[TensorInfo] = []
        self._out: list[Any] = []
        for node in self._session.get_outputs():
            dtype = _dtype(node)
            fixed = all(isinstance(d, int) for d in node.shape)
            shape = tuple(d if isinstance(d, int) else OPEN for d in node.shape)
            outputs.append(TensorInfo(node.name, dtype, shape))
            self._out.append(ort.OrtValue.ortvalue_from_numpy(np.zeros(node.shape, dtype)) if fixed else None)
        self._fixed = all(value is not None for value in self._out)
        self._output_names = [output.name for output in outputs]
        self._bind_outputs()
        self._read_into: list[Array] = []
        precision = "float16 for what is not quantized" if self._provider.is_half() else "as stored"
        return ModelFacts(inputs, tuple(outputs), precision)

    def bind(self, arrays: Sequence[Array]) -> None:
        """Copy the inputs into the bound values."""
        for own, array in zip(self._in, arrays, strict=True):
            own.update_inplace(array)
        if self._provider.name != CPU:
            # A provider with memory of its own copies an input when it is bound, and sees no later change of it.
            for name, own in zip(self._input_names, self._in, strict=True):
                self._binding.bind_ortvalue_input(name, own)
            self._binding.synchronize_inputs()
        if not self._fixed:
            # What the last run allocated would be taken as the shape of this one.
            self._binding.clear_binding_outputs()
            self._bind_outputs()

    def run(self) -> None:
        """Run the bound session; StageError where a node refuses."""
        try:
            self._session.run_with_iobinding(self._binding)
            if self._provider.name != CPU:
                self._binding.synchronize_outputs()
        except Exception as error:  # onnxruntime raises a class of its own for each status code
            raise StageError(f"onnxruntime failed in an inference: {_first_line(error)}") from error

    def read(self) -> list[Array]:
        """Copy the outputs out."""
        values = self._out if self._fixed else self._binding.get_outputs()
        arrays = [value.numpy() for value in values]
        if [a.shape for a in arrays] != [a.shape for a in self._read_into]:
            self._read_into = [array.copy() for array in arrays]
        else:
            for own, array in zip(self._read_into, arrays, strict=True):
                np.copyto(own, array)
        return self._read_into

    def placement(self) -> Placement:
        """Nodes by provider, from a profiled session of its own (profiling slows a session up to 2.7x).

        What ran is the profile's word; how many nodes of the file went into one that a provider fused is the record's,
        where this version keeps one. Nothing is told where there cannot be a second session: an NPU may take one alone.
        """
        if self._provider.name == CPU:
            return Placement(used="cpu")
        try:
            events, assigned = self._profiled(runs=1)
        except Exception as error:  # onnxruntime raises a class of its own for each status code
            print(f"no coverage: the session that tells it failed: {_first_line(error)}", file=sys.stderr)
            return Placement(quantized=rounds(self._path))
        ran = {(event["name"], event["args"]["op_name"], event["args"]["provider"]) for event in events}
        taken = [provider for _, _, provider in ran if provider != CPU]
        if assigned and taken:
            left = Counter(op for provider, op in assigned if provider == CPU)
            nodes, evidence = len(assigned), "record of the assignment, profile of a session of its own"
        else:
            left = Counter(op for _, op, provider in ran if provider == CPU)
            nodes, evidence = len(ran), "profile of a session of its own"
        return Placement(
            known=True,
            nodes=nodes,
            delegated=nodes - sum(left.values()),
            partitions=stretches([event["args"]["provider"] for event in events]),
            on_cpu=dict(left),
            evidence=evidence,
            used=self._options.delegate if taken else "cpu",
            accelerated_by=self._provider.name if taken else "",
            adapter=self._provider.adapter() if taken else "",
            quantized=rounds(self._path),
        )

    def profile(self) -> list[OpTime]:
        """Mean time of an inference by kind of node, over the last few of a session of its own."""
        events, _ = self._profiled(runs=PROFILE_WARM_UP + PROFILE_RUNS)
        by_node: dict[tuple[str, str, str], list[int]] = {}
        for event in events:
            args = event["args"]
            by_node.setdefault((event["name"], args["op_name"], args["provider"]), []).append(1000 * int(event["dur"]))
        kinds: dict[tuple[str, str], list[float]] = {}
        for (_, op, provider), spans in by_node.items():
            fused = provider != CPU and op.startswith(provider.removesuffix("ExecutionProvider"))
            kind = "delegate (fused)" if fused else op, provider.removesuffix("ExecutionProvider")
            kinds.setdefault(kind, []).append(float(np.mean(spans[-PROFILE_RUNS:])))
        return [OpTime(op, runs_on, len(means), round(sum(means))) for (op, runs_on), means in kinds.items()]

    def _profiled(self, runs: int) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """The profile's events of nodes, and (provider, op) of each node that was assigned."""
        with tempfile.TemporaryDirectory() as folder:
            settings = ort.SessionOptions()
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / "profile")
            settings.add_session_config_entry(RECORD_ASSIGNMENT, "1")
            session = self._open(settings)
            assigned = [
                (CPU if part.ep_name == CPU else str(part.ep_name), str(node.op_type))
                for part in getattr(session, "get_provider_graph_assignment_info", list)()
                for node in part.get_nodes()
            ]
            feeds = {node.name: value.numpy() for node, value in zip(session.get_inputs(), self._in, strict=True)}
            for _ in range(runs):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text())
        kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        return sorted(kernels, key=lambda event: int(event["ts"])), assigned

    def close(self) -> None:
        """Drop the session."""
        del self._binding, self._session

    def _bind_outputs(self) -> None:
        for name, value in zip(self._output_names, self._out, strict=True):
            if value is None:
                self._binding.bind_output(name)
            else:
                self._binding.bind_ortvalue_output(name, value)

    def _open(self, settings: Any) -> Any:
        settings.intra_op_num_threads = self._options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        if self._options.plain:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        for key, value in self._options.options.items():
            if "." in key:
                settings.add_session_config_entry(key, value)
        providers = self._provider.add_to(settings)
        try:
            return ort.InferenceSession(str(self._path), settings, providers=providers or None)
        except Exception as error:  # a class of its own for each status code, RuntimeError for some
            raise StageError(f"onnxruntime cannot load the file: {_first_line(error)}") from error


def rounds(path: Path) -> bool:
    """Has the file a node that makes integers of what passes through it? Not where weights alone are stored so.

    An op's name stands in a file as it is (onnx.proto, NodeProto.op_type), and no other of ONNX's holds one of these.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(name) >= 0 for name in ROUNDING)


def stretches(providers: Sequence[str]) -> int:
    """How often an accelerator takes over, by the provider of each kernel in the order in which they ran."""
    return sum(provider != CPU for provider, _ in groupby(providers))


def _dtype(node: Any) -> str:
    """The numpy name of a NodeArg's type; StageError for what is not a tensor of numbers."""
    kind = str(node.type)
    inner = kind.removeprefix("tensor(").removesuffix(")")
    if not kind.startswith("tensor(") or inner not in DTYPES:
        raise StageError(f"{node.name!r} is of type {kind}, which cannot be benchmarked")
    return DTYPES[inner]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
