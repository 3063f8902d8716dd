"""Limits as people write them: durations, counts, rates, ranges of concurrency, shared limits, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from restate_nb.errors import InvalidInput

Seconds = float | timedelta
"""A duration: seconds as int or float, or a timedelta."""


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Read a duration given by the user.

    Args:
        name: the argument's name, for the message.
        value: seconds as int or float, or a timedelta.
        zero: whether 0 is allowed.

    Raises:
        InvalidInput: it is no number, not finite, or negative.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInput(f"{name} must be seconds (a number) or a timedelta, not {value!r}.")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise InvalidInput(f"{name} must be {'0 or more' if zero else 'more than 0'} seconds, not {value!r}.")
    return float(value)


def positive_int(name: str, value: object) -> int:
    """Read a count given by the user.

    Raises:
        InvalidInput: it is not a whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{name} must be a whole number, such as {name}=10, not {value!r}.")
    if value < 1:
        raise InvalidInput(f"{name} must be at least 1, not {value}.")
    return value


class Rate(NamedTuple):
    """At most `starts` in any `seconds`."""

    starts: int
    seconds: float


PerSecond = float | tuple[int, Seconds]
"""Starts a second, or `(count, seconds)`, such as `(10, 60)` for ten a minute."""


def rate(name: str, value: object) -> Rate:
    """Read a rate given by the user: starts a second, or `(count, seconds)`.

    Raises:
        InvalidInput: it is neither, not finite, or not more than 0.
    """
    if isinstance(value, tuple) and len(value) == 2:
        return Rate(positive_int(f"{name}[0]", value[0]), seconds(f"{name}[1]", value[1]))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInput(
            f"{name} must be a number of starts a second, such as {name}=5, or (count, seconds), such as "
            f"{name}=(10, 60) for ten a minute, not {value!r}."
        )
    if not math.isfinite(value) or value <= 0:
        raise InvalidInput(f"{name} must be more than 0, not {value!r}. For one every ten seconds: {name}=0.1.")
    count = max(1, math.floor(value))
    return Rate(count, count / value)


class Range(NamedTuple):
    """Adaptive concurrency: at least `low` items at once, at most `high`."""

    low: int
    high: int


AUTO = Range(1, 200)
"""What `concurrency="auto"` means."""

Concurrency = int | tuple[int, int] | Literal["auto"]
"""How many items run at once: a number, or, to find out while running, a range `(low, high)` or "auto"."""


def concurrency_range(name: str, value: object) -> Range:
    """Read a concurrency given by the user; a number is a range of one.

    Raises:
        InvalidInput: it is no whole number of at least 1, no range of two, and not "auto".
    """
    if value == "auto":
        return AUTO
    if isinstance(value, tuple) and len(value) == 2:
        low, high = positive_int(f"{name}[0]", value[0]), positive_int(f"{name}[1]", value[1])
        if low > high:
            raise InvalidInput(f"{name} as a range is (lowest, highest); {value!r} is the wrong way round.")
        return Range(low, high)
    if isinstance(value, (str, tuple)):
        raise InvalidInput(
            f"{name} must be a whole number, such as {name}=10, a range, such as {name}=(2, 100), "
            f'or "auto", not {value!r}.'
        )
    count = positive_int(name, value)
    return Range(count, count)


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
        if self.per_second is not None:
            rate("per_second", self.per_second)


_SHARE_AFTER: Final = 20
"""A share of failures means nothing before this many items have ended."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a job gives up on its remaining items: after so many failures, or at a share of those that have ended."""

    failures: int | None = None
    share: float | None = None

    def broken(self, failed: int, ended: int) -> str | None:
        """Why to stop, as a sentence, or None.

        Args:
            failed: items that ended with an error or a timeout, after their last attempt.
            ended: those and the items that ended well.
        """
        if self.failures is not None and failed >= self.failures:
            rule = "True" if self.failures == 1 else f"{self.failures:,}"
        elif self.share is not None and ended >= _SHARE_AFTER and failed >= self.share * ended:
            rule = f"{self.share:g}"
        else:
            return None
        return f"The job stopped, with fail_fast={rule}, after {failed:,} of {ended:,} items had failed."


def stop_rule(fail_fast: object) -> StopRule | None:
    """Read `fail_fast` as given by the user; None when it is False.

    Raises:
        InvalidInput: it is no truth value, no count of at least 1 and no share between 0 and 1.
    """
    if isinstance(fail_fast, bool):
        return StopRule(failures=1) if fail_fast else None
    if isinstance(fail_fast, int) and fail_fast >= 1:
        return StopRule(failures=fail_fast)
    if isinstance(fail_fast, float) and 0 < fail_fast < 1:
        return StopRule(share=fail_fast)
    raise InvalidInput(
        "fail_fast is True (stop at the first failure), a number of failures, such as fail_fast=10, or their share of "
        f"the items that have ended, such as fail_fast=0.05, not {fail_fast!r}."
    )
