"""LiteRT (ai-edge-litert) and its predecessor tflite-runtime, through the Interpreter that both share."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pocketbench_agent import libraries
from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.runtimes import (
    Array,
    LoadOptions,
    ModelFacts,
    Placement,
    TensorInfo,
    check_shapes,
    check_static,
    dtype_name,
    flag,
)

Named = list[tuple[str, int]]


class _Interpreter:
    """What both packages do alike; a signature other than the first subgraph goes through the wrapper below."""

    module: str
    distribution: str

    def __init__(self) -> None:
        self._package = importlib.import_module(self.module)
        self.version = version(self.distribution)

    def load(self, files: Sequence[Path], options: LoadOptions) -> ModelFacts:
        """Build the interpreter and allocate; StageError for a broken file, an unsupported op, open dimensions."""
        self._path, self._options = files[0], options
        self._interpreter = self._build(self._delegates(), not options.plain and self._xnnpack())
        inputs, outputs = self._shaped(options)
        self._named = inputs
        self._in = [self._tensor(index) for _, index in inputs]
        self._out = [self._tensor(index) for _, index in outputs]
        self._read_into: list[Array] = []
        return self._facts(inputs, outputs)

    def _shaped(self, options: LoadOptions) -> tuple[Named, Named]:
        """The chosen signature's inputs and outputs, in the shapes that were asked for, allocated."""
        self._subgraph = 0
        self._signatures: Mapping[str, Any] = self._interpreter._get_full_signature_list()
        inputs, outputs = self._choose(options.signature, self._signatures)
        check_shapes(options.shapes, {alias: _dims(self._detail(index)) for alias, index in inputs})
        check_static([(a, _dims(self._detail(index))) for a, index in inputs if a not in options.shapes])
        for alias, index in inputs:
            if alias in options.shapes:
                self._resize(index, options.shapes[alias])
        try:
            self._interpreter.allocate_tensors()
            if self._subgraph:
                self._wrapper.AllocateTensors(self._subgraph)
        except (ValueError, RuntimeError) as error:
            raise StageError(f"{self.distribution} cannot prepare the graph: {_said(error)}") from error
        return inputs, outputs

    def _facts(self, inputs: Named, outputs: Named) -> ModelFacts:
        return ModelFacts(
            tuple(_info(alias, self._detail(index)) for alias, index in inputs),
            tuple(_info(alias, self._detail(index)) for alias, index in outputs),
            signatures=tuple(self._signatures),
        )

    def bind(self, arrays: Sequence[Array]) -> None:
        """Copy the inputs into the interpreter's arena."""
        for own, array in zip(self._in, arrays, strict=True):
            np.copyto(own(), array)

    def run(self) -> None:
        """Invoke; StageError where an op refuses."""
        try:
            if self._subgraph:
                self._wrapper.Invoke(self._subgraph)
            else:
                self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise StageError(f"{self.distribution} failed in an inference: {error}") from error

    def read(self) -> list[Array]:
        """Copy the outputs out of the arena."""
        if not self._read_into:
            self._read_into = [view().copy() for view in self._out]
            return self._read_into
        for position, view in enumerate(self._out):
            array = view()
            if array.shape == self._read_into[position].shape:
                np.copyto(self._read_into[position], array)
            else:
                self._read_into[position] = array.copy()
        return self._read_into

    def placement(self) -> Placement:
        """Nodes that a delegate took, by walking back from the outputs through the executed graph.

        The list of ops is that of the first subgraph: for another signature it cannot be told. Beside a library of the
        user's XNNPACK takes what is left, and its nodes look the same: a second interpreter without it is asked.
        """
        external = bool(self._options.libraries)
        if self._subgraph:
            return Placement(quantized=rounds(self._interpreter))
        try:
            asked = self._build(self._delegates(), xnnpack=False) if external else self._interpreter
            if external:
                for alias, index in self._named:
                    if alias in self._options.shapes:
                        asked.resize_tensor_input(index, list(self._options.shapes[alias]), strict=True)
                asked.allocate_tensors()
            ops = asked._get_ops_details()
            outputs = [detail["index"] for detail in asked.get_output_details()]
        except (AttributeError, ValueError, RuntimeError, StageError):
            return Placement(quantized=rounds(self._interpreter))
        executed = _executed(ops, outputs)
        left = Counter(op["op_name"] for op in executed if op["op_name"] != "DELEGATE")
        total = sum(op["op_name"] != "DELEGATE" for op in ops)
        delegated = total - sum(left.values())
        return Placement(
            known=True,
            nodes=total,
            delegated=delegated,
            partitions=sum(op["op_name"] == "DELEGATE" for op in executed),
            on_cpu=dict(left),
            evidence="walk of the executed graph",
            used=self._options.delegate if delegated else "cpu",
            accelerated_by="" if not delegated else self._options.libraries[0].name if external else "xnnpack",
            quantized=rounds(self._interpreter),
        )

    def close(self) -> None:
        """Drop the interpreter."""
        self._in = self._out = []
        del self._interpreter

    def _build(self, delegates: Sequence[Any], xnnpack: bool) -> Any:
        kinds = self._package.OpResolverType
        try:
            return self._package.Interpreter(
                model_path=str(self._path),
                num_threads=self._options.threads,
                experimental_op_resolver_type=kinds.AUTO if xnnpack else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_delegates=list(delegates),
            )
        except (ValueError, RuntimeError) as error:
            # A delegate is applied while the interpreter is built, and its failure looks like the file's.
            what = f"use {self._options.libraries[0].name}" if delegates else "read the file"
            raise StageError(f"{self.distribution} cannot {what}: {_said(error)}") from error

    def _xnnpack(self) -> bool:
        """On by default; `xnnpack: off` among the options of `cpu` measures the runtime's own kernels."""
        if self._options.delegate != "cpu":
            return True
        unknown = sorted(set(self._options.options) - {"xnnpack"})
        if unknown:
            raise StageError(f"{self.distribution} on the CPU has no option {', '.join(unknown)}; it has xnnpack")
        return flag("xnnpack", self._options.options.get("xnnpack", "on"))

    def _delegates(self) -> list[Any]:
        """The user's library, loaded; none for the CPU and XNNPACK."""
        options = self._options
        if not options.libraries:
            if options.delegate not in ("cpu", "xnnpack"):
                raise NotAvailable(f"this build of {self.distribution} has no delegate {options.delegate!r}")
            if options.delegate == "xnnpack" and options.options:
                raise StageError("xnnpack takes no options here")
            return []
        library = options.libraries[0]
        libraries.check(library)
        kind = self._package.Delegate
        if kind.__del__ is not _destroy:
            kind.destroy, kind.__del__ = kind.__del__, _destroy
        try:
            return [self._package.load_delegate(str(library), dict(options.options))]
        except OSError as error:
            raise StageError(f"{library.name} cannot be loaded: {error}") from error
        except AttributeError as error:
            raise StageError(f"{library.name} is no TFLite delegate: {error}") from error
        except ValueError as error:
            said = str(error).partition("\n")[2].strip() or "it does not say why"
            raise StageError(f"{library.name} made no delegate: {said}") from error

    @property
    def _wrapper(self) -> Any:
        return self._interpreter._interpreter

    def _choose(self, wanted: str | None, signatures: Mapping[str, Any]) -> tuple[Named, Named]:
        """Inputs and outputs as (name that users know, index): the signature's name, else the tensor's.

        Pairs and not a mapping, for tensors may share a name or have none.
        """
        if wanted is not None and wanted not in signatures:
            known = ", ".join(map(repr, signatures)) or "none"
            raise StageError(f"--signature {wanted!r} is not in the file; it has {known}")
        if wanted is None:
            names: dict[int, str] = {}
            for key, signature in signatures.items():
                if self._wrapper.GetSubgraphIndexFromSignature(key) == 0:
                    names = {i: n for side in ("inputs", "outputs") for n, i in signature[side].items()}
                    break
            inputs, outputs = (
                [
                    (names.get(d["index"]) or d["name"] or str(position), int(d["index"]))
                    for position, d in enumerate(side)
                ]
                for side in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
            )
            return inputs, outputs
        self._subgraph = self._wrapper.GetSubgraphIndexFromSignature(wanted)
        signature = signatures[wanted]
        return [*signature["inputs"].items()], [*signature["outputs"].items()]

    def _detail(self, index: int) -> dict[str, Any]:
        detail: dict[str, Any] = (
            self._interpreter._get_tensor_details(index, self._subgraph)
            if self._subgraph
            else next(
                d
                for d in (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
                if d["index"] == index
            )
        )
        return detail

    def _resize(self, index: int, shape: tuple[int, ...]) -> None:
        try:
            if self._subgraph:
                self._wrapper.ResizeInputTensor(index, np.array(shape, np.int32), True, self._subgraph)
            else:
                self._interpreter.resize_tensor_input(index, list(shape), strict=True)
        except (ValueError, RuntimeError) as error:
            raise StageError(f"--shape {'x'.join(map(str, shape))} is refused: {error}") from error

    def _tensor(self, index: int) -> Callable[[], Array]:
        """A function that gives a fresh view: a kept one would make the interpreter refuse to run."""
        if not self._subgraph:
            made: Callable[[], Array] = self._interpreter.tensor(index)
            return made
        wrapper, subgraph = self._wrapper, self._subgraph
        return lambda: wrapper.tensor(self._interpreter, index, subgraph)


class LiteRt(_Interpreter):
    """ai-edge-litert."""

    module = "ai_edge_litert.interpreter"
    distribution = "ai-edge-litert"


class TfliteRuntime(_Interpreter):
    """tflite-runtime, last released in 2023: a runtime of its own name, because its XNNPACK takes no quantized node."""

    module = "tflite_runtime.interpreter"
    distribution = "tflite-runtime"


def rounds(interpreter: Any) -> bool:
    """Are integers with a scale among what its nodes make? Not where weights alone are stored so."""
    try:
        made = {int(index) for op in interpreter._get_ops_details() for index in op["outputs"]}
        details = [detail for detail in interpreter.get_tensor_details() if detail["index"] in made]
    except (AttributeError, ValueError, RuntimeError):
        return False
    return any(
        np.issubdtype(detail["dtype"], np.integer) and len(detail["quantization_parameters"]["scales"])
        for detail in details
    )


def _destroy(delegate: Any) -> None:
    """Instead of Delegate.__del__, which hands a NULL to the library where none was made, and that may crash it."""
    if getattr(delegate, "_delegate_ptr", None):
        delegate.destroy()


def _said(error: Exception) -> str:
    return str(error).strip() or f"{type(error).__name__} without a message"


def _dims(detail: Mapping[str, Any]) -> list[int]:
    signature = detail.get("shape_signature")
    chosen = detail["shape"] if signature is None or len(signature) == 0 else signature
    return [int(d) for d in chosen]


def _info(alias: str, detail: Mapping[str, Any]) -> TensorInfo:
    quantization = detail["quantization_parameters"]
    scales = tuple(float(s) for s in quantization["scales"])
    return TensorInfo(
        name=str(detail["name"]),
        alias=alias,
        dtype=dtype_name(detail["dtype"]),
        shape=tuple(int(d) for d in detail["shape"]),
        scale=scales,
        zero_point=tuple(int(z) for z in quantization["zero_points"]),
        axis=int(quantization["quantized_dimension"]) if len(scales) > 1 else None,
    )


def _executed(ops: Sequence[Mapping[str, Any]], outputs: Sequence[int]) -> list[Mapping[str, Any]]:
    """The ops that run: the list holds both the original nodes and the DELEGATE nodes that replaced them."""
    producers: dict[int, Mapping[str, Any]] = {}
    for op in ops:
        for tensor in op["outputs"]:
            if op["op_name"] == "DELEGATE" or tensor not in producers:
                producers[int(tensor)] = op
    seen: dict[int, Mapping[str, Any]] = {}
    queue = list(outputs)
    while queue:
        found = producers.get(int(queue.pop()))
        if found is None or found["index"] in seen:
            continue
        seen[found["index"]] = found
        queue += [int(t) for t in found["inputs"] if t >= 0]
    return list(seen.values())
