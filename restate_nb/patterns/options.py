"""How a helper runs its operations: how many at once, how many a second, and when one is tried again."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from restate import Context
from restate.exceptions import TerminalError

from restate_nb.errors import InvalidInput, JournalMismatch
from restate_nb.limits import PerSecond
from restate_nb.patterns.misuse import MISUSE, terminal
from restate_nb.patterns.scheduler import Scheduler
from restate_nb.patterns.sdk import PASS_THROUGH, VMException
from restate_nb.policy import DEFAULT_CONCURRENCY, Retry
from restate_nb.validation import positive_int, rate

_NEVER_AGAIN = (*MISUSE, *PASS_THROUGH, VMException, JournalMismatch)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one helper, as they were parsed.

    Args:
        window: how many operations run at once.
        pause: waits, durably, for as long as the rate wants between two beginnings; None without a rate.
        retry: when an operation is tried again; None for not at all.
    """

    window: int
    pause: Callable[[], Awaitable[object]] | None = None
    retry: Retry | None = None


def options_of(
    ctx: Context,
    max_concurrent: int | None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
) -> Options:
    """Parse what a helper was given.

    Raises:
        InvalidInput: a value is out of range.
    """
    with terminal():
        window = positive_int("max_concurrent", DEFAULT_CONCURRENCY if max_concurrent is None else max_concurrent)
        pause = None if max_per_second is None else _pause(ctx, max_per_second)
        return Options(window, pause, checked(retry))


def checked(retry: Retry | None) -> Retry | None:
    """A retry policy that a user gave.

    Raises:
        InvalidInput: it is none.
    """
    if retry is not None and not isinstance(retry, Retry):
        raise InvalidInput(f"retry takes rnb.Retry(...), such as retry=rnb.Retry(max_attempts=3), not {retry!r}.")
    return retry


def _pause(ctx: Context, max_per_second: PerSecond) -> Callable[[], Awaitable[object]]:
    limit = rate("max_per_second", max_per_second)
    # Restate's timers count milliseconds, and the SDK cuts off what is beyond.
    between = timedelta(milliseconds=math.ceil(limit.seconds / limit.starts * 1000))
    return lambda: ctx.sleep(between, "max_per_second")


def retried(
    ctx: Context, scheduler: Scheduler, operation: Callable[[], object], retry: Retry | None, name: str
) -> Callable[[], object]:
    """An operation that is tried again, after a durable pause, when it raises what the policy says."""
    if retry is None or retry.max_attempts == 1:
        return operation
    policy = retry

    async def again_and_again() -> Any:
        attempt = 1
        while True:
            try:
                value = operation()
                return await value if inspect.isawaitable(value) else value
            except _NEVER_AGAIN:
                raise
            except Exception as error:
                wait = None if scheduler.is_told_to_end() else _wait(ctx, policy, attempt, error, name)
                if wait is None:
                    raise
            await ctx.sleep(timedelta(seconds=wait), f"retry {name}".rstrip())
            attempt += 1

    return again_and_again


def _wait(ctx: Context, retry: Retry, attempt: int, error: Exception, name: str) -> float | None:
    """The seconds before the next attempt, the same in each replay."""
    rng = random.Random(f"{ctx.request().id} {name} {attempt}")
    if not isinstance(error, TerminalError):
        return retry.delay_after(attempt, error, rng)
    names_it = any(issubclass(each, TerminalError) for each in retry.retry_on) and isinstance(error, retry.retry_on)
    if attempt >= retry.max_attempts or not names_it or isinstance(error, retry.give_up_on):
        return None
    return retry.backoff(attempt, error, rng)
