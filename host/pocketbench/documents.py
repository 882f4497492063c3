"""Dataclasses as JSON, and back."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R")


def to_doc(value: Any) -> Any:
    """The JSON form of a result or a part of it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_doc(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_doc(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_doc(item) for item in value]
    return value


def from_doc(kind: type[R], doc: Mapping[str, Any]) -> R:
    """A dataclass from its JSON form; unknown keys are ignored, missing ones take their default."""
    hints = get_type_hints(kind)
    known = {f.name: _build(hints[f.name], doc[f.name]) for f in fields(kind) if f.name in doc}  # type: ignore[arg-type]
    return kind(**known)


def _build(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    if is_dataclass(hint):
        return from_doc(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is not None and isinstance(value, list):
        inner = get_args(hint)[0] if get_args(hint) else Any
        return tuple(_build(inner, item) for item in value)
    return value
