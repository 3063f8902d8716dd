"""The fields of a value: what becomes columns of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from restate_nb.results.unreadable import Unreadable


def fields_of(value: Any) -> dict[Any, Any] | None:
    """The fields of a dict, dataclass, model or named tuple, or what can be read of them; None for all else."""
    if isinstance(value, Unreadable):
        value = value.plain
    if isinstance(value, dict):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    for name in ("model_dump", "_asdict"):  # pydantic, which need not be installed, and named tuples
        if hasattr(type(value), name):
            return dict(getattr(value, name)())
    return None
