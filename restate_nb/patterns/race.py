"""Run operations side by side until one of them decides: the first to end, the first to succeed, or a timeout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar, overload

from restate import Context

from restate_nb.limits import Seconds
from restate_nb.patterns.fan_out import run_group
from restate_nb.patterns.fibre import Group
from restate_nb.patterns.mapped import Mapped
from restate_nb.patterns.misuse import TerminalInvalidInput, terminal
from restate_nb.patterns.operations import Operation
from restate_nb.patterns.options import Options
from restate_nb.patterns.outcome import OperationTimeout, Outcome
from restate_nb.validation import seconds

T = TypeVar("T")


def _any(_: Outcome[Any]) -> bool:
    return True


def _success(outcome: Outcome[Any]) -> bool:
    return outcome.ok


@overload
async def race(ctx: Context, operations: Iterable[Operation[T]]) -> T: ...
@overload
async def race(ctx: Context, operations: Iterable[Callable[[], T]]) -> T: ...
async def race(ctx: Context, operations: Iterable[object]) -> Any:
    """What the first operation to end returns or raises; the others are stopped as in `fan_out_fail`.

    Args:
        ctx: the handler's context.
        operations: as for `fan_out`, at least one; all run at once.

    Raises:
        OperationFailed: the first to end failed.
        InvalidInput: there are no operations, or something is none.

    Example:
        >>> async def handler(ctx: Context) -> str:
        ...     return await race(ctx, [lambda: ask(ctx, "mirror-1"), lambda: ask(ctx, "mirror-2")])
    """
    group = await _all_at_once("race", ctx, operations, _any)
    assert group.decided is not None
    return _value_of(group, group.decided)


@overload
async def first_completed(ctx: Context, operations: Iterable[Operation[T]]) -> T: ...
@overload
async def first_completed(ctx: Context, operations: Iterable[Callable[[], T]]) -> T: ...
async def first_completed(ctx: Context, operations: Iterable[object]) -> Any:
    """The value of the first operation to succeed; the others are stopped as in `fan_out_fail`.

    Failures are passed over while another operation may still succeed.

    Args:
        ctx: the handler's context.
        operations: as for `fan_out`, at least one; all run at once.

    Raises:
        OperationFailed: all failed; of the first in input order.
        InvalidInput: there are no operations, or something is none.

    Example:
        >>> async def handler(ctx: Context) -> str:
        ...     return await first_completed(ctx, [lambda: ask(ctx, "primary"), lambda: ask(ctx, "backup")])
    """
    group = await _all_at_once("first_completed", ctx, operations, _success)
    outcome = group.decided or group.outcomes[0]
    assert outcome is not None
    return _value_of(group, outcome)


@overload  # of an operation that is a map
async def with_timeout(ctx: Context, operation: Callable[[], Mapped[Awaitable[T]]], timeout: Seconds) -> list[T]: ...
@overload
async def with_timeout(ctx: Context, operation: Operation[T], timeout: Seconds) -> T: ...
@overload
async def with_timeout(ctx: Context, operation: Callable[[], T], timeout: Seconds) -> T: ...
async def with_timeout(ctx: Context, operation: object, timeout: Seconds) -> Any:
    """Run one operation, and stop it when a durable timer ends first.

    Args:
        ctx: the handler's context.
        operation: as for `fan_out`.
        timeout: seconds, or a timedelta. The timer is Restate's: it goes on while the handler is suspended.

    Raises:
        OperationTimeout: the timer ended first; the operation got a TerminalError (409) where it waited and has ended.
        restate.TerminalError: the operation's own.
        InvalidInput: the timeout is not more than 0.

    Example:
        >>> async def handler(ctx: Context) -> str:
        ...     name, approved = ctx.awakeable(type_hint=str)
        ...     return await with_timeout(ctx, approved, timedelta(days=1))
    """
    with terminal():
        limit = seconds("timeout", timeout)
    operations = [operation, lambda: ctx.sleep(timedelta(seconds=limit), "timeout")]
    group = await _all_at_once("with_timeout", ctx, operations, _any)
    assert group.decided is not None
    if group.decided.index == 1:
        raise OperationTimeout(limit)
    if group.decided.error is not None:
        raise group.decided.error
    return group.decided.value


def _value_of(group: Group[Any], outcome: Outcome[Any]) -> Any:
    if outcome.error is not None:
        raise outcome.failure(group.result) from outcome.error
    return outcome.value


async def _all_at_once(
    helper: str, ctx: Context, operations: Iterable[object], until: Callable[[Outcome[Any]], bool]
) -> Group[Any]:
    given = list(operations) if isinstance(operations, Iterable) else operations
    if not given:
        raise TerminalInvalidInput(f"{helper} needs at least one operation.")
    return await run_group(helper, ctx, given, Options(len(given)), until)
