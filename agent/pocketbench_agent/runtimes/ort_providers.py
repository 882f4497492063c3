"""Execution providers of ONNX Runtime: those of the build, plugins that are installed, a library of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort

from pocketbench_agent import libraries, vulkan
from pocketbench_agent.errors import NotAvailable, StageError

CPU = "CPUExecutionProvider"
QNN, WEBGPU = "QNNExecutionProvider", "WebGpuExecutionProvider"
# The order says which is preferred where a delegate can mean several.
DELEGATES: Mapping[str, Sequence[str]] = {"npu": (QNN,), "gpu": (WEBGPU, QNN)}
# Packages that bring a provider as a plugin, and functions of theirs.
PLUGINS: Mapping[str, str] = {QNN: "onnxruntime_qnn", WEBGPU: "onnxruntime_ep_webgpu"}
# Qualcomm's backends by the delegate that asks for one; `qnn` without an option of its own means the NPU.
QNN_BACKENDS: Mapping[str, str] = {"npu": "htp", "qnn": "htp", "gpu": "gpu"}


@dataclass(frozen=True)
class Provider:
    """What a session is made with. `devices` are those of a plugin, empty for a provider of the build."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[Any] = ()

    def add_to(self, settings: Any) -> list[Any]:
        """The providers for a session of those settings; a plugin's devices go into the settings instead."""
        if self.devices:
            settings.add_provider_for_devices(list(self.devices), dict(self.options))
            return []
        return [CPU] if self.name == CPU else [(self.name, dict(self.options)), CPU]

    def is_half(self) -> bool:
        """Does it compute in float16 what is not quantized? Qualcomm's HTP does, unless told otherwise."""
        htp = "htp" in self._backend().lower()
        return self.name == QNN and htp and self.options.get("enable_htp_fp16_precision", "1") != "0"

    def adapter(self) -> str:
        """What it computes on, as far as can be told."""
        if self.name == QNN:
            kind = "HTP" if "htp" in self._backend().lower() else Path(self._backend()).stem
            # For other processors than Qualcomm's, the library of that name is a simulation of the NPU.
            simulated = platform.machine() in ("x86_64", "AMD64")
            return f"QNN {kind} simulator ({platform.machine()})" if simulated else f"QNN {kind}"
        return vulkan.adapter() if self.name == WEBGPU else ""

    def _backend(self) -> str:
        return self.options.get("backend_path", "") or self.options.get("backend_type", "")


def find(delegate: str, given: Mapping[str, str], sent: Sequence[Path]) -> Provider:
    """The provider for a delegate. NotAvailable where this build has none, StageError for a library that is none."""
    # Keys of a session's own configuration have a dot, those of providers have none.
    options = {key: value for key, value in given.items() if "." not in key}
    if sent:
        return _from_library(delegate, options, sent[0])
    if delegate == "cpu":
        if options:
            raise StageError(f"onnxruntime on the CPU has no option {', '.join(sorted(options))}")
        return Provider(CPU)
    installed = ort.get_available_providers()
    wanted = DELEGATES.get(delegate, [f"{delegate}executionprovider"])
    for name in wanted:
        for have in (*installed, *_plugins()):
            if have.lower() == name.lower():
                return _made(str(have), delegate, options, have not in installed)
    shown = ", ".join(p.removesuffix("ExecutionProvider") for p in (*installed, *_plugins()))
    raise NotAvailable(f"this build of onnxruntime has no provider for {delegate!r}; it has {shown}")


def names() -> list[str]:
    """Every provider that is installed here, plugins included."""
    return list(dict.fromkeys([*ort.get_available_providers(), *_plugins()]))


def _plugins() -> list[str]:
    return [name for name, package in PLUGINS.items() if importlib.util.find_spec(package) is not None]


def _made(name: str, delegate: str, options: Mapping[str, str], plugin: bool) -> Provider:
    package = importlib.import_module(PLUGINS[name]) if plugin else None
    backend = QNN_BACKENDS.get(delegate) if name == QNN else None
    if backend is not None and not {"backend_path", "backend_type"} & set(options):
        # A build that has the provider finds its backends by the loader, and takes one of its own choice where none is
        # named. Their kind (`backend_type`) older builds do not know, and ignore.
        path = getattr(package, f"get_qnn_{backend}_path")() if plugin else f"libQnn{backend.title()}.so"
        options = {"backend_path": path, **options}
    return Provider(name, options, _devices(name, package.get_library_path()) if package is not None else ())


def _from_library(delegate: str, options: Mapping[str, str], library: Path) -> Provider:
    libraries.check(library)
    return Provider(delegate, options, _devices(delegate, str(library)))


def _devices(name: str, library: str) -> list[Any]:
    """What a plugin's library computes on here."""
    if not hasattr(ort, "register_execution_provider_library"):
        raise NotAvailable(f"onnxruntime {ort.__version__} takes no plugins: 1.23 or newer does")
    before = {device.ep_name for device in ort.get_ep_devices()}
    try:
        ort.register_execution_provider_library(name, library)
    except Exception as error:  # a class of its own for each status code
        said = str(error).strip().partition("\n")[0].partition(" with error: ")[0] or type(error).__name__
        raise StageError(f"{Path(library).name} is no provider for onnxruntime: {said}") from error
    found = [device for device in ort.get_ep_devices() if device.ep_name not in before]
    if not found:
        raise NotAvailable(f"{Path(library).name} finds no device here")
    return found
