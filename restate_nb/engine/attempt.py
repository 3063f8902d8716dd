"""One attempt at an item: what is called, and how it ended, whichever way that was."""

from __future__ import annotations

import contextvars
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from restate_nb.backpressure import pushback
from restate_nb.engine.outbox import Entry, ShardQueue, cancelled
from restate_nb.engine.record import ERROR, OK, Attempt, Recorded, describe
from restate_nb.errors import NotEncodable
from restate_nb.policy import NO_RETRY, Retry
from restate_nb.values.codec import encode

_NEVER_AWAITED: Final = frozenset({int, float, str, bool, type(None), bytes, list, tuple, dict})

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
    """How the items of a job are called.

    Attributes:
        function: called with the item's payload.
        runner: the name of what runs it.
        context: the context variables that items see; each has its own copy.
        remote: what worker processes call instead, which see no context.
        pick: gives the call of an item by its payload, where calls differ from item to item.
        encode: writes what `function` returned.
    """

    function: Callable[[Any], Any]
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


Ended = bytes | Report
"""How an attempt ended: with a value, encoded, where its `started` and `ran` say when; or as the report has it."""


class RunningAttempt(msgspec.Struct, eq=False):  # made for each item
    """An attempt that was taken by a runner, and what is recorded of each way in which it may end.

    Attributes:
        entry: the item, and the number of the attempt.
        retry: whether another attempt follows one that failed.
        started: when it began, in seconds since 1970; 0 before.
        clock: the same moment on `time.perf_counter`.
        ran: for how many seconds, once the function has returned.
        call: what is called.
        queue: which the item is of.
        timeout: seconds that it may take; None for no limit.
        owner: the runner that has it.
        permit: that of the item, where more than `concurrency` holds items up.
        follows: whether it has no place of `concurrency` yet, since it is to run after another one.
        over: whether its outcome is known; what it does after that is not recorded.
        expired: whether it was ended since it ran for too long.
        place: the task, or the thread's ident, in which it runs.
        provided: the pool's call when it was taken; `call` is another one where calls differ from item to item.
    """

    entry: Entry
    retry: Retry
    started: float = 0.0
    clock: float = 0.0
    ran: float = 0.0
    call: ItemCall | None = None
    queue: ShardQueue | None = None
    timeout: float | None = None
    owner: Any = None
    permit: Any = None
    follows: bool = False
    over: bool = False
    expired: bool = False
    place: Any = None
    provided: ItemCall | None = None

    def begin(self) -> None:
        """The function is about to be called: the time until here is not the item's."""
        self.started, self.clock = time.time(), time.perf_counter()

    def make(self, function: Callable[[Any], Any], encode: Callable[[Any], bytes]) -> Ended | Awaitable[Any]:
        """Call the function, in a thread or process of its own. Never raises. What is to be awaited, as some lambdas
        return it, is handed back."""
        self.started, self.clock = time.time(), time.perf_counter()
        try:
            value = function(self.entry.payload)
            if type(value) not in _NEVER_AWAITED and isinstance(value, Awaitable):
                return value
            return self.returned(value, encode)
        except BaseException as error:  # SystemExit too: it must not end this thread
            return self.raised(error)

    def returned(self, value: Any, encode: Callable[[Any], bytes]) -> Ended:
        """How it ended when the function returned. A value that cannot be kept is never tried again: it was paid for,
        and the next one would be like it."""
        self.ran = time.perf_counter() - self.clock  # encoding is not the function's time
        try:
            return encode(value)
        except NotEncodable as error:
            if inspect.iscoroutine(value):
                value.close()  # nobody will await it, and Python would warn of that
            failure = describe(error)
        except Exception as error:  # of the value's own code, such as a property
            inner = describe(error)
            failure = describe(NotEncodable(f"The value cannot be written: {inner.type}: {inner.message}"))
            failure = msgspec.structs.replace(failure, traceback=inner.traceback)
        entry = self.entry
        return Report(Attempt(entry.position, entry.number, ERROR, self.started, self.ran, failure=failure))

    def gave(self, value: Any, encode: Callable[[Any], bytes]) -> Ended:
        """How it ended when the call gave a value, or what came of an attempt that was made elsewhere."""
        return self.made_elsewhere(value) if type(value) is Recorded else self.returned(value, encode)

    def report(self, ended: Ended) -> Report:
        """How it ended, as a report."""
        if not isinstance(ended, bytes):
            return ended
        entry = self.entry
        return Report(Attempt(entry.position, entry.number, OK, self.started, self.ran, msgspec.Raw(ended)))

    def raised(self, error: BaseException, status: int = ERROR) -> Report:
        """The report when the attempt was ended by an exception; `status` is `ERROR` or `TIMEOUT`."""
        self.ran, number = time.perf_counter() - self.clock, self.entry.number
        failure = describe(error, self.retry.delay_after(number, error))
        attempt = Attempt(self.entry.position, number, status, self.started, self.ran, failure=failure)
        return Report(attempt, pushback(error))

    def lost(self, error: BaseException) -> Ended:
        """How it ended when its runner did, by a defect: then the defect is what became of the item."""
        self.retry = NO_RETRY
        return self.raised(error)

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
        if not self.started:
            return cancelled(self.entry.position, self.entry.number)
        ran = time.perf_counter() - self.clock
        return cancelled(self.entry.position, self.entry.number, self.started, ran)
