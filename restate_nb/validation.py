"""Parsers of what users give as options: each returns the value that the rest works with, or says what to write."""

from __future__ import annotations

import math
from datetime import timedelta

from restate_nb.errors import InvalidInput
from restate_nb.limits import AUTO, Range, Rate, StopRule

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


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


def check_retention(value: object) -> None:
    """See that it can be how long a job is kept.

    Raises:
        InvalidInput: it is no timedelta, or not more than 0.
    """
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise InvalidInput(f"retention is a timedelta of more than 0, such as timedelta(days=7), not {value!r}.")


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


def exception_types(name: str, value: object) -> tuple[type[BaseException], ...]:
    """Read the exception classes of a retry: one, or a tuple of them.

    Raises:
        InvalidInput: something else is among them.
    """
    types: list[type[BaseException]] = []
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, type) and issubclass(each, BaseException):
            types.append(each)
        else:
            raise InvalidInput(f"{name} takes exception classes, such as {name}=(OSError, TimeoutError), not {each!r}.")
    return tuple(types)
