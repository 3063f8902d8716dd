"""Errors of those who use the helpers: trying again cannot help, so they end the invocation.

Restate tries a handler again, for ever, that raises anything but a TerminalError. These are both: what `InvalidInput`
and `NotDurable` say, and terminal. In an operation they are nobody's outcome: the helper raises them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from restate.exceptions import TerminalError

from restate_nb.errors import InvalidInput, NotDurable

_BAD_REQUEST = 400


class TerminalInvalidInput(InvalidInput, TerminalError):
    """`InvalidInput` in a handler. Its status code is 400."""

    def __init__(self, message: str) -> None:
        TerminalError.__init__(self, message, _BAD_REQUEST)


class TerminalNotDurable(NotDurable, TerminalError):
    """`NotDurable` in an operation. Its status code is 500."""

    def __init__(self, message: str) -> None:
        TerminalError.__init__(self, message)


MISUSE = (TerminalInvalidInput, TerminalNotDurable)
"""What is never an operation's outcome."""


@contextmanager
def terminal() -> Iterator[None]:
    """Make the `InvalidInput` of a block end the invocation."""
    try:
        yield
    except TerminalError:
        raise
    except InvalidInput as error:
        raise TerminalInvalidInput(str(error)) from None
