"""Adding a device to devices.yaml: lines are added to the user's text, which otherwise stays byte for byte.

The text is edited where ruamel says that the last device ends, for writing the parsed tree again would reflow it.
The outcome is parsed before it replaces the file: what cannot be edited safely is refused with the line to add.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pocketbench.config.devices import LOCAL, VARIABLE, DeviceEntry, find, load
from pocketbench.errors import ConfigError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
NAME_RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, 63 at most"
RESERVED = ("all", LOCAL)
NEW_FILE = "# Devices that `bench --device NAME` can reach; `local` (this machine) needs no entry.\n"
LONGEST_PROPOSAL = 24
WAIT_S = 10.0


def target(option: Path | None) -> Path:
    """The file to add to: as `find` has it, but it may be new; else ./devices.yaml. UsageError where it cannot be."""
    named = option or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    path = named if named is not None and not named.exists() else find(option) or Path("devices.yaml")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    return path


def check_name(name: str, devices: Mapping[str, DeviceEntry]) -> str:
    """The name, if a new device may have it. UsageError says why not."""
    if not NAME.fullmatch(name):
        raise UsageError(f"--name {name!r}: a device's name is {NAME_RULE}")
    if name in RESERVED:
        raise UsageError(f"--name {name}: means something already: give another")
    if name in devices:
        raise UsageError(f"--name {name}: there is a device of that name already: give another")
    tagged = [other for other, entry in devices.items() if name in entry.tags]
    if tagged:
        raise UsageError(f"--name {name}: is a tag of {', '.join(tagged)}: give another")
    return name


def propose_name(model: str, fallback: str, devices: Mapping[str, DeviceEntry]) -> str:
    """A name that `check_name` accepts, from a device's model: `Pixel 8` is pixel8, `Raspberry Pi 5 Model B` pi5."""
    short = re.sub(r"\b(model|rev|revision)\b.*", "", model.lower())
    short = re.sub(r"raspberry ?pi", "pi", re.sub(r"^google ", "", short))
    made = [
        re.sub(r"[^a-z0-9]+", "", short)[:LONGEST_PROPOSAL],
        re.sub(r"[^a-z0-9-]+", "", fallback.lower())[:LONGEST_PROPOSAL],
    ]
    stem = next((text for text in made if NAME.fullmatch(text)), "device")
    taken = {*devices, *RESERVED, *(tag for entry in devices.values() for tag in entry.tags)}
    return next(name for name in _numbered(stem) if name not in taken)


def as_loaded(path: Path, told: Mapping[str, str | int]) -> DeviceEntry:
    """The entry as it will be once it is in the file, whose defaults it gets."""
    given = _plain(path.read_bytes().decode()).get("defaults") if path.exists() else None
    return DeviceEntry.model_validate({**(given or {}), **told})


def add(path: Path, name: str, told: Mapping[str, str | int]) -> str:
    """Write one more device; the line that was added. ConfigError: the file cannot be edited, and is as it was."""
    load(path if path.exists() else None)
    path = path.resolve()
    line = f"{_scalar(name)}: {{{', '.join(f'{key}: {_scalar(value)}' for key, value in told.items())}}}"
    with _successor(path) as fresh:
        try:
            before = path.read_bytes() if path.exists() else NEW_FILE.encode()
            text = before.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        try:
            after = inserted(text, line)
            good = _holds(text, after, line, name, told)
        except Exception:
            # ruamel raises all sorts on text that was cut at the wrong place.
            good = False
        if not good:
            raise ConfigError(f"{path}: is written in a way that cannot be added to: add this below 'devices': {line}")
        _write(fresh, after.encode())
        if path.exists():
            shutil.copymode(path, fresh)
            if path.read_bytes() != before:
                raise ConfigError(f"{path}: was changed by somebody else just now: run this again")
        fresh.replace(path)
    return line


def inserted(text: str, line: str) -> str:
    """The text with one more line below `devices`; wrong for some exotic texts, so that the caller looks."""
    newline = "\r\n" if "\r\n" in text else "\n"
    root = _compose(text)
    pairs = root.value if root is not None else []
    found = [(key, value) for key, value in pairs if key.value == "devices"]
    if not found:
        return f"{_ended(text, newline)}devices:{newline}  {line}{newline}"
    key, value = found[0]
    if root.flow_style and value.value == []:
        inside = value.end_mark.index - 1
        return f"{text[:inside]}{line}{text[inside:]}"
    if not value.value or not isinstance(value.value, list):
        # `devices:`, `devices: {}`, `devices: null`: what says "none" goes.
        start, end = value.start_mark, value.end_mark
        if start.line == key.end_mark.line:
            text = text[: start.index].rstrip(" ") + text[end.index :]
        return _below(text, key.end_mark.index, f"{' ' * (key.start_mark.column + 2)}{line}", newline)
    if value.flow_style:
        end = value.value[-1][1].end_mark.index
        return f"{text[:end]}, {line}{text[end:]}"
    indent = " " * value.value[0][0].start_mark.column
    return _below(text, _end(value), indent + line, newline)


def _compose(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="rt").compose(text)


def _end(node: Any) -> int:
    """Where the last thing in a node ends; a block collection itself ends only where the next thing begins."""
    if isinstance(node.value, list) and not node.flow_style:
        leaves = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        return max((_end(leaf) for leaf in leaves), default=node.start_mark.index)
    # A value that is left out is said to stand where the next thing begins.
    empty = node.start_mark.index == node.end_mark.index
    return -1 if empty else int(node.end_mark.index)


def _below(text: str, index: int, line: str, newline: str) -> str:
    """One line more, after the one that has that place."""
    # A block of text ends behind its own line break.
    at = index if text[index - 1] == "\n" else text.find("\n", index) + 1 or len(text)
    return f"{_ended(text[:at], newline)}{line}{newline}{text[at:]}"


def _ended(text: str, newline: str) -> str:
    return text if not text or text.endswith("\n") else text + newline


def _holds(before: str, after: str, line: str, name: str, told: Mapping[str, str | int]) -> bool:
    """Is the new text the old one with that device, every other value and comment kept?"""
    old, new = _plain(before), _plain(after)
    devices = new["devices"]
    if list(devices)[-1] != name or devices.pop(name) != dict(told):
        return False
    if {**new, "devices": devices} != {**old, "devices": old.get("devices") or {}}:
        return False
    return _comments(after.replace(line, "", 1)) == _comments(before)


def _comments(text: str) -> list[str]:
    return [line[line.index("#") :] for line in text.split("\n") if "#" in line]


def _plain(text: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    found = YAML(typ="safe", pure=True).load(text)
    return {} if found is None else dict(found)


def _scalar(value: str | int) -> str:
    """Plain where YAML reads the same text again, quoted otherwise."""
    if isinstance(value, int):
        return str(value)
    if re.fullmatch(r"[A-Za-z0-9/~][A-Za-z0-9/~._@+ =-]*", value, re.ASCII) and not value.endswith(" "):
        try:
            if _plain(f"{{x: {value}}}") == {"x": value}:
                return value
        except Exception:
            # Not what it looks like: quoted, it is.
            pass
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value) + '"'


@contextlib.contextmanager
def _successor(path: Path) -> Iterator[Path]:
    """The file that will take the path's name once it is whole; that it is there keeps others from adding meanwhile."""
    fresh = path.with_name(f".{path.name}.new")
    deadline = time.monotonic() + WAIT_S
    try:
        while True:
            try:
                os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                break
            except FileExistsError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{path}: somebody else is adding to it; if nobody is, remove {fresh}") from None
                time.sleep(0.02)
        try:
            yield fresh
        except BaseException:
            # Only then: once it has the path's name, one of that name is somebody else's.
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    """To the disk itself, so that a crash leaves the old file or the new one."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _numbered(stem: str) -> Iterable[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
