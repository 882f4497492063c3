"""What a worker can say about a job that did not go well."""

from __future__ import annotations


class StageError(Exception):
    """The model or its inputs cannot be used; the message is for the user."""


class NotAvailable(Exception):
    """This device, runtime or build cannot do what was asked (a delegate that is not installed)."""
