"""Raw samples as blobs, and processes as documents with their samples beside them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketbench.documents import from_doc, to_doc
from pocketbench.errors import StoreError
from pocketbench.measurement import Nanoseconds, Process

# Level 1: three bytes a sample, and storing stays far cheaper than measuring.
LEVEL = 1
SAMPLE_FIELDS = ("run_ns", "io_ns", "warm_up_ns", "frame_ns", "around_ns", "at_ns")


def pack(values: Nanoseconds) -> tuple[str, bytes]:
    """(codec, data) of non-negative nanoseconds."""
    wide = bool(len(values)) and int(values.max()) > np.iinfo(np.uint32).max
    kind = "u64le" if wide else "u32le"
    raw = values.astype("<u8" if wide else "<u4").tobytes()
    return f"{kind}+zlib", zlib.compress(raw, LEVEL)


def unpack(codec: str, data: bytes) -> Nanoseconds:
    """The nanoseconds of `pack`; StoreError for a codec that this version does not know."""
    kinds = {"u32le+zlib": "<u4", "u64le+zlib": "<u8"}
    if codec not in kinds:
        raise StoreError(f"the store holds samples in {codec!r}, which this version cannot read: update pocketbench")
    return np.frombuffer(zlib.decompress(data), kinds[codec]).astype(np.int64)


def pack_items(values: NDArray[np.float64]) -> tuple[str, bytes]:
    """(codec, data) of one number an item of a workload."""
    return "f64le+zlib", zlib.compress(values.astype("<f8").tobytes(), LEVEL)


def unpack_items(codec: str, data: bytes) -> NDArray[np.float64]:
    """The numbers of `pack_items`; StoreError as above."""
    if codec != "f64le+zlib":
        raise StoreError(f"the store holds items in {codec!r}, which this version cannot read: update pocketbench")
    return np.frombuffer(zlib.decompress(data), "<f8").astype(np.float64)


def split(process: Process) -> tuple[dict[str, Any], dict[str, Nanoseconds]]:
    """A process's document and its samples."""
    doc = {f.name: to_doc(getattr(process, f.name)) for f in fields(process) if f.name not in SAMPLE_FIELDS}
    return doc, {name: getattr(process, name) for name in SAMPLE_FIELDS}


def join(doc: Mapping[str, Any], samples: Mapping[str, Nanoseconds]) -> Process:
    """The process of `split`."""
    from dataclasses import replace

    return replace(from_doc(Process, doc), **samples)  # type: ignore[arg-type]
