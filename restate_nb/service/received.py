"""Reads documents that Restate gave back: whoever can write there, or answers in its place, may have made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from restate_nb.errors import ServerError

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class _Decoder(Protocol[T_co]):
    def decode(self, buf: bytes | str, /) -> T_co: ...


def received(decoder: _Decoder[T], body: bytes | str, what: str) -> T:
    """What the document says.

    Args:
        decoder: of its type.
        body: the document.
        what: it is, for the message.

    Raises:
        ServerError: it is none.
    """
    with reading(what):
        return decoder.decode(body)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Where something is read that Restate gave.

    Args:
        what: it is, for the message.

    Raises:
        ServerError: it is none.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ServerError(
            f"What Restate gives as {what} is none that restate_nb can read: {str(error)[:200]}. It was written by "
            "another program or by a newer restate_nb, or something else answers in its place."
        ) from None
