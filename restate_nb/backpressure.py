"""What an exception says of the pace: a service that answers "slow down", and for how long.

The clients that people use share no base class, so their errors are known by their shape: `.status` (aiohttp, urllib),
`.status_code` (openai, anthropic), `.response.status_code` (httpx, requests), botocore's dictionary, and the headers
beside them. None of these libraries is imported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

SLOW_DOWN: Final = frozenset({429, 503, 529})
"""Too many requests, service unavailable, and the "overloaded" that some APIs answer."""

LONGEST: Final = 30 * 86_400.0
"""Seconds that are waited at most, whatever the other side asks for."""

_cause: Final[Any] = BaseException.__dict__["__cause__"]  # past what a class may have in its place
_LONGEST_HEADER: Final = 200  # characters; a date has 29
_CAUSES: Final = 5  # `raise MyError from error` hides what the client said, but not from here


def retry_after(error: BaseException, now: float | None = None) -> float:
    """The seconds that the error asks to wait, at most `LONGEST`; 0 when it asks for nothing.

    Args:
        error: its `retry_after`, or the `Retry-After` header of the answer that it stands for, in seconds or as a date.
        now: seconds since 1970, for a date; the answer's own `Date` header is preferred.
    """
    for each in _chain(error):
        after = _seconds(_get(each, "retry_after"))
        if after is None:
            headers = _headers(each)
            after = _header_seconds(headers, time.time() if now is None else now)
        if after is not None:
            return min(after, LONGEST)
    return 0.0


def pushback(error: BaseException) -> float | None:
    """The seconds for which nothing more should be sent; 0 for "slower", None when it says nothing of the pace."""
    after = retry_after(error)
    if after > 0 or any(_status(each) in SLOW_DOWN for each in _chain(error)):
        return after
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_CAUSES):
        if cause is None:
            return
        yield cause
        cause = _cause.__get__(cause)


def _get(thing: Any, name: str) -> Any:
    try:
        return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)
    except BaseException:  # a property that raises, as some clients have, says nothing
        return None


def _status(error: BaseException) -> int | None:
    response = _get(error, "response")
    places = (error, "status"), (error, "status_code"), (response, "status_code"), (response, "status")
    for thing, name in (*places, (_get(response, "ResponseMetadata"), "HTTPStatusCode")):
        status = _get(thing, name)
        if status is not None and issubclass(type(status), int):
            return int.__int__(status)
    return None


def _headers(error: BaseException) -> Any:
    response = _get(error, "response")
    for thing, name in ((error, "headers"), (response, "headers"), (_get(response, "ResponseMetadata"), "HTTPHeaders")):
        headers = _get(thing, name)
        if headers is not None and (issubclass(type(headers), dict) or _get(headers, "get") is not None):
            return headers
    return None


def _header(headers: Any, name: str) -> str | None:
    for spelt in (name, name.lower()):  # most mappings of headers ignore the case; botocore's is a plain dict
        try:
            value = headers.get(spelt)
        except BaseException:
            return None
        if issubclass(type(value), str):
            return str.__getitem__(value, slice(0, _LONGEST_HEADER))
    return None


def _header_seconds(headers: Any, now: float) -> float | None:
    value = _header(headers, "Retry-After")
    if value is None:
        return None
    try:
        return _seconds(float(value))
    except ValueError:
        pass
    due, date = _date(value), _date(_header(headers, "Date") or "")
    if due is None:
        return None
    return max(0.0, due - (now if date is None else date))


def _date(value: str) -> float | None:
    try:
        when: datetime = parsedate_to_datetime(value)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if issubclass(type(value), timedelta):
        value = timedelta.total_seconds(value)
    if type(value) is bool or not issubclass(type(value), (int, float)):
        return None
    try:
        exact = int.__float__(value) if issubclass(type(value), int) else float.__float__(value)
    except OverflowError:  # beyond what a float can be
        return LONGEST if int.__gt__(value, 0) else None
    return min(exact, LONGEST) if 0 < exact < math.inf else None
