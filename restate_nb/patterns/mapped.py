"""The type of what helpers return that apply a function to items."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar, overload

from restate_nb.patterns.mypy_base import MypyBase

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Mapped(MypyBase, Generic[R_co]):
    """A coroutine that returns the list of what a function's results came to; `R_co` is what the function returns.

    Only type checkers see this class: with it they infer the values of a lambda, too, whether it returns them or
    something to await.
    """

    @overload
    def __await__(self: Mapped[Awaitable[T]]) -> Generator[Any, Any, list[T]]: ...
    @overload
    def __await__(self: Mapped[T]) -> Generator[Any, Any, list[T]]: ...
    def __await__(self) -> Any:
        """The values, in the order of the items."""
        raise NotImplementedError
