"""What a frame shows of a value or an item that cannot be brought back: one such never takes the others with it."""

from __future__ import annotations

from typing import Any

from restate_nb.values.classes import Classes
from restate_nb.values.codec import decode


class Unreadable:
    """Stands for a value that is recorded and cannot be brought back here: its class or a package is not known.

    Attributes:
        reason: why, and what to do.
        plain: what can be read of it: an object's fields as a dict; None where nothing can.

    Example:
        import restate_nb as rnb

        frame = job.frame()
        frame[[isinstance(value, rnb.Unreadable) for value in frame["value"]]]
    """

    __slots__ = ("plain", "reason")

    def __init__(self, reason: str, plain: Any = None) -> None:
        self.reason = reason
        self.plain = plain

    def __repr__(self) -> str:
        return f"<not readable: {self.reason}>"


def unreadable(error: Exception, raw: bytes) -> Unreadable:
    """What stands for a value that could not be brought back.

    Args:
        error: why not.
        raw: its bytes.
    """
    try:
        plain = decode(raw, Classes(plain=True))
    except Exception:  # whatever reading it did once, it may do again
        plain = None
    return Unreadable(_why(error), plain)


def _why(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__
