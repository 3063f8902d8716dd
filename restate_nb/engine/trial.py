"""One attempt at an item where nothing is awaited: in a thread, or in a worker process."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from restate_nb.backpressure import pushback
from restate_nb.engine.codec import encode
from restate_nb.engine.record import ERROR, OK, Attempt, Recorded, describe
from restate_nb.errors import NotEncodable
from restate_nb.policy import Retry


class Report(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How an attempt ended.

    Attributes:
        attempt: what is recorded.
        pushback: when the other side said "slow down": for how many seconds nothing should be sent, 0 for "slower".
    """

    attempt: Attempt
    pushback: float | None = None


def went_wrong(
    position: int,
    number: int,
    error: BaseException,
    retry: Retry,
    *,
    started: float,
    clock: float,
    status: int = ERROR,
) -> Report:
    """The report of an attempt that raised `error`.

    Args:
        position: the item's.
        number: the attempt's, from 1.
        error: what it raised.
        retry: whether another attempt follows.
        started: when, in seconds since 1970.
        clock: the same moment on `time.perf_counter`.
        status: `ERROR` or `TIMEOUT`.
    """
    ran = time.perf_counter() - clock
    failure = describe(error, retry.delay_after(number, error))
    return Report(Attempt(position, number, status, started, ran, failure=failure), pushback(error))


def kept(
    position: int,
    number: int,
    value: Any,
    encode: Callable[[Any], bytes] = encode,
    *,
    started: float,
    clock: float,
) -> Report:
    """The report of an attempt that returned. A value that cannot be kept is never tried again: it was paid for, and
    the next one would be like it.

    Args:
        position: the item's.
        number: the attempt's, from 1.
        value: what the function returned.
        encode: writes the value.
        started: when, in seconds since 1970.
        clock: the same moment on `time.perf_counter`.
    """
    ran = time.perf_counter() - clock  # encoding is not the function's time
    try:
        return Report(Attempt(position, number, OK, started, ran, msgspec.Raw(encode(value))))
    except NotEncodable as error:
        if inspect.iscoroutine(value):
            value.close()  # nobody will await it, and Python would warn of that
        failure = describe(error)
    except Exception as error:  # of the value's own code, such as a property
        told = describe(error)
        failure = describe(NotEncodable(f"The value cannot be written: {told.type}: {told.message}"))
        failure = msgspec.structs.replace(failure, traceback=told.traceback)
    return Report(Attempt(position, number, ERROR, started, ran, failure=failure))


def told(position: int, number: int, recorded: Recorded, retry: Retry) -> Report:
    """The report of an attempt that was made elsewhere.

    Args:
        position: the item's.
        number: the attempt's, from 1.
        recorded: what is known of it.
        retry: whether another attempt follows.
    """
    failure, error = recorded.failure, recorded.error
    if error is not None:
        failure = describe(error, retry.delay_after(number, error))
    attempt = Attempt(position, number, recorded.status, recorded.started, recorded.ran, recorded.value, failure)
    return Report(attempt, None if error is None else pushback(error))


def try_once(
    call: Callable[[Any], Any],
    position: int,
    number: int,
    payload: Any,
    retry: Retry,
    *,
    encode: Callable[[Any], bytes] = encode,
) -> Report | Awaitable[Any]:
    """Call the function. Never raises. What is to be awaited, as some lambdas return it, is handed back."""
    started, clock = time.time(), time.perf_counter()
    try:
        value = call(payload)
        if isinstance(value, Awaitable):
            return value
        return kept(position, number, value, encode, started=started, clock=clock)
    except BaseException as error:  # SystemExit too: it must not end this thread
        return went_wrong(position, number, error, retry, started=started, clock=clock)
