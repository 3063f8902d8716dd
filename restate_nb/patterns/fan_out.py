"""Run operations side by side in a handler: all of them, until the first failure, or over items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar, cast, overload

from restate import Context

from restate_nb.limits import PerSecond
from restate_nb.patterns.fibre import Group, name_of
from restate_nb.patterns.mapped import Mapped
from restate_nb.patterns.misuse import TerminalInvalidInput, terminal
from restate_nb.patterns.operations import Operation, close_unused, operations_of
from restate_nb.patterns.options import Options, options_of, retried
from restate_nb.patterns.outcome import FanOutResult, FanOutTuple, Outcome
from restate_nb.patterns.scheduler import scheduler_of
from restate_nb.policy import Retry

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")
Item = TypeVar("Item")


def never(_: Outcome[Any]) -> bool:
    """Run all operations, whatever becomes of them."""
    return False


def failure(outcome: Outcome[Any]) -> bool:
    """Stop at the first failure."""
    return not outcome.ok


async def run_group(
    helper: str,
    ctx: Context,
    given: Iterable[object],
    options: Options,
    until: Callable[[Outcome[Any]], bool],
    *,
    items: list[Any] | None = None,
    pause_first: bool = False,
) -> Group[Any]:
    """Check the arguments of a helper, run its operations, and return what became of them.

    Raises:
        InvalidInput: an argument was refused.
        restate.TerminalError: the invocation was cancelled (409).
    """
    with terminal():
        scheduler = scheduler_of(ctx)
        operations = operations_of(helper, ctx, given)
    group: Group[Any] = Group(
        helper, operations, options.window, until, items=items, pause=options.pause, pause_first=pause_first
    )
    if options.retry is not None:
        group.names = dict(enumerate(map(name_of, operations)))
        group.operations = [
            retried(ctx, scheduler, each, options.retry, group.names[index]) for index, each in enumerate(operations)
        ]
    try:
        await scheduler.run(group)
    finally:
        close_unused(operations)
    return group


def values_of(group: Group[Any]) -> list[Any]:
    """The values of a group that was to stop at the first failure.

    Raises:
        OperationFailed: there was one.
    """
    if group.decided is not None and group.decided.error is not None:
        raise group.decided.failure(group.result) from group.decided.error
    return [outcome.value for outcome in group.outcomes if outcome is not None]


@overload
async def fan_out(
    ctx: Context,
    operations: tuple[Operation[A], Operation[B]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutTuple[A, B]: ...
@overload
async def fan_out(
    ctx: Context,
    operations: tuple[Operation[A], Operation[B], Operation[C]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutTuple[A, B, C]: ...
@overload
async def fan_out(
    ctx: Context,
    operations: tuple[Operation[A], Operation[B], Operation[C], Operation[D]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutTuple[A, B, C, D]: ...
@overload
async def fan_out(
    ctx: Context,
    operations: tuple[Operation[A], Operation[B], Operation[C], Operation[D], Operation[E]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutTuple[A, B, C, D, E]: ...
@overload  # of an operation that is itself a map
async def fan_out(
    ctx: Context,
    operations: Iterable[Callable[[], Mapped[Awaitable[T]]]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutResult[list[T]]: ...
@overload
async def fan_out(
    ctx: Context,
    operations: Iterable[Operation[T]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutResult[T]: ...
@overload
async def fan_out(
    ctx: Context,
    operations: Iterable[Callable[[], T]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutResult[T]: ...
@overload
async def fan_out(  # type: ignore[overload-cannot-match]  # mypy does, for `lambda item=item: ...`
    ctx: Context,
    operations: Iterable[Callable[..., Awaitable[T]]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutResult[T]: ...
async def fan_out(
    ctx: Context,
    operations: Iterable[object],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> FanOutResult[Any]:
    """Run operations side by side and collect what became of each: successes and failures.

    An operation is a function without arguments that returns something to await (an `async def` with as many durable
    steps as it likes, a durable future) or a plain value; an awaitable can be given as it is. Operations may use these
    helpers themselves. A TerminalError is the operation's failure; any other exception fails the attempt, as it does in
    a plain handler, and Restate tries again.

    Args:
        ctx: the handler's context.
        operations: what to run. A tuple of up to five keeps the type of each.
        max_concurrent: how many run at once, 50 unless told otherwise. Operations that wait for one another need as
            many as there are.
        max_per_second: how many begin a second, or `(count, seconds)`: a durable pause lies between two beginnings.
        retry: when an operation that raised is tried again, from its beginning, after a durable pause. A TerminalError
            is only if `retry_on` names it.

    Returns:
        One outcome an operation, in input order.

    Raises:
        InvalidInput: something in `operations` is no operation, or `max_concurrent` is less than 1.
        NotDurable: an operation awaited something that Restate does not record.
        restate.TerminalError: the invocation was cancelled (409); the operations got it first.

    Example:
        >>> async def handler(ctx: Context, skus: list[str]) -> list[int | None]:
        ...     result = await fan_out(ctx, [partial(ctx.service_call, get_stock, sku) for sku in skus])
        ...     return result.results
    """
    options = options_of(ctx, max_concurrent, max_per_second, retry)
    group = await run_group("fan_out", ctx, operations, options, never)
    made = FanOutTuple if isinstance(operations, tuple) else FanOutResult
    return made(tuple(outcome for outcome in group.outcomes if outcome is not None))


@overload
async def fan_out_fail(  # type: ignore[overload-overlap]  # tuples come before other iterables
    ctx: Context,
    operations: tuple[Operation[A], Operation[B]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> tuple[A, B]: ...
@overload
async def fan_out_fail(  # type: ignore[overload-overlap]  # tuples come before other iterables
    ctx: Context,
    operations: tuple[Operation[A], Operation[B], Operation[C]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> tuple[A, B, C]: ...
@overload
async def fan_out_fail(  # type: ignore[overload-overlap]  # tuples come before other iterables
    ctx: Context,
    operations: tuple[Operation[A], Operation[B], Operation[C], Operation[D]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> tuple[A, B, C, D]: ...
@overload
async def fan_out_fail(  # type: ignore[overload-overlap]  # tuples come before other iterables
    ctx: Context,
    operations: tuple[Operation[A], Operation[B], Operation[C], Operation[D], Operation[E]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> tuple[A, B, C, D, E]: ...
@overload  # of an operation that is itself a map
async def fan_out_fail(
    ctx: Context,
    operations: Iterable[Callable[[], Mapped[Awaitable[T]]]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> list[list[T]]: ...
@overload
async def fan_out_fail(
    ctx: Context,
    operations: Iterable[Operation[T]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> list[T]: ...
@overload
async def fan_out_fail(
    ctx: Context,
    operations: Iterable[Callable[[], T]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> list[T]: ...
@overload
async def fan_out_fail(  # type: ignore[overload-cannot-match]  # mypy does, for `lambda item=item: ...`
    ctx: Context,
    operations: Iterable[Callable[..., Awaitable[T]]],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> list[T]: ...
async def fan_out_fail(
    ctx: Context,
    operations: Iterable[object],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> Any:
    """Run operations side by side; the first that fails (in journal order) ends them all.

    The others are stopped: what has not started never does, and those that run get a TerminalError (409) where they
    wait, so that they can compensate; their calls in flight are cancelled. They have ended when this raises. A
    `ctx.run` action that runs already cannot be stopped; its result is not waited for.

    Args:
        ctx: the handler's context.
        operations: as for `fan_out`.
        max_concurrent: how many run at once, 50 unless told otherwise.
        max_per_second: as for `fan_out`.
        retry: as for `fan_out`.

    Returns:
        The values in input order; a tuple when `operations` is one.

    Raises:
        OperationFailed: with the `index` and the `cause` of the first failure.
        InvalidInput: as for `fan_out`.
        NotDurable: as for `fan_out`.

    Example:
        >>> async def handler(ctx: Context, order: dict) -> bool:
        ...     checks = (lambda: check_stock(ctx, order), lambda: check_card(ctx, order))
        ...     stocked, paid = await fan_out_fail(ctx, checks)
        ...     return stocked and paid
    """
    options = options_of(ctx, max_concurrent, max_per_second, retry)
    values = values_of(await run_group("fan_out_fail", ctx, operations, options, failure))
    return tuple(values) if isinstance(operations, tuple) else values


def map_concurrent(
    ctx: Context,
    items: Iterable[Item],
    fn: Callable[[Item], R],
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> Mapped[R]:
    """Apply `fn` to every item, side by side; the first failure ends them all, as in `fan_out_fail`.

    Thousands of items are fine: the time grows with their number, and `max_concurrent` bounds what is open at once.

    Args:
        ctx: the handler's context.
        items: what to apply it to; read at once.
        fn: takes one item; an `async def` with durable steps, or a function that returns a durable future or a value.
        max_concurrent: how many run at once, 50 unless told otherwise.
        max_per_second: as for `fan_out`.
        retry: as for `fan_out`.

    Returns:
        The values in the items' order.

    Raises:
        OperationFailed: with the `index` of the item and the `cause`.
        InvalidInput: `fn` cannot be called, or `max_concurrent` is less than 1.

    Example:
        >>> async def handler(ctx: Context, urls: list[str]) -> list[str]:
        ...     return await map_concurrent(ctx, urls, lambda url: ctx.run_typed("resize", resize, url=url))
    """

    async def run() -> list[Any]:
        options = options_of(ctx, max_concurrent, max_per_second, retry)
        return values_of(await map_group("map_concurrent", ctx, items, fn, options))

    return cast("Mapped[R]", run())


async def map_group(
    helper: str,
    ctx: Context,
    items: Iterable[Item],
    fn: Callable[[Item], object],
    options: Options,
    *,
    pause_first: bool = False,
) -> Group[Any]:
    """Run `fn` over `items` until the first failure.

    Raises:
        InvalidInput: `fn` cannot be called.
    """
    if not callable(fn):
        raise TerminalInvalidInput(
            f"{helper} takes a function of one item, such as lambda item: fetch(ctx, item), not {fn!r}."
        )
    given = list(items)
    operations = [partial(fn, item) for item in given]
    return await run_group(helper, ctx, operations, options, failure, items=given, pause_first=pause_first)
