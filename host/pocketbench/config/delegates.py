"""Delegates as users name them: a word of the vocabulary, a name of devices.yaml, or `external:PATH`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pocketbench.config.devices import DelegateEntry, DeviceEntry
from pocketbench.errors import UsageError, nearest
from pocketbench.models import place
from pocketbench.plan import DELEGATES, EXTERNAL, PLAIN, DelegateSetup

# Where a delegate's files lie on the device, beside the model's own.
FOLDER = ".delegate"


def setups(wanted: Sequence[str], device: str, entry: DeviceEntry) -> Mapping[str, DelegateSetup]:
    """What stands behind each name on that device. UsageError where a library is missing, or a base is unknown."""
    return {name: setup for name in wanted if (setup := _setup(name, device, entry)) != PLAIN}


def _setup(name: str, device: str, entry: DeviceEntry) -> DelegateSetup:
    base, colon, path = name.partition(":")
    if base == EXTERNAL and colon:
        told = entry.delegates.get(EXTERNAL, DelegateEntry())
        return _made(EXTERNAL, told.model_copy(update={"library": Path(path).expanduser()}), f"--delegate {EXTERNAL}:")
    told = entry.delegates.get(name, DelegateEntry())
    if told.base is not None and told.base not in (*DELEGATES, EXTERNAL):
        hint = nearest(told.base, DELEGATES)
        raise UsageError(f"{device}: delegate {name!r} has the unknown base {told.base!r}{hint}")
    if name not in DELEGATES and told.base is None and told.library is not None:
        told = told.model_copy(update={"base": EXTERNAL})
    return _made(told.base, told, f"{device}: delegate {name}: library")


def _made(base: str | None, told: DelegateEntry, option: str) -> DelegateSetup:
    paths = [path for path in (told.library, *told.files) if path is not None]
    files = tuple(place(path, f"{FOLDER}/{path.name}", option) for path in paths)
    if len({file.name for file in files}) < len(files):
        raise UsageError(f"{option}: two files of the same name cannot lie in one folder")
    return DelegateSetup(base, tuple((key, _text(value)) for key, value in told.options.items()), files)


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
