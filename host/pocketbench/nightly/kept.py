"""What a baseline is made of, kept by content on this host: years later its pairs need the very files."""

from __future__ import annotations

import shutil
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy.remote import sources
from pocketbench.errors import UsageError
from pocketbench.models import PlacedFile, place
from pocketbench.plan import Case
from pocketbench.request import case_of


def folder() -> Path:
    """Files named by their sha256, and agents by their build."""
    return Path(platformdirs.user_data_dir("pocketbench")) / "kept"


def keep(case: Case, agent_build: str | None) -> None:
    """Copy a case's files, and the agent that measured it if it is today's. OSError where there is no room."""
    folder().mkdir(parents=True, exist_ok=True)
    for file in case.files:
        _copy(file.path, folder() / file.sha256)
    agent = sources()
    if agent_build and agent.path.stem == agent_build[:16]:
        _copy(agent.path, folder() / f"agent-{agent.path.name}")


def case(doc: Mapping[str, Any]) -> Case:
    """A case that was kept, from how the store describes it. UsageError names the file that is not here."""
    return case_of(doc, _kept)


def with_agent(entry: DeviceEntry, build: str) -> DeviceEntry:
    """The device with an earlier agent of ours. UsageError where that one was not kept here."""
    if entry.lab_host is not None:
        raise UsageError(f"the agent {build[:16]} of then is not sent to the lab's host {entry.lab_host}")
    archive = folder() / f"agent-{build[:16]}.zip"
    if not archive.is_file():
        raise UsageError(f"the agent {build[:16]} of then was not kept on this host")
    if entry.transport != "local":
        return entry.model_copy(update={"agent": archive})
    unpacked = Path(platformdirs.user_cache_dir("pocketbench")) / "agents" / archive.stem
    if not unpacked.is_dir():
        partial = unpacked.with_name(f"{unpacked.name}.{uuid.uuid4().hex}")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(partial)
        partial.rename(unpacked)
    return entry.model_copy(update={"env": {**entry.env, "PYTHONPATH": str(unpacked)}})


def _kept(name: str, sha256: str) -> PlacedFile:
    path = folder() / sha256
    if not path.is_file():
        raise UsageError(f"{name} of then ({sha256[:12]}) was not kept on this host")
    return place(path, name, "baseline")


def _copy(source: Path, target: Path) -> None:
    if target.is_file():
        return
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
