"""How items are run: retries, limits, timeouts. Configuration only; running state lives in the engine."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

from restate_nb.backpressure import retry_after
from restate_nb.errors import InvalidInput
from restate_nb.limits import (
    Concurrency,
    Limit,
    PerSecond,
    Seconds,
    concurrency_range,
    positive_int,
    rate,
    seconds,
    stop_rule,
)

__all__ = ["DEFAULT_CONCURRENCY", "NO_RETRY", "Limit", "Retry", "RunPolicy", "Seconds", "positive_int", "seconds"]

DEFAULT_CONCURRENCY = 50
"""How many items run at once unless told otherwise: the scheduler measured best near it, and most APIs bear it."""


ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


def _exception_types(name: str, value: object) -> tuple[type[BaseException], ...]:
    types: list[type[BaseException]] = []
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, type) and issubclass(each, BaseException):
            types.append(each)
        else:
            raise InvalidInput(f"{name} takes exception classes, such as {name}=(OSError, TimeoutError), not {each!r}.")
    return tuple(types)


@dataclass(frozen=True, slots=True)
class Retry:
    """When an item that failed is tried again, and how long it waits before that.

    The wait before attempt n + 1 is `initial_interval * factor ** (n - 1)` seconds, at most `max_interval`, spread by
    `jitter` (0.2 means a fifth up or down). `restate.TerminalError` is never retried. An error that carries
    `retry_after` (such as `restate.exceptions.RetryableError`) waits at least that long, and so does one that stands
    for an HTTP answer with a `Retry-After` header (httpx, aiohttp, requests, ...). A timeout counts as a failure.

    Args:
        max_attempts: attempts in all, the first one included; 1 means no retry.
        initial_interval: seconds (or a timedelta) before the second attempt.
        factor: by how much the wait grows each time.
        max_interval: the longest wait, in seconds (or a timedelta).
        jitter: the random share of the wait, 0 to 1.
        retry_on: only these exception types are retried.
        give_up_on: these are not, even when `retry_on` names them.

    Raises:
        InvalidInput: a value is out of range.

    Example:
        >>> Retry(max_attempts=5, retry_on=(OSError, TimeoutError)).max_attempts
        5
    """

    max_attempts: int = 3
    initial_interval: Seconds = 0.5
    factor: float = 2.0
    max_interval: Seconds = 60.0
    jitter: float = 0.2
    retry_on: ExceptionTypes = Exception
    give_up_on: ExceptionTypes = ()

    def __post_init__(self) -> None:
        positive_int("max_attempts", self.max_attempts)
        put = object.__setattr__
        put(self, "initial_interval", seconds("initial_interval", self.initial_interval, zero=True))
        put(self, "max_interval", seconds("max_interval", self.max_interval, zero=True))
        if isinstance(self.factor, bool) or not isinstance(self.factor, (int, float)) or not self.factor >= 1:
            raise InvalidInput(f"factor must be a number of at least 1, not {self.factor!r}.")
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, (int, float)) or not 0 <= self.jitter <= 1:
            raise InvalidInput(f"jitter must be between 0 and 1, not {self.jitter!r}.")
        put(self, "retry_on", _exception_types("retry_on", self.retry_on))
        put(self, "give_up_on", _exception_types("give_up_on", self.give_up_on))

    def delay_after(self, attempt: int, error: BaseException, rng: random.Random | None = None) -> float | None:
        """The seconds to wait before trying again, or None when there is no further attempt.

        Args:
            attempt: the number of the attempt that failed, from 1.
            error: what it raised.
            rng: where the jitter comes from.
        """
        if attempt >= self.max_attempts or _is_terminal(error):
            return None
        if not _is_a(error, self.retry_on) or _is_a(error, self.give_up_on):
            return None
        assert isinstance(self.initial_interval, float) and isinstance(self.max_interval, float)
        try:
            wait = min(self.initial_interval * self.factor ** (attempt - 1), self.max_interval)
        except OverflowError:
            wait = self.max_interval
        if self.jitter:
            wait *= 1 + self.jitter * (2 * (rng or random).random() - 1)
        return max(wait, retry_after(error))


def _is_terminal(error: BaseException) -> bool:
    sdk = sys.modules.get("restate.exceptions")  # not loaded, in a worker process: then it is none of its errors
    return sdk is not None and _is_a(error, sdk.TerminalError)


def _is_a(error: BaseException, types: ExceptionTypes) -> bool:
    try:
        return issubclass(type(error), types)  # what it says of itself, in `__class__`, may be anything, or raise
    except BaseException:  # a metaclass of the user's own
        return False


NO_RETRY = Retry(max_attempts=1)


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """How the items of one job or one `run_each` are run.

    Args:
        concurrency: how many items run at once: a number, a range `(low, high)` within which it adapts itself, or
            "auto".
        retry: when a failed item is tried again; not at all by default.
        timeout: seconds (or a timedelta) that one attempt may take; None for no limit.
        max_per_second: how many attempts start a second, or `(count, seconds)`; None for any number.
        limit: a limit shared with other jobs.
        fail_fast: when to give up on the items that have not begun: at the first failure (True), after a number of
            failures, or at their share of the items that have ended (a float, looked at from 20 items on). Items that
            run are let end. Not for `run_each`, whose handler sees every outcome.

    Raises:
        InvalidInput: a value is out of range.

    Example:
        >>> RunPolicy(concurrency=20, timeout=30).timeout
        30.0
    """

    concurrency: Concurrency = DEFAULT_CONCURRENCY
    retry: Retry = NO_RETRY
    timeout: Seconds | None = None
    max_per_second: PerSecond | None = None
    limit: Limit | None = None
    fail_fast: bool | float = False

    def __post_init__(self) -> None:
        concurrency_range("concurrency", self.concurrency)
        if not isinstance(self.retry, Retry):
            raise InvalidInput(
                f"retry takes rnb.Retry(...), such as retry=rnb.Retry(max_attempts=3), not {self.retry!r}."
            )
        if self.timeout is not None:
            object.__setattr__(self, "timeout", seconds("timeout", self.timeout))
        if self.max_per_second is not None:
            rate("max_per_second", self.max_per_second)
        if self.limit is not None and not isinstance(self.limit, Limit):
            raise InvalidInput(
                f"limit takes rnb.Limit(...), such as limit=rnb.Limit('openai', concurrency=20), not {self.limit!r}. "
                "How many items of this job run at once is concurrency=."
            )
        stop_rule(self.fail_fast)

    @property
    def per_second(self) -> float | None:
        """Below how many attempts a second these items stay, all in all; None when no rate limits them."""
        shared = None if self.limit is None else self.limit.per_second
        rates = [rate("per_second", each) for each in (self.max_per_second, shared) if each is not None]
        return min((each.starts / each.seconds for each in rates), default=None)
