"""Reference outputs for devices: the same file, runtime and bytes on the host's own CPU, in an agent of its own."""

from __future__ import annotations

import platform
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import agent as deploy
from pocketbench.deploy.runtimes import archive
from pocketbench.errors import DeviceBusy, DeviceError, DeviceLost
from pocketbench.measurement import Output, Rounding
from pocketbench.models import PlacedFile
from pocketbench.plan import Case, Plan
from pocketbench.session.session import Session
from pocketbench.session.wire import JobFiles
from pocketbench.store.lease import owner
from pocketbench.transports.local import Local

ARCH = platform.machine()
Answer = TypeVar("Answer")
ATTEMPTS = 2


class HostReference:
    """One for all lanes; started by the first that asks. It is busy for a moment a model, after the rounds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._made: dict[object, list[Output] | None] = {}
        self._rounding: dict[object, list[Rounding] | None] = {}
        self._session: Session | None = None
        self._transport = Local("reference", DeviceEntry(transport="local"))

    def outputs(self, case: Case, plan: Plan, inputs: PlacedFile | None, key: object) -> list[Output] | None:
        """Outputs of one CPU thread here; None where the host cannot run the model."""
        with self._lock:
            return self._known(self._made, key, lambda: self._ask(case, plan, inputs, _outputs))

    def rounding(self, case: Case, plan: Plan, inputs: PlacedFile | None, key: object) -> list[Rounding] | None:
        """How far each output moves here when only the rounding changes; None where that cannot be told."""
        with self._lock:
            return self._known(self._rounding, key, lambda: self._ask(case, plan, inputs, Session.rounding))

    def cancel(self) -> None:
        """End what it computes now, from another thread."""
        if self._session is not None:
            self._session.cancel()

    def close(self) -> None:
        """End its agent."""
        with self._lock:
            self._drop()
            if self._home is not None:
                self._home.cleanup()

    def _known(
        self, known: dict[object, Answer | None], key: object, ask: Callable[[], Answer | None]
    ) -> Answer | None:
        """Asked once, and again where what answers was lost: what ended it says nothing of the model."""
        for _ in range(ATTEMPTS):
            if key in known:
                break
            try:
                known[key] = ask()
            except DeviceLost:
                self._drop()
        return known.get(key)

    def _ask(
        self,
        case: Case,
        plan: Plan,
        inputs: PlacedFile | None,
        question: Callable[[Session, Case, Plan, JobFiles], Answer | None],
    ) -> Answer | None:
        try:
            session = self._session or self._open()
            files = JobFiles(inputs, archive(case.runtime, session.info, self._say))
            return question(session, case.on_cpu(), plan, files)
        except DeviceLost:
            raise
        except DeviceError:
            return None

    def _open(self) -> Session:
        home = deploy.local_home().with_name("reference")
        try:
            self._session = self._start(home)
        except DeviceBusy:
            # Another command on this machine is at it.
            self._home = tempfile.TemporaryDirectory(prefix="reference-", dir=home.parent)
            self._session = self._start(Path(self._home.name))
        return self._session

    def _start(self, home: Path) -> Session:
        running = deploy.start("reference", self._transport, deploy.local_command(home))
        session = Session("reference", running, owner())
        session.open()
        return session

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._transport.close()


def _outputs(session: Session, case: Case, plan: Plan, files: JobFiles) -> list[Output] | None:
    ended, outputs = session.reference(case, plan, files)
    return outputs if ended.how == "ok" and outputs else None
