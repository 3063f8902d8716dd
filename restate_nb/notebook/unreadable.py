"""What a frame shows of a value or an item that cannot be brought back: one such never takes the others with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from restate_nb.engine.codec import decode
from restate_nb.engine.objects import Classes


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


def readable(read: Callable[[], Any], raw: Callable[[], bytes]) -> Any:
    """What `read` gives, or what stands for it.

    Args:
        read: brings the value back.
        raw: its bytes.
    """
    try:
        return read()
    except Exception as error:  # a class of the user's own may do anything when it is made again
        return Unreadable(_why(error), _plain(raw))


def _why(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def _plain(raw: Callable[[], bytes]) -> Any:
    try:
        return decode(raw(), Classes(plain=True))
    except Exception:
        return None
