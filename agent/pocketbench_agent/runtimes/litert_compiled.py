"""LiteRT's CompiledModel, which alone reaches its GPU and NPU accelerators.

It says little of what it did. Asked for GPU and CPU together, or NPU and CPU, `is_fully_accelerated` is True even where
XNNPACK on the CPU took everything; so the accelerator is asked alone first, and what it took otherwise is read from the
library's own log, which also names the adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.environment import Environment
from ai_edge_litert.gpu_options import GpuOptions
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import CpuOptions, Options

from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.overhear import overhear
from pocketbench_agent.runtimes import Array, LoadOptions, ModelFacts, Placement, flag
from pocketbench_agent.runtimes.litert import LiteRt, rounds

ALONE = {"gpu": HardwareAccelerator.GPU, "npu": HardwareAccelerator.NPU}
# As libLiteRt 2.3 logs them.
REFUSED = "Some ops are not accelerated"
MISSING = {
    "gpu": ("No adapters found", "Failed to initialize WebGPU environment", "GPU accelerator could not be loaded"),
    "npu": ("No compiler plugin found",),
}
ADAPTER = re.compile(r"Selected adapter: (.+?)\s*$", re.MULTILINE)
SPLIT = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
UNSUPPORTED = re.compile(r"^(?!ERROR|WARNING|INFO)([A-Z][A-Z0-9_]+): .*(?i:not supported|unsupported)", re.MULTILINE)
PARTITIONED = re.compile(r"selected (\d+) ops, from a total of (\d+) ops\. resulted in (\d+) partitions")


@dataclass(frozen=True)
class Log:
    """What the library's log says of a compilation; the counts are None where it says nothing."""

    adapter: str = ""
    nodes: int | None = None
    delegated: int | None = None
    partitions: int | None = None
    unsupported: tuple[str, ...] = ()


class Compiled(LiteRt):
    """A model compiled for an accelerator, with buffers of its own."""

    def load(self, files: Sequence[Path], options: LoadOptions) -> ModelFacts:
        """Compile; NotAvailable where there is no such accelerator here, StageError for what it cannot do."""
        self._path, self._options = files[0], options
        # Names, quantization and order are the interpreter's, so that every delegate is fed and compared alike.
        self._interpreter = self._build([], xnnpack=False)
        inputs, outputs = self._shaped(options)
        facts = self._facts(inputs, outputs)
        self._ops = [str(op["op_name"]) for op in self._interpreter._get_ops_details()]
        self._rounds = rounds(self._interpreter)
        index, names = self._signature(options.signature)
        del self._interpreter
        self._index = index
        self._compile()
        try:
            for name, shape in options.shapes.items():
                self._model.resize_input_tensor(names[0].index(name), list(shape), index, strict=False)
            ins, outs = self._model.create_input_buffers(index), self._model.create_output_buffers(index)
        except (RuntimeError, ValueError) as error:
            raise StageError(f"LiteRT cannot make buffers for this model: {_brief(error)}") from error
        self._order = (ins, outs)
        self._in_buffers = [ins[_position(alias, names[0], place)] for place, (alias, _) in enumerate(inputs)]
        self._out_buffers = [outs[_position(alias, names[1], place)] for place, (alias, _) in enumerate(outputs)]
        self._out_infos = [(int(np.prod(info.shape)), np.dtype(info.dtype), info.shape) for info in facts.outputs]
        self._read_into = [np.zeros(shape, dtype) for _, dtype, shape in self._out_infos]
        return replace(facts, precision="as stored" if self._exact else "float16 where the GPU chooses it")

    def bind(self, arrays: Sequence[Array]) -> None:
        """Copy the inputs into the accelerator's buffers."""
        try:
            for buffer, array in zip(self._in_buffers, arrays, strict=True):
                buffer.write(array)
        except (RuntimeError, ValueError) as error:
            raise StageError(f"LiteRT does not take this input: {_brief(error)}") from error

    def run(self) -> None:
        """One inference, until every output can be read: the call itself returns as soon as the work is queued."""
        try:
            self._model.run_by_index(self._index, *self._order)
            for buffer, (_, dtype, _) in zip(self._out_buffers, self._out_infos, strict=True):
                buffer.read(1, dtype)
        except (RuntimeError, ValueError) as error:
            raise StageError(f"LiteRT failed in an inference: {_brief(error)}") from error

    def read(self) -> list[Array]:
        """Copy every output out."""
        for own, buffer, (count, dtype, shape) in zip(self._read_into, self._out_buffers, self._out_infos, strict=True):
            np.copyto(own, buffer.read(count, dtype).reshape(shape))
        return self._read_into

    def placement(self) -> Placement:
        """All of it where the GPU was content to be alone; else as the log says, and nothing that it does not say.

        An NPU that is alone proves nothing: a model that no compiler plugin has partitioned runs on the CPU unsaid.
        """
        log = self._log
        if self._alone and self._options.delegate == "gpu":
            taken = len(self._ops)
            made = Placement(True, taken, taken, 1, {}, "compiled for the accelerator alone")
        else:
            nodes, taken = log.nodes or len(self._ops), log.delegated or 0
            made = Placement(True, nodes, taken, log.partitions or 0, self._left(nodes - taken), "log of the library")
        return replace(
            made,
            adapter=log.adapter,
            used=self._options.delegate if made.delegated else "cpu",
            accelerated_by=self._options.delegate if made.delegated else "",
            quantized=self._rounds,
        )

    def close(self) -> None:
        """Free model and buffers."""
        del self._in_buffers, self._out_buffers, self._order, self._model

    def _compile(self) -> None:
        accelerator, known = ALONE[self._options.delegate], MISSING[self._options.delegate]
        self._alone = True
        with overhear() as heard:
            options, environment = self._settings()
            error = self._try(options, environment, accelerator)
            if error is not None and REFUSED in str(error):
                self._alone = False
                error = self._try(options, environment, accelerator | HardwareAccelerator.CPU)
        self._log = read_log(heard.text)
        told = next((word for word in known if word in heard.text or (error is not None and word in str(error))), None)
        if told is not None and (error is not None or not self._alone):
            raise NotAvailable(f"LiteRT finds no {self._options.delegate} here: {told}")
        if error is not None:
            raise StageError(f"LiteRT cannot compile for {self._options.delegate}: {_brief(error)}") from error
        if self._alone and not self._model.is_fully_accelerated():
            self._alone = False

    def _try(self, options: Options, environment: Environment, accelerator: HardwareAccelerator) -> Exception | None:
        options.hardware_accelerators = accelerator
        try:
            self._model = CompiledModel.from_file(str(self._path), environment=environment, options=options)
        except (RuntimeError, ValueError) as error:
            return error
        return None

    def _settings(self) -> tuple[Options, Environment]:
        """Options of devices.yaml: for the GPU the switches of LiteRT's GpuOptions, for an NPU its library folders."""
        given, gpu = dict(self._options.options), GpuOptions()
        known: Sequence[str]
        places: Mapping[str, str] = {}
        if self._options.delegate == "gpu":
            known = [field.name for field in fields(GpuOptions)]
        else:
            known = ["dispatch_library_path", "compiler_plugin_path"]
            places = given
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise StageError(f"{self._options.delegate} has no option {', '.join(unknown)}; it has {', '.join(known)}")
        if self._options.delegate == "gpu":
            for name, text in given.items():
                setattr(gpu, name, flag(name, text))
        self._exact = self._options.delegate != "gpu" or gpu.enforce_f32
        made = Options(gpu_options=gpu, cpu_options=CpuOptions(num_threads=self._options.threads))
        return made, Environment.create(**places)

    def _signature(self, wanted: str | None) -> tuple[int, tuple[list[str], list[str]]]:
        """Index of the signature that is run, and its names of inputs and outputs in the order of buffers."""
        keys = list(self._signatures)
        if wanted is None:
            first = [key for key in keys if self._wrapper.GetSubgraphIndexFromSignature(key) == 0]
            wanted = first[0] if first else None
        if wanted is None:
            return 0, ([], [])
        signature = self._signatures[wanted]
        return keys.index(wanted), (list(signature["inputs"]), list(signature["outputs"]))

    def _left(self, count: int) -> dict[str, int]:
        """Ops on the CPU by name; an unsupported one takes its neighbours along, which the log does not name."""
        named = {op: self._ops.count(op) for op in self._log.unsupported if op in self._ops}
        others = count - sum(named.values())
        return {**named, **({"others": others} if others > 0 else {})}


def read_log(text: str) -> Log:
    """What LiteRT's log says of a compilation; whatever is missing or garbled is unknown."""
    adapters = ADAPTER.findall(text)
    splits = [(int(taken), int(left)) for taken, left in SPLIT.findall(text)]
    partitions = [tuple(map(int, found)) for found in PARTITIONED.findall(text)]
    made = Log(adapters[-1] if adapters else "", unsupported=tuple(dict.fromkeys(UNSUPPORTED.findall(text))))
    if splits:
        taken, left = splits[-1]
        return replace(made, nodes=taken + left, delegated=taken)
    if partitions:
        # One line a subgraph; the last compilation's are what counts, and a model of one subgraph has but one.
        taken, total, parts = partitions[-1]
        return replace(made, nodes=total, delegated=taken, partitions=parts)
    return made


def _position(alias: str, names: Sequence[str], place: int) -> int:
    return names.index(alias) if alias in names else place


def _brief(error: Exception) -> str:
    """The innermost line of LiteRT's tree of errors."""
    lines = [line.strip(" └│─") for line in str(error).splitlines() if line.strip(" └│─")]
    return lines[-1] if lines else type(error).__name__
