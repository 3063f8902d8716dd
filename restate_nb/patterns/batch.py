"""Items in batches, with a bound on how many run at once and durable pauses between batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

from restate import Context

from restate_nb.limits import PerSecond, Seconds
from restate_nb.patterns.fan_out import map_group, values_of
from restate_nb.patterns.fibre import name_of, not_ended
from restate_nb.patterns.mapped import Mapped
from restate_nb.patterns.misuse import terminal
from restate_nb.patterns.options import options_of
from restate_nb.patterns.outcome import FanOutResult, Outcome
from restate_nb.policy import Retry
from restate_nb.validation import positive_int, seconds

Item = TypeVar("Item")
R = TypeVar("R")


class BatchProcessor:
    """Applies a function to items, so many at once.

    Args:
        ctx: the handler's context.
        max_concurrent: how many items run at once.
        max_per_second: how many begin a second, or `(count, seconds)`, as for `map_concurrent`.
        retry: when an item is tried again, as for `map_concurrent`.

    Raises:
        InvalidInput: `max_concurrent` is less than 1, or another option is out of range.

    Example:
        >>> async def handler(ctx: Context, users: list[str]) -> list[str]:
        ...     return await BatchProcessor(ctx, 5).process_batch(users, lambda user: ctx.service_call(report, user))
    """

    __slots__ = ("_ctx", "_options", "max_concurrent")

    def __init__(
        self,
        ctx: Context,
        max_concurrent: int,
        *,
        max_per_second: PerSecond | None = None,
        retry: Retry | None = None,
    ) -> None:
        self._ctx = ctx
        self._options = options_of(ctx, max_concurrent, max_per_second, retry)
        self.max_concurrent: int = self._options.window

    def process_batch(self, items: Iterable[Item], fn: Callable[[Item], R]) -> Mapped[R]:
        """Apply `fn` to every item; the first failure ends them all.

        Args:
            items: what to apply it to.
            fn: takes one item, as for `map_concurrent`.

        Returns:
            The values in the items' order.

        Raises:
            OperationFailed: with the `index` of the item and the `cause`.
            InvalidInput: `fn` cannot be called.
        """

        async def run() -> list[Any]:
            return values_of(await map_group("process_batch", self._ctx, items, fn, self._options))

        return cast("Mapped[R]", run())

    def process_batches(
        self, items: Iterable[Item], fn: Callable[[Item], R], *, batch_size: int, pause: Seconds = 0
    ) -> Mapped[R]:
        """Apply `fn` batch after batch, with a durable pause between them; the first failure ends it.

        Args:
            items: what to apply it to.
            fn: takes one item, as for `map_concurrent`.
            batch_size: how many items make a batch.
            pause: seconds (or a timedelta) between the end of a batch and the start of the next.

        Returns:
            The values in the items' order.

        Raises:
            OperationFailed: with the `index` of the item among all items, and the `cause`.
            InvalidInput: `batch_size` is less than 1, or `pause` is negative.
        """
        return cast("Mapped[R]", self._run_batches(items, fn, batch_size, pause))

    async def _run_batches(
        self, items: Iterable[Item], fn: Callable[[Item], object], batch_size: int, pause: Seconds
    ) -> list[Any]:
        with terminal():
            size, wait = positive_int("batch_size", batch_size), seconds("pause", pause, zero=True)
        waiting = list(items)
        outcomes: list[Outcome[Any]] = []
        for start in range(0, len(waiting), size):
            if start:
                await WorkflowTimer(self._ctx).sleep(wait, name="pause between batches")
            batch = waiting[start : start + size]
            group = await map_group(
                "process_batches", self._ctx, batch, fn, self._options, pause_first=start > 0 and wait == 0
            )
            outcomes += [replace(outcome, index=start + outcome.index) for outcome in group.result()]
            if group.decided is not None:
                rest = range(len(outcomes), len(waiting))
                outcomes += [Outcome(at, error=not_ended(), name=name_of(fn), item=waiting[at]) for at in rest]
                failed, result = outcomes[start + group.decided.index], FanOutResult(tuple(outcomes))
                raise failed.failure(partial(_itself, result)) from failed.error
        return [outcome.value for outcome in outcomes]


def _itself(result: FanOutResult[Any]) -> FanOutResult[Any]:
    return result


class WorkflowTimer:
    """Sleeps that Restate keeps: the handler may be suspended, and the time goes on while nothing runs.

    Args:
        ctx: the handler's context; any kind of handler, not only a workflow's.

    Example:
        >>> async def handler(ctx: Context) -> None:
        ...     await WorkflowTimer(ctx).sleep(timedelta(hours=1))
    """

    __slots__ = ("_ctx",)

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def sleep(self, duration: Seconds, *, name: str | None = None) -> None:
        """Wait.

        Args:
            duration: seconds, or a timedelta; 0 returns at once.
            name: what the journal calls it.

        Raises:
            InvalidInput: the duration is negative or no number.
            restate.TerminalError: the invocation was cancelled (409).
        """
        with terminal():
            length = seconds("duration", duration, zero=True)
        if length > 0:
            await self._ctx.sleep(timedelta(seconds=length), name)
