"""One attempt at an item: what is called, and the report of how it ended, whichever way that was."""

from __future__ import annotations

import contextvars
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from restate_nb.backpressure import pushback
from restate_nb.engine.codec import encode
from restate_nb.engine.outbox import Entry, cancelled
from restate_nb.engine.record import ERROR, OK, Attempt, Recorded, describe
from restate_nb.errors import NotEncodable
from restate_nb.policy import Retry

RunnerName = Literal["loop", "thread", "process"]
"""Where attempts run: on the pool's loop, which is for what returns a coroutine; in a thread; in a worker process."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What worker processes call.

    Attributes:
        function: pickled: what takes a packed item, the retries of the job, and the classes of its values.
        pack: an item's payload, as the worker gets it.
    """

    function: bytes
    pack: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class ItemCall:
    """What a pool does with an item.

    Attributes:
        call: called with the item's payload.
        runner: where.
        context: the context variables that items see; each has its own copy.
        remote: what worker processes call instead, which see no context.
        pick: gives what is done with an item by its payload, where that differs from item to item.
        encode: writes what `call` returned.
    """

    call: Callable[[Any], Any]
    runner: RunnerName
    context: contextvars.Context
    remote: Remote | None = None
    pick: Callable[[Any], ItemCall] | None = None
    encode: Callable[[Any], bytes] = encode


class Report(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How an attempt ended.

    Attributes:
        attempt: what is recorded.
        pushback: when the other side said "slow down": for how many seconds nothing should be sent, 0 for "slower".
    """

    attempt: Attempt
    pushback: float | None = None


class RunningAttempt(msgspec.Struct, gc=False):  # made for each item
    """An attempt that has begun, and the report of each way in which it may end.

    Attributes:
        entry: the item, and the number of the attempt.
        retry: whether another attempt follows one that failed.
        started: when it began, in seconds since 1970.
        clock: the same moment on `time.perf_counter`.
    """

    entry: Entry
    retry: Retry
    started: float
    clock: float

    def restart(self) -> None:
        """It begins only now: what came before is not the item's time."""
        self.started, self.clock = time.time(), time.perf_counter()

    def call(self, function: Callable[[Any], Any], encode: Callable[[Any], bytes]) -> Report | Awaitable[Any]:
        """Call the function, in a thread or process of its own. Never raises. What is to be awaited, as some lambdas
        return it, is handed back."""
        self.restart()
        try:
            value = function(self.entry.payload)
            if isinstance(value, Awaitable):
                return value
            return self.returned(value, encode)
        except BaseException as error:  # SystemExit too: it must not end this thread
            return self.raised(error)

    def returned(self, value: Any, encode: Callable[[Any], bytes]) -> Report:
        """The report when the function returned. A value that cannot be kept is never tried again: it was paid for, and
        the next one would be like it."""
        ran = time.perf_counter() - self.clock  # encoding is not the function's time
        entry = self.entry
        try:
            encoded = msgspec.Raw(encode(value))
            return Report(Attempt(entry.position, entry.number, OK, self.started, ran, encoded))
        except NotEncodable as error:
            if inspect.iscoroutine(value):
                value.close()  # nobody will await it, and Python would warn of that
            failure = describe(error)
        except Exception as error:  # of the value's own code, such as a property
            inner = describe(error)
            failure = describe(NotEncodable(f"The value cannot be written: {inner.type}: {inner.message}"))
            failure = msgspec.structs.replace(failure, traceback=inner.traceback)
        return Report(Attempt(entry.position, entry.number, ERROR, self.started, ran, failure=failure))

    def raised(self, error: BaseException, status: int = ERROR) -> Report:
        """The report when the attempt was ended by an exception; `status` is `ERROR` or `TIMEOUT`."""
        ran, number = time.perf_counter() - self.clock, self.entry.number
        failure = describe(error, self.retry.delay_after(number, error))
        attempt = Attempt(self.entry.position, number, status, self.started, ran, failure=failure)
        return Report(attempt, pushback(error))

    def made_elsewhere(self, recorded: Recorded) -> Report:
        """The report of an attempt that was made, and is kept, elsewhere."""
        number, failure, error = self.entry.number, recorded.failure, recorded.error
        if error is not None:
            failure = describe(error, self.retry.delay_after(number, error))
        times = recorded.started, recorded.ran
        attempt = Attempt(self.entry.position, number, recorded.status, *times, recorded.value, failure)
        return Report(attempt, None if error is None else pushback(error))

    def cancelled(self) -> Attempt:
        """The record when its item was cancelled."""
        ran = time.perf_counter() - self.clock
        return cancelled(self.entry.position, self.entry.number, self.started, ran)
