"""A token: kept out of representations, errors and tracebacks."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

HIDDEN: Final = "•••"


class Secret:
    """A text that shows itself to nobody who does not ask for it by name.

    Example:
        >>> Secret("s3cret")
        <Secret>
        >>> Secret("s3cret").hide("the token s3cret is not valid")
        'the token ••• is not valid'
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def header(self) -> str:
        """The value of the header `Authorization`, with a representation that does not tell it."""
        return _Bearer(f"Bearer {self._text}")

    @property
    def is_plain(self) -> bool:
        """Whether a header can hold it."""
        return self._text.isascii() and self._text.isprintable() and " " not in self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def hide(self, text: str) -> str:
        """A text that others wrote, such as an error of the server, without the secret."""
        return text.replace(self._text, HIDDEN)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text, other._text)

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "<Secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A token is not sent to other processes: read it there, from the environment or a file.")


class _Bearer(str):
    """What goes into a request; HTTP clients have it in local variables, which some tracebacks print."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'Bearer {HIDDEN}'"
