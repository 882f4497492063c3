"""devices.yaml: which devices there are and how they are reached."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pocketbench.errors import ConfigError, UsageError, nearest

VARIABLE = "POCKETBENCH_DEVICES"
LOCAL = "local"
# As `python`: nothing of ours runs there, and the agent drives the device from this host.
HOST = "host"
# Before a kind: whichever of its devices is free.
ANY = "any:"
DEVICE_METERS = ("battery", "dumpsys", "odpm", "hwmon", "iio", "pmic", "rapl", "powerstats")
OUTSIDE_METERS = ("shelly", "tasmota")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Power(_Strict):
    """Where power is read, and what the readings mean."""

    meter: str | None = None
    sign: Literal[1, -1] | None = None
    unit: Literal["uA", "mA", "A", "uW", "mW", "W"] | None = None
    rails: tuple[str, ...] = ()
    external_supply: bool = False
    switch: dict[Literal["off", "on"], str] | None = None

    @field_validator("meter")
    @classmethod
    def _known(cls, meter: str | None) -> str | None:
        name, colon, address = (meter or "").partition(":")
        known = OUTSIDE_METERS if colon else DEVICE_METERS
        if meter is not None and (name not in known or (colon and not address)):
            told = f"{', '.join(DEVICE_METERS)}, or {', '.join(f'{name}:ADDRESS' for name in OUTSIDE_METERS)}"
            raise ValueError(f"unknown meter {meter!r}{nearest(meter, DEVICE_METERS)}; known: {told}")
        return meter

    @field_validator("switch")
    @classmethod
    def _both(cls, switch: dict[str, str] | None) -> dict[str, str] | None:
        if switch is not None and not (switch.get("off") and switch.get("on")):
            raise ValueError("both commands are needed, off and on")
        return switch


class Prepare(_Strict):
    """What an Android device is set to while it is measured; True on, False off, None as it is."""

    stay_awake: bool | None = None
    airplane_mode: bool | None = None
    battery_saver: bool | None = None
    doze: bool | None = None
    screen: bool | None = None
    wake_lock: bool | None = None
    foreground: bool | None = None


class DelegateEntry(_Strict):
    """A delegate of a device: another name for one (`base`), its options, and what is sent for it.

    `library` is loaded by the worker, `files` lie beside it; paths are relative to the file that names them.
    """

    base: str | None = None
    library: Path | None = None
    files: tuple[Path, ...] = ()
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> DelegateEntry:
        if self.files and self.library is None:
            raise ValueError("'files' lie beside a 'library', and there is none")
        return self


class NativeToolEntry(_Strict):
    """A vendor's benchmark program: a path of this host, relative to the file that names it, or `device:PATH`; files
    of this host that lie beside it. Written as the path alone where that is all.
    """

    path: str
    files: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, told: Any) -> Any:
        return {"path": told} if isinstance(told, str) else told

    @model_validator(mode="after")
    def _whole(self) -> NativeToolEntry:
        bare = self.path.removeprefix("device:")
        if not bare or (bare != self.path and not bare.startswith("/")):
            raise ValueError("give a path of this host, or device:/an/absolute/path")
        return self


Reached = Literal["local", "adb", "ssh"]


class _Keys(_Strict):
    serial: str | None = None
    address: str | None = None
    adb: Literal["server", "direct"] | None = None
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str | None = None
    key: str | None = None
    host_key: str | None = None
    tags: tuple[str, ...] = ()
    kind: str | None = None
    lab_host: str | None = None
    workdir: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    python: str | None = None
    delegates: dict[str, DelegateEntry] = Field(default_factory=dict)
    power: Power | None = None
    cpus: tuple[int, ...] = ()
    native_tools: dict[str, NativeToolEntry] = Field(default_factory=dict)
    prepare: Prepare | None = None
    cooldown: float | Literal["auto"] | None = None
    agent: Path | None = None
    # A program with its arguments that takes the device's power away and gives it back.
    power_cycle: tuple[str, ...] = ()

    @field_validator("workdir")
    @classmethod
    def _path(cls, workdir: str | None) -> str | None:
        # It becomes part of PYTHONPATH, and of lines that the device answers.
        if workdir is not None and (not workdir.isprintable() or ":" in workdir):
            raise ValueError("a colon, or a character that cannot be printed, has no place in it")
        return workdir


class DeviceEntry(_Keys):
    """One device."""

    transport: Reached

    @model_validator(mode="after")
    def _elsewhere(self) -> DeviceEntry:
        if self.driven and self.transport == "local":
            raise ValueError("'python: host' is for devices over adb or ssh: the agent of a local one runs here anyway")
        return self

    @property
    def driven(self) -> bool:
        """Does the agent stay on this host, and start the vendor's tool by the device's shell?"""
        return self.python == HOST


class Defaults(_Keys):
    """What a device has unless it says otherwise."""

    transport: Reached | None = None


class DevicesFile(_Strict):
    """The whole file."""

    defaults: Defaults = Field(default_factory=Defaults)
    devices: dict[str, DeviceEntry] = Field(default_factory=dict)


def find(option: Path | None) -> Path | None:
    """--devices, else $POCKETBENCH_DEVICES, else ./devices.yaml, else the user's config folder; None: none."""
    for given, source in ((option, "--devices"), (os.environ.get(VARIABLE), VARIABLE)):
        if given:
            path = Path(given)
            if not path.is_file():
                raise UsageError(f"{source} {path}: {'is a folder' if path.is_dir() else 'no such file'}")
            return path
    import platformdirs

    candidates = (Path("devices.yaml"), Path(platformdirs.user_config_dir("pocketbench")) / "devices.yaml")
    return next((path for path in candidates if path.is_file()), None)


def load(path: Path | None) -> Mapping[str, DeviceEntry]:
    """All devices, `local` always among them. ConfigError names file, line, key and the nearest key."""
    if path is None:
        return {LOCAL: DeviceEntry(transport="local")}
    documents = tree_of(path)
    found: dict[str, DeviceEntry] = {}
    for tree in documents or [None]:
        for name, entry in _devices(path, tree).items():
            if name in found:
                raise ConfigError(f"{path}:{line_of(tree, ('devices', name))}: {name} is in the file twice")
            found[name] = entry
    return {LOCAL: DeviceEntry(transport="local"), **found}


def tree_of(path: Path) -> list[Any]:
    """The documents of a YAML file, with the lines of their keys. ConfigError names file and line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return [document for document in YAML(typ="rt").load_all(path.read_text()) if document is not None]
    except MarkedYAMLError as error:
        line = (error.problem_mark.line + 1) if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem or error.context}") from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _devices(path: Path, tree: Any) -> Mapping[str, DeviceEntry]:
    """Of one document; a file may have several (`---`), each with its own defaults."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}:1: must hold a mapping with the key 'devices'")
    try:
        found = DevicesFile.model_validate(_with_defaults(tree)).devices
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}:{line_of(tree, first['loc'])}: {_explain(first)}") from error
    return {name: _placed(entry, path.parent) for name, entry in found.items()}


def _placed(entry: DeviceEntry, folder: Path) -> DeviceEntry:
    """The libraries of its delegates, and its tools, by whole paths."""
    delegates = {
        name: one.model_copy(
            update={
                "library": one.library and folder / one.library.expanduser(),
                "files": tuple(folder / file.expanduser() for file in one.files),
            }
        )
        for name, one in entry.delegates.items()
    }
    tools = {
        name: one.model_copy(
            update={
                "path": _whole(one.path, folder),
                "files": tuple(_whole(file, folder) for file in one.files),
            }
        )
        for name, one in entry.native_tools.items()
    }
    return entry.model_copy(update={"delegates": delegates, "native_tools": tools})


def _whole(path: str, folder: Path) -> str:
    return path if path.startswith("device:") else str(folder / Path(path).expanduser())


def with_kinds(devices: Mapping[str, DeviceEntry]) -> Mapping[str, DeviceEntry]:
    """The devices, and `any:KIND` for each kind, which is what its first device is."""
    kinds = {f"{ANY}{entry.kind}": entry for entry in reversed(list(devices.values())) if entry.kind}
    return {**devices, **kinds}


def select(wanted: Sequence[str], devices: Mapping[str, DeviceEntry]) -> list[str]:
    """Device names for what was typed: a name before a tag, `all` = every device of the file, each once."""
    chosen: dict[str, None] = {}
    named = {name: entry for name, entry in devices.items() if not name.startswith(ANY)}
    tags = {tag for entry in named.values() for tag in entry.tags}
    for word in wanted:
        if word in devices:
            found: Iterator[str] = iter([word])
        elif word == "all":
            found = (name for name in named if name != LOCAL or len(named) == 1)
        elif word in tags:
            found = (name for name, entry in named.items() if word in entry.tags)
        else:
            known = ", ".join(devices)
            raise UsageError(f"unknown device {word!r}{nearest(word, [*devices, *tags])}; known: {known}")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _with_defaults(tree: Any) -> Any:
    defaults = tree.get("defaults") or {}
    devices = tree.get("devices") or {}
    if not isinstance(devices, dict) or not isinstance(defaults, dict):
        return tree
    merged = {name: {**defaults, **entry} if isinstance(entry, dict) else entry for name, entry in devices.items()}
    return {**tree, "defaults": defaults, "devices": merged}


def line_of(tree: Any, location: Sequence[int | str]) -> int:
    """The line of the innermost part of `location` that the file has."""
    line = 1
    node = tree
    for part in location:
        marks = getattr(node, "lc", None)
        if isinstance(node, list) and marks is not None and isinstance(part, int) and part < len(node):
            line, node = marks.item(part)[0] + 1, node[part]
            continue
        if marks is None or not isinstance(node, dict) or part not in node:
            break
        line = marks.key(part)[0] + 1
        node = node[part]
    return line


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] = DevicesFile
        if len(location) > 1:
            parts: Mapping[str, type[BaseModel]] = {
                "power": Power,
                "prepare": Prepare,
                "delegates": DelegateEntry,
                "native_tools": NativeToolEntry,
            }
            model = parts.get("".join(location[2:3]), DeviceEntry) if len(location) > 3 else DeviceEntry
        inside = f" in {'.'.join(location[:-1])}" if len(location) > 1 else ""
        return f"unknown key {location[-1]!r}{nearest(location[-1], model.model_fields)}{inside}"
    return f"{where}: {error['msg']}"
