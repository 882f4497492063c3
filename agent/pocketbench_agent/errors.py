"""What a worker can say about a job that did not go well."""

from __future__ import annotations


class StageError(Exception):
    """The model or its inputs cannot be used; the message is for the user."""


class ProgramEnded(Exception):
    """A program that the worker had started ended by a signal, or (signal 0) without a result."""

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


class NotAvailable(Exception):
    """This device, runtime or build cannot do what was asked (a delegate that is not installed)."""


class LinkGone(Exception):
    """The host that has commands run on the device for this agent does not answer."""
