"""The link to one device: its transport, its agent and the session, opened anew when they break."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from pocketbench.config.devices import DeviceEntry
from pocketbench.deploy import agent as deploy
from pocketbench.errors import DeviceBusy, DeviceError, DeviceLost
from pocketbench.fleet.turns import Turns
from pocketbench.measurement import Device
from pocketbench.session.session import Session
from pocketbench.store import lease as leases
from pocketbench.transports import Completed, Transport, create

# How long a device is waited for when its link breaks.
RETURN_S = 180.0
SHELL_S = 20.0
RETRY_S = (1.0, 10.0)


class Link:
    """One device's. `info` is what the agent said of the device when it was last opened; None before."""

    def __init__(
        self, device: str, entry: DeviceEntry, stop: threading.Event, say: Callable[[str], None], turns: Turns
    ) -> None:
        self._device, self._entry, self._stop, self._say, self._turns = device, entry, stop, say, turns
        self._session: Session | None = None
        self._transport: Transport = create(device, entry)
        self.info: Device | None = None
        # Of the agent that was begun last: also when it is gone.
        self.agent_home = ""
        # Called when it was opened anew; a DeviceError there is one of the link.
        self.reopened: Callable[[], None] | None = None

    @property
    def live(self) -> Session:
        """The session. DeviceLost where there is none."""
        if self._session is None:
            raise DeviceLost(f"{self._device}: the session is closed")
        return self._session

    @property
    def is_open(self) -> bool:
        """Is there a session?"""
        return self._session is not None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Transport, agent and session, from here to the end of the block."""
        self._transport.open()
        try:
            self._connect()
            yield
        finally:
            self._disconnect()
            self._transport.close()

    def shell(self, line: str) -> Completed:
        """A line for the device's shell."""
        return self._transport.run(["sh", "-c", line], SHELL_S)

    def cancel(self) -> None:
        """Called from another thread: end the running job."""
        if self._session is not None:
            self._session.cancel()

    def reopen(self, why: str) -> None:
        """Open the device anew. DeviceLost where it does not come back in time, or has been started anew meanwhile."""
        assert self.info is not None
        before, begin, pause_s = self.info.boot_id, time.monotonic(), RETRY_S[0]
        told = False
        while True:
            self._disconnect()
            self._transport.close()
            try:
                self._transport = create(self._device, self._entry)
                self._transport.open()
                self._connect()
                if self.reopened is not None:
                    self.reopened()
                break
            except DeviceError as error:
                # An agent that hangs under our own lease is a device that hangs.
                if isinstance(error, DeviceBusy) and error.holder not in ("", leases.owner()):
                    raise
                if time.monotonic() - begin > RETURN_S or self._stop.is_set():
                    hangs = f"{self._device}: its agent hangs, and still holds the device"
                    raise DeviceLost(f"{why}; {hangs if isinstance(error, DeviceBusy) else error}") from error
            if not told:
                told = True
                self._say(f"{why}: waiting for it, {RETURN_S:.0f} s at most")
            if self._stop.wait(pause_s):
                raise DeviceLost(why)
            pause_s = min(2 * pause_s, RETRY_S[1])
        if told:
            self._say(f"{self._device}: is back after {time.monotonic() - begin:.0f} s")
        if self.info.boot_id != before:
            raise DeviceLost(f"{self._device}: was started anew while it was measured (its boot id has changed)")

    def _connect(self) -> None:
        with self._turns.taken(self._stop):
            running = deploy.launch(self._device, self._transport, self._entry, self._say)
        session = Session(self._device, running, leases.owner(), self._say)
        # A link that broke, or a host that died, left its lease behind.
        mine = leases.owner() if self.info else ""
        try:
            session.open(gone=lambda holder: holder == mine or leases.orphaned(holder))
        except BaseException:
            running.process.end()
            raise
        self._session, self.info, self.agent_home = session, session.info, running.home

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session.agent.process.end()
            self._session = None
