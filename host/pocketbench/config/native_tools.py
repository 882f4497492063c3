"""Vendors' own benchmark programs that devices.yaml names: which one runs a case, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pocketbench.config.devices import DeviceEntry
from pocketbench.errors import UsageError, nearest
from pocketbench.models import place
from pocketbench.plan import NativeTool

# A path on the device; without this word it is one of this host, and the file is sent.
ON_DEVICE = "device:"
FOLDER = ".tool"
# Tools by suffix, the preferred one first, each with the delegates that it knows.
TOOLS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    ".tflite": {
        "benchmark_model": ("cpu", "xnnpack", "gpu", "nnapi", "external"),
        "benchmark_litert_model": ("cpu", "gpu", "npu"),
    },
    ".onnx": {
        "onnxruntime_perf_test": (
            *("cpu", "gpu", "npu", "xnnpack", "qnn", "nnapi", "webgpu", "coreml", "acl", "openvino"),
        )
    },
    ".param": {"benchncnn": ("cpu", "gpu", "vulkan")},
}
NAMES = tuple(name for tools in TOOLS.values() for name in tools)


def choose(device: str, entry: DeviceEntry, suffix: str, delegate: str) -> NativeTool | None:
    """The tool for such a file and delegate; None where the device has none. UsageError for one that is misnamed, or
    is missing on this host.
    """
    for name in entry.native_tools:
        if name not in NAMES:
            raise UsageError(f"{device}: native_tools: unknown tool {name!r}{nearest(name, NAMES)}")
    known = TOOLS.get(suffix, {})
    able = [name for name in known if name in entry.native_tools and delegate in known[name]]
    if not able:
        return None
    name, told = able[0], entry.native_tools[able[0]]
    paths = [Path(path) for path in (told.path, *told.files) if not path.startswith(ON_DEVICE)]
    files = tuple(place(path, f"{FOLDER}/{path.name}", f"{device}: native_tools: {name}:") for path in paths)
    if told.path.startswith(ON_DEVICE):
        return NativeTool(name, told.path.removeprefix(ON_DEVICE), files)
    return NativeTool(name, "", files)
