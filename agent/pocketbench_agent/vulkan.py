"""The Vulkan adapters of this device, asked of the loader: for runtimes that compute on one and do not say on which."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_uint32, c_void_p

# https://registry.khronos.org/vulkan/specs/latest/man/html/: VkStructureType, VkPhysicalDeviceType, and the properties
# that begin with five numbers and a name of 256 bytes.
INSTANCE_CREATE_INFO = 1
CPU_TYPE = 4
NAME_AT, NAME_BYTES, PROPERTIES_BYTES = 20, 256, 2048
# Integrated, discrete, virtual: any is hardware.
LIBRARIES = ("libvulkan.so.1", "libvulkan.so")


class _CreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", c_uint32),
        ("next", c_void_p),
        ("flags", c_uint32),
        ("application", c_void_p),
        ("layer_count", c_uint32),
        ("layers", POINTER(c_char_p)),
        ("extension_count", c_uint32),
        ("extensions", POINTER(c_char_p)),
    )


def adapter() -> str:
    """The one that a runtime takes when nobody chooses: hardware before software. Empty where there is none."""
    found = sorted(adapters(), key=lambda one: one[1])
    return found[0][0] if found else ""


def adapters() -> list[tuple[str, bool]]:
    """(name, is it software?) of each; empty without a loader or a driver."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            return _enumerate(library)
        except (OSError, AttributeError):
            continue
    return []


def _enumerate(library: ctypes.CDLL) -> list[tuple[str, bool]]:
    instance, count = c_void_p(), c_uint32()
    info = _CreateInfo(type=INSTANCE_CREATE_INFO)
    if library.vkCreateInstance(byref(info), None, byref(instance)):
        return []
    try:
        if library.vkEnumeratePhysicalDevices(instance, byref(count), None) or not count.value:
            return []
        devices = (c_void_p * count.value)()
        if library.vkEnumeratePhysicalDevices(instance, byref(count), devices):
            return []
        return [_properties(library, device) for device in devices[: count.value]]
    finally:
        library.vkDestroyInstance(instance, None)


def _properties(library: ctypes.CDLL, device: int | None) -> tuple[str, bool]:
    buffer = ctypes.create_string_buffer(PROPERTIES_BYTES)
    library.vkGetPhysicalDeviceProperties(c_void_p(device), buffer)
    kind = int.from_bytes(buffer.raw[16:20], "little")
    name = buffer.raw[NAME_AT : NAME_AT + NAME_BYTES].split(b"\0", 1)[0].decode(errors="replace")
    return name, kind == CPU_TYPE
