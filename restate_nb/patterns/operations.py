"""What may be given as operations, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from restate_nb.errors import InvalidInput
from restate_nb.patterns.late_binding import LateBinding
from restate_nb.patterns.sdk import is_durable_future

T = TypeVar("T")

Operation = Callable[[], Awaitable[T]] | Awaitable[T]
"""A function without arguments that returns something to await, or that awaitable itself (a durable future)."""


class AwaitableOperation:
    """An operation that was given as an awaitable: it can be used once."""

    __slots__ = ("__name__", "awaitable")

    def __init__(self, awaitable: Awaitable[object]) -> None:
        self.awaitable = awaitable
        self.__name__ = getattr(awaitable, "__name__", "")

    def __call__(self) -> Awaitable[object]:
        """The awaitable itself."""
        return self.awaitable


def operations_of(helper: str, ctx: object, given: Iterable[object]) -> list[Callable[[], object]]:
    """Check operations, and make each one callable.

    Raises:
        InvalidInput: something in it is no operation.
    """
    if not isinstance(given, Iterable):
        raise InvalidInput(f"{helper} takes a list of operations, such as [lambda: fetch(ctx, 1)], not {given!r}.")
    items = list(given)
    try:
        seen: dict[int, int] = {}
        late = LateBinding(helper)
        operations = [_operation(helper, ctx, index, item, seen) for index, item in enumerate(items)]
        for index, operation in enumerate(operations):
            late.look(index, operation)
        return operations
    except InvalidInput:
        close_unused(items)
        raise


def _operation(helper: str, ctx: object, index: int, item: object, seen: dict[int, int]) -> Callable[[], object]:
    if callable(item):
        return item
    if not inspect.isawaitable(item):
        raise InvalidInput(
            f"Operation {index} of {helper} is {item!r}. An operation is a function without arguments:\n"
            f"    wrong: {helper}(ctx, [fetch(1), 2])\n"
            f"    right: {helper}(ctx, [lambda: fetch(ctx, 1), lambda: 2])"
        )
    first = seen.setdefault(id(item), index)
    if first != index:
        raise InvalidInput(
            f"Operations {first} and {index} of {helper} are the same {type(item).__name__}. Give each its own, or a "
            "function that makes one: lambda: ctx.run_typed(...)."
        )
    if inspect.iscoroutine(item) and inspect.getcoroutinestate(item) != inspect.CORO_CREATED:
        raise InvalidInput(
            f"Operation {index} of {helper} ({item.__name__}) was awaited already. Give the function instead of the "
            f"coroutine: {helper}(ctx, [lambda: {item.__name__}(...)])."
        )
    if is_durable_future(item) and item.context is not ctx:
        raise InvalidInput(f"Operation {index} of {helper} is a durable future of another invocation.")
    return AwaitableOperation(item)


def close_unused(given: Iterable[object]) -> None:
    """Close the coroutines that nobody started, so that Python does not warn of them."""
    for item in given:
        coroutine = item.awaitable if isinstance(item, AwaitableOperation) else item
        if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()
