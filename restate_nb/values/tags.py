"""How what JSON has no word for is marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

TAG: Final = "$rnb"

Write = Callable[[Any], Any]
"""Writes a value that lies within another."""

Read = Callable[[Any], Any]
"""Reads a value that lies within another."""


def tagged(kind: str, value: object, **more: object) -> dict[str, object]:
    """A value of that kind, as an object of JSON."""
    return {TAG: kind, "v": value, **more}
