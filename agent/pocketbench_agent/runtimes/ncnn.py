"""ncnn: a `.param` and a `.bin` beside it, on the CPU or by Vulkan.

Its Python binding crashes where memory that a Mat looks at goes away, so inputs are copies, and what an extractor gives
is kept until it has been copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from pocketbench_agent.errors import NotAvailable, StageError
from pocketbench_agent.ncnn_param import input_shapes
from pocketbench_agent.overhear import overhear
from pocketbench_agent.runtimes import (
    OPEN,
    Array,
    LoadOptions,
    ModelFacts,
    Placement,
    TensorInfo,
    check_shapes,
    check_static,
    flag,
)

VULKAN = ("gpu", "vulkan")
# ncnn's own word for an adapter that is software (VkPhysicalDeviceType).
CPU_TYPE = 3
# What makes kernels fast, and moves their results: off for the plain ones.
FAST = ("use_winograd_convolution", "use_sgemm_convolution", "use_packing_layout")
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")


class Ncnn:
    """One Net; every inference makes an extractor, as ncnn's own benchmark does."""

    def __init__(self) -> None:
        self.version = str(ncnn.__version__)

    def load(self, files: Sequence[Path], options: LoadOptions) -> ModelFacts:
        """Read both files; NotAvailable where there is no Vulkan, StageError for what ncnn does not know."""
        if options.signature is not None:
            raise StageError("--signature is for .tflite files; ncnn has none")
        if options.libraries:
            raise NotAvailable("ncnn loads no delegates")
        if options.delegate not in ("cpu", *VULKAN):
            raise NotAvailable(f"ncnn has no delegate {options.delegate!r}; it has cpu and vulkan")
        self._options = options
        self._adapter = ""
        self._net = ncnn.Net()
        self._set(options)
        if options.delegate in VULKAN:
            self._use_vulkan()
        if len(files) < 2:
            raise StageError("a .param needs its .bin")
        with overhear() as heard:
            broken = self._net.load_param(str(files[0])) or self._net.load_model(str(files[1]))
        if broken:
            said = [line for line in heard.text.splitlines() if line.strip()]
            raise StageError(f"ncnn cannot read the files: {said[-1].strip() if said else 'it does not say why'}")
        told = input_shapes(files[0].read_text(errors="replace"))
        self._in_names, self._out_names = list(self._net.input_names()), list(self._net.output_names())
        check_shapes(
            options.shapes, {name: _accepted(told.get(name), options.shapes.get(name)) for name in self._in_names}
        )
        shapes = {name: options.shapes.get(name, told.get(name, (OPEN,) * 3)) for name in self._in_names}
        check_static(list(shapes.items()))
        self._ins: list[Any] = []
        self._outs: list[Any] = []
        self._read_into: list[Array] = []
        half = any(getattr(self._net.opt, name) for name in HALF)
        return ModelFacts(
            tuple(TensorInfo(name, "float32", shape) for name, shape in shapes.items()),
            tuple(TensorInfo(name, "float32", (OPEN,)) for name in self._out_names),
            precision="float16 where the processor has it" if half else "as stored",
        )

    def bind(self, arrays: Sequence[Array]) -> None:
        """Copy the inputs into Mats; a leading dimension of 1 is the batch that ncnn does not have."""
        self._ins = [ncnn.Mat(np.ascontiguousarray(_without_batch(array))).clone() for array in arrays]

    def run(self) -> None:
        """One extraction of every output, which ends in memory that the host can read."""
        extractor = self._net.create_extractor()
        for name, value in zip(self._in_names, self._ins, strict=True):
            extractor.input(name, value)
        made = []
        for name in self._out_names:
            failed, value = extractor.extract(name)
            if failed:
                raise StageError(f"ncnn failed in an inference: no output {name!r} (code {failed})")
            made.append(value)
        self._outs = made

    def read(self) -> list[Array]:
        """Copy the outputs out."""
        arrays = [np.array(value) for value in self._outs]
        if [a.shape for a in arrays] != [a.shape for a in self._read_into]:
            self._read_into = arrays
        else:
            for own, array in zip(self._read_into, arrays, strict=True):
                np.copyto(own, array)
        return self._read_into

    def placement(self) -> Placement:
        """By layer: one that has no Vulkan kernel runs on the CPU, and ncnn does not say so."""
        if self._options.delegate not in VULKAN:
            return Placement()
        layers = [layer for layer in self._net.layers() if layer.type != "Input"]
        on_vulkan = [bool(layer.support_vulkan) for layer in layers]
        left = Counter(layer.type for layer, there in zip(layers, on_vulkan, strict=True) if not there)
        starts = sum(now and not before for before, now in zip([False, *on_vulkan], on_vulkan, strict=False))
        taken = sum(on_vulkan)
        return Placement(
            known=True,
            nodes=len(layers),
            delegated=taken,
            partitions=starts,
            on_cpu=dict(left),
            evidence="each layer's own kernels",
            adapter=self._adapter if taken else "",
            used=self._options.delegate if taken else "cpu",
            accelerated_by="vulkan" if taken else "",
        )

    def close(self) -> None:
        """Free what looks into the Net, then the Net."""
        self._ins, self._outs = [], []
        self._net.clear()

    def _set(self, options: LoadOptions) -> None:
        """Switches of ncnn's Option, by their names."""
        settings = self._net.opt
        settings.num_threads = options.threads
        known = sorted(name for name in dir(settings) if name.startswith("use_") and name != "use_vulkan_compute")
        unknown = sorted(set(options.options) - set(known))
        if unknown:
            raise StageError(f"ncnn has no option {', '.join(unknown)}; it has {', '.join(known)}")
        for name in (*FAST, *HALF) if options.plain else ():
            setattr(settings, name, False)
        for name, text in options.options.items():
            setattr(settings, name, flag(name, text))

    def _use_vulkan(self) -> None:
        """The default adapter; asked for Vulkan without one ncnn would compute on the CPU, and say nothing."""
        if not ncnn.get_gpu_count():
            raise NotAvailable("ncnn finds no Vulkan here: a driver and its loader, libvulkan.so.1, are needed")
        index = ncnn.get_default_gpu_index()
        info = ncnn.get_gpu_info(index)
        self._adapter = str(info.device_name()) + (", CPU / Software" if info.type() == CPU_TYPE else "")
        self._net.opt.use_vulkan_compute = True
        self._net.set_vulkan_device(index)


def _accepted(told: tuple[int, ...] | None, asked: tuple[int, ...] | None) -> Sequence[int]:
    """What --shape may say of an input: what the file does, with or without a batch of 1; if it is silent anything."""
    if told is None:
        return (OPEN,) * len(asked or (OPEN,) * 3)
    return (1, *told) if asked is not None and asked[:1] == (1,) and len(asked) == len(told) + 1 else told


def _without_batch(array: Array) -> Array:
    return array[0] if array.ndim == 4 and array.shape[0] == 1 else array
