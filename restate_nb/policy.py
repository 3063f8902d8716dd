"""How items are run: retries, limits, timeouts. Configuration only; running state lives in the engine."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field

from restate_nb.backpressure import retry_after
from restate_nb.errors import InvalidInput
from restate_nb.limits import Concurrency, PerSecond, Range, Rate, Seconds, StopRule
from restate_nb.validation import (
    ExceptionTypes,
    concurrency_range,
    exception_types,
    positive_int,
    rate,
    seconds,
    stop_rule,
)

DEFAULT_CONCURRENCY = 50
"""How many items run at once unless told otherwise: the scheduler measured best near it, and most APIs bear it."""


def _set(frozen: object, **values: object) -> None:
    """Fill in what was parsed: arguments are what users write, fields what the rest works with."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


@dataclass(frozen=True, slots=True, init=False)
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

    max_attempts: int
    initial_interval: float
    factor: float
    max_interval: float
    jitter: float
    retry_on: tuple[type[BaseException], ...]
    give_up_on: tuple[type[BaseException], ...]

    def __init__(  # noqa: PLR0917 - as released
        self,
        max_attempts: int = 3,
        initial_interval: Seconds = 0.5,
        factor: float = 2.0,
        max_interval: Seconds = 60.0,
        jitter: float = 0.2,
        retry_on: ExceptionTypes = Exception,
        give_up_on: ExceptionTypes = (),
    ) -> None:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor >= 1:
            raise InvalidInput(f"factor must be a number of at least 1, not {factor!r}.")
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
            raise InvalidInput(f"jitter must be between 0 and 1, not {jitter!r}.")
        _set(
            self,
            max_attempts=positive_int("max_attempts", max_attempts),
            initial_interval=seconds("initial_interval", initial_interval, zero=True),
            factor=factor,
            max_interval=seconds("max_interval", max_interval, zero=True),
            jitter=jitter,
            retry_on=exception_types("retry_on", retry_on),
            give_up_on=exception_types("give_up_on", give_up_on),
        )

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
        return self.backoff(attempt, error, rng)

    def backoff(self, attempt: int, error: BaseException, rng: random.Random | None = None) -> float:
        """The seconds between an attempt and the next, if there is one; the arguments are those of `delay_after`."""
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
class Limit:
    """A limit that several jobs share: pass it to each of them as `limit=`.

    Limits with one name are one limit: the last one that was given sets its numbers, for the jobs that run too. It
    counts the attempts of all jobs of this process's session; other processes have their own.

    Args:
        name: what it protects, such as the API's name.
        concurrency: how many attempts run at once, over all of its jobs; None for any number.
        per_second: how many start a second, or `(count, seconds)`; None for any number.

    Raises:
        InvalidInput: a value is out of range, or nothing is limited.

    Example:
        >>> Limit("openai", concurrency=20, per_second=5).concurrency
        20
    """

    name: str
    concurrency: int | None = None
    per_second: PerSecond | None = None
    rate: Rate | None = field(init=False, repr=False, compare=False)  # what `per_second` means

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidInput(
                f"A limit has a name, such as rnb.Limit('openai', concurrency=20); {self.name!r} is none."
            )
        if self.concurrency is None and self.per_second is None:
            raise InvalidInput(
                f"rnb.Limit({self.name!r}) limits nothing. Give it concurrency=20, per_second=5, or both."
            )
        if self.concurrency is not None:
            positive_int("concurrency", self.concurrency)
        _set(self, rate=None if self.per_second is None else rate("per_second", self.per_second))


@dataclass(frozen=True, slots=True, init=False)
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

    concurrency: Concurrency
    retry: Retry
    timeout: float | None
    max_per_second: PerSecond | None
    limit: Limit | None
    fail_fast: bool | float
    # What concurrency, max_per_second and fail_fast mean, for those who run the items:
    bounds: Range = field(init=False, repr=False, compare=False)
    rate: Rate | None = field(init=False, repr=False, compare=False)
    stop_rule: StopRule | None = field(init=False, repr=False, compare=False)

    def __init__(  # noqa: PLR0917 - as released
        self,
        concurrency: Concurrency = DEFAULT_CONCURRENCY,
        retry: Retry = NO_RETRY,
        timeout: Seconds | None = None,
        max_per_second: PerSecond | None = None,
        limit: Limit | None = None,
        fail_fast: bool | float = False,
    ) -> None:
        if not isinstance(retry, Retry):
            raise InvalidInput(f"retry takes rnb.Retry(...), such as retry=rnb.Retry(max_attempts=3), not {retry!r}.")
        if limit is not None and not isinstance(limit, Limit):
            raise InvalidInput(
                f"limit takes rnb.Limit(...), such as limit=rnb.Limit('openai', concurrency=20), not {limit!r}. "
                "How many items of this job run at once is concurrency=."
            )
        _set(
            self,
            concurrency=concurrency,
            retry=retry,
            timeout=None if timeout is None else seconds("timeout", timeout),
            max_per_second=max_per_second,
            limit=limit,
            fail_fast=fail_fast,
            bounds=concurrency_range("concurrency", concurrency),
            rate=None if max_per_second is None else rate("max_per_second", max_per_second),
            stop_rule=stop_rule(fail_fast),
        )

    @property
    def per_second(self) -> float | None:
        """Below how many attempts a second these items stay, all in all; None when no rate limits them."""
        rates = self.rate, None if self.limit is None else self.limit.rate
        return min((each.starts / each.seconds for each in rates if each is not None), default=None)
