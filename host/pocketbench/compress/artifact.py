"""An artifact: a model file that says, inside itself, what it was made of and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KEY = "pocketbench"


@dataclass(frozen=True)
class Artifact:
    """A file and its provenance."""

    path: Path
    recipe: str
    format: str
    provenance: Mapping[str, Any]
    findings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def embed(path: Path, form: str, provenance: Mapping[str, Any]) -> None:
    """Write the provenance into the file, where any reader of the format finds metadata; the rest stays as it is."""
    text = json.dumps(provenance, sort_keys=True, separators=(",", ":"))
    if form == "onnx":
        import onnx

        model = onnx.load(path)
        kept = [entry for entry in model.metadata_props if entry.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        entry = model.metadata_props.add()
        entry.key, entry.value = KEY, text
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    tree = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    tree.metadata = [one for one in tree.metadata or [] if one.name != KEY.encode()]
    buffer, metadata = schema.BufferT(), schema.MetadataT()
    buffer.data = list(text.encode())
    metadata.name, metadata.buffer = KEY, len(tree.buffers)
    tree.buffers.append(buffer)
    tree.metadata.append(metadata)
    # Of lists each byte would be written by itself, which takes seconds.
    for one in tree.buffers:
        one.data = None if one.data is None else np.array(bytearray(one.data), np.uint8)
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(tree)))


def read(path: Path) -> Mapping[str, Any] | None:
    """The provenance inside a file; None where it has none."""
    if path.suffix == ".onnx":
        import onnx

        found = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        return dict(json.loads(found[KEY])) if KEY in found else None
    from ai_edge_litert.tools import flatbuffer_utils

    tree = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    for one in tree.metadata or []:
        if one.name == KEY.encode():
            return dict(json.loads(bytes(tree.buffers[one.buffer].data)))
    return None
