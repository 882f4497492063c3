"""Model files on the host: which files belong together, their hashes, and nothing that needs a runtime."""

from __future__ import annotations

import hashlib
import mmap
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pocketbench.errors import UsageError

FORMATS = {".tflite": "tflite", ".onnx": "onnx", ".ort": "onnx", ".param": "ncnn"}


@dataclass(frozen=True)
class PlacedFile:
    """A file as the device sees it: `name` is its relative path beside the model."""

    name: str
    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelFile:
    """A model and what belongs to it; files[0] is the model itself."""

    path: Path
    files: tuple[PlacedFile, ...]
    # How it was made, where this product made it; fp32 is the original of the others.
    recipe: str | None = None

    @property
    def name(self) -> str:
        """The file name without its suffix; bytes that are no UTF-8, which no database takes, escaped."""
        return self.path.stem.encode("utf-8", "backslashreplace").decode()

    @property
    def file_name(self) -> str:
        """The file name, made printable."""
        return printable(self.path.name)

    @property
    def suffix(self) -> str:
        """Lower case, with its dot."""
        return self.path.suffix.lower()

    @property
    def format(self) -> str | None:
        """tflite, onnx, ncnn, or None."""
        return FORMATS.get(self.suffix)

    @property
    def sha256(self) -> str:
        """Of the model file itself."""
        return self.files[0].sha256

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files)


def open_model(path: Path) -> ModelFile:
    """Find and hash the files of a model. UsageError: missing, a folder, unreadable, or external data missing."""
    name = f"model{path.suffix.lower()}"
    files = [place(path, name, "--model")]
    if path.suffix.lower() == ".onnx":
        locations = sorted(external_data(path))
        # The model finds its data by name, so that a clash is avoided by the model's own.
        while name in {str(PurePosixPath(location)) for location in locations}:
            name = f"_{name}"
        files = [replace(files[0], name=name)]
        for location in locations:
            pure = PurePosixPath(location)
            if pure.is_absolute() or ".." in pure.parts:
                raise UsageError(f"{path}: its external data lies outside its folder ({location!r}): refused")
            data = path.parent / pure
            if not data.is_file():
                raise UsageError(f"{path}: its external data file {location!r} is missing (looked for {data})")
            files.append(place(data, location, "--model"))
    if path.suffix.lower() == ".param":
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise UsageError(f"{path}: its weights are missing (looked for {weights})")
        files.append(place(weights, "model.bin", "--model"))
    return ModelFile(path, tuple(files))


def place(path: Path, name: str, option: str) -> PlacedFile:
    """Hash one file. UsageError, naming the option that gave it, where it cannot be read."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise UsageError(f"{option} {path}: is a folder, not a file")
        if not stat.S_ISREG(kind):
            # A pipe, or a device of the system: it could be read for ever.
            raise UsageError(f"{option} {path}: is no ordinary file")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        return PlacedFile(name, path, digest.hexdigest(), path.stat().st_size)
    except FileNotFoundError as error:
        raise UsageError(f"{option} {path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}") from error


def printable(text: str) -> str:
    """Names are labels: whatever could break a table or a terminal is shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def external_data(path: Path) -> set[str]:
    """The `location`s of tensors that an .onnx keeps in other files.

    Walks the protobuf wire format (ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.external_data
    = 13; https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) without reading the weights, so that it costs
    little even for gigabytes. What does not parse ends the walk: the runtime on the device judges a broken file.
    """
    found: set[str] = set()
    if path.stat().st_size == 0:
        return found
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for graph in _fields(data, 0, len(data), 7):
            for tensor in _fields(data, *graph, 5):
                for entry in _fields(data, *tensor, 13):
                    keys = [data[a:b] for a, b in _fields(data, *entry, 1)]
                    values = [data[a:b] for a, b in _fields(data, *entry, 2)]
                    if keys == [b"location"] and values:
                        found.add(values[0].decode(errors="replace"))
    return found


def _fields(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each length-delimited field with that number."""
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, position = _varint(data, position, end)
        elif kind == 1:
            position += 8
        elif kind == 5:
            position += 4
        elif kind == 2:
            length, position = _varint(data, position, end)
            if position + length > end:
                return
            if number == wanted:
                yield position, position + length
            position += length
        else:
            return


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
    return 0, end
