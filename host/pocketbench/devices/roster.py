"""Every device at a glance: all are contacted at once, and one that is away, locked or hung harms no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import runtimes
from pocketbench.deploy.probe import ARCHITECTURES
from pocketbench.devices import abilities
from pocketbench.devices.survey import Survey, survey, unusable
from pocketbench.errors import DeviceError, NotReachable
from pocketbench.plan import NATIVE
from pocketbench.transports import create

# A little more than any transport waits for a connection, so that its own word is heard.
PATIENCE_S = 18.0
READY, BUSY, NOT_USABLE, UNREACHABLE = "ready", "busy", "not usable", "unreachable"


@dataclass(frozen=True)
class Row:
    """One device of the list; `remedy` is empty where nothing needs to be done."""

    name: str
    transport: str
    address: str
    state: str
    remedy: str = ""
    host_key: str = ""
    survey: Survey | None = None
    runtimes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    delegates: tuple[str, ...] = ()


def address(entry: DeviceEntry) -> str:
    """How a device is reached, in a word."""
    if entry.transport == "ssh":
        user = f"{entry.user}@" if entry.user else ""
        return f"{user}{entry.host or '?'}{f':{entry.port}' if entry.port else ''}"
    return entry.serial or entry.address or ("any" if entry.transport == "adb" else "")


def look(devices: Mapping[str, DeviceEntry], held: Mapping[str, str | None]) -> list[Row]:
    """One row a device, in their order; `held` is who has a device by the store's leases."""
    found: dict[str, Row] = {}

    def one(name: str, entry: DeviceEntry) -> None:
        try:
            found[name] = contact(name, entry, held.get(name))
        except Exception as error:
            # Whatever one device does to its library must not cost the list of the others.
            text = f"{name}: {type(error).__name__}: {error} (a defect of pocketbench)"
            found[name] = Row(name, entry.transport, address(entry), UNREACHABLE, text)

    threads = [threading.Thread(target=one, args=item, name=item[0], daemon=True) for item in devices.items()]
    deadline = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = f"no answer within {PATIENCE_S:.0f} s: is it awake and in reach? (`bench devices check` takes its time)"
    return [
        found.get(name) or Row(name, entry.transport, address(entry), UNREACHABLE, f"{name}: {silent}")
        for name, entry in devices.items()
    ]


def contact(name: str, entry: DeviceEntry, held: str | None = None) -> Row:
    """Open, ask, close; never raises for what concerns the device."""
    base = Row(name, entry.transport, address(entry), UNREACHABLE)
    try:
        transport = create(name, entry)
    except NotReachable as error:
        return replace(base, state=error.state, remedy=str(error))
    try:
        transport.open()
        told = survey(transport, entry)
    except NotReachable as error:
        return replace(base, state=error.state, remedy=str(error), host_key=error.host_key)
    except DeviceError as error:
        return replace(base, remedy=str(error))
    finally:
        with suppress(Exception):
            transport.close()
    return judged(base, told, held, tuple(entry.native_tools) if entry.driven else None)


def judged(base: Row, told: Survey, held: str | None, tools: tuple[str, ...] | None = None) -> Row:
    """A device that answered: usable or not, busy or ready; `tools` are all that a driven one can be measured with."""
    why = unusable(told, base.transport, tools is not None)
    holder = held or told.holder
    state, remedy = READY, ""
    if why:
        state, remedy = NOT_USABLE, f"{base.name}: {why}"
    elif tools == ():
        state, remedy = (
            NOT_USABLE,
            f"{base.name}: 'python: host' needs native_tools in devices.yaml, and there are none",
        )
    elif holder:
        state, remedy = BUSY, f"{base.name}: in use by {holder}: wait for it, or end it there"
    return replace(
        base,
        state=state,
        remedy=remedy,
        survey=told,
        runtimes={} if why else _runtimes(base.transport, told.arch) if tools is None else {NATIVE: tools},
        delegates=() if why else _delegates(base.name, told.identity),
    )


def _delegates(name: str, identity: str) -> tuple[str, ...]:
    """`cpu`, and those that were seen to compute when this very device was last checked for them."""
    seen = (one.label for one in abilities.remembered(name, identity) if one.works and one.delegate != "cpu")
    return ("cpu", *seen)


def _runtimes(transport: str, arch: str) -> Mapping[str, tuple[str, ...]]:
    """Versions of each runtime that can run there, the default last: what is installed here, what can be sent there."""
    if transport == "local":
        own = {name: runtimes.installed(name) for name in runtimes.DISTRIBUTIONS}
        return {name: (version,) for name, version in own.items() if version}
    if arch not in ARCHITECTURES:
        return {}
    return {name: tuple(runtimes.versions(name)) for name in runtimes.DISTRIBUTIONS}
