"""Runs the items of a job in this process: coroutine functions on a loop, plain functions in threads.

A pool outlives the attempts of the handlers that feed it. It belongs to one event loop; everything but the read-only
counts is called there, or through `Pool.soon` from another thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from restate_nb.engine.codec import encode
from restate_nb.engine.lane import Entry, Lane, cancelled
from restate_nb.engine.record import ERROR, OK, TIMEOUT, Attempt, describe
from restate_nb.engine.threads import Threads
from restate_nb.errors import ItemTimeout
from restate_nb.policy import RunPolicy, seconds

_TURN: Final = 0.005
"""Seconds that items which never wait may keep the loop for themselves."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a pool does with an item.

    Attributes:
        call: called with the item's payload.
        is_async: it returns a coroutine, to be run on the pool's loop; otherwise it is called in a thread.
        context: the context variables that items see; each has its own copy.
    """

    call: Callable[[Any], Any]
    is_async: bool
    context: contextvars.Context


@dataclass(frozen=True, slots=True)
class _Running:
    lane: Lane
    entry: Entry
    started: float
    clock: float


class Pool:
    """At most `concurrency` items at once, from its lanes in the order in which they were added.

    Nothing starts before `provide` has brought the function.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "items") -> None:
        self._loop = loop
        self._set_policy(RunPolicy())
        self._work: Work | None = None
        self._queue: deque[Lane] = deque()  # lanes with pending entries
        self._running: dict[asyncio.Task[None], _Running | None] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._paused = False
        self._closed = False
        self._turn = 0.0
        self._threads = Threads(f"rnb-{name}")
        self._random = random.Random()
        self.hung = 0  # threads whose item timed out and that run on

    # ------------------------------------------------------------ from any thread

    @property
    def running(self) -> int:
        """How many items run now."""
        return sum(1 for each in list(self._running.values()) if each is not None)

    def running_positions(self) -> frozenset[int]:
        """Where the items that run now stand in the input."""
        return frozenset(each.entry.position for each in list(self._running.values()) if each is not None)

    @property
    def has_work(self) -> bool:
        """Whether the function is known."""
        return self._work is not None

    @property
    def concurrency(self) -> int:
        """How many items may run at once."""
        return self._limit

    def soon(self, call: Callable[..., None], *args: object) -> None:
        """Call a method of this pool on its own loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    # ------------------------------------------------------------ on the pool's loop

    def provide(self, work: Work, policy: RunPolicy) -> None:
        """Set the function and how it is run. Attempts that run end with what they began with."""
        self._work = work
        self._set_policy(policy)
        self._start_workers()

    def _set_policy(self, policy: RunPolicy) -> None:
        self._limit = policy.concurrency
        self._retry = policy.retry
        self._timeout = None if policy.timeout is None else seconds("timeout", policy.timeout)

    def set_concurrency(self, limit: int) -> None:
        """Change how many run at once; what runs is not stopped."""
        self._limit = limit
        self._start_workers()

    def pause(self) -> None:
        """Start nothing more; what runs goes on."""
        self._paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self._start_workers()

    def add(self, lane: Lane) -> None:
        """Take up a lane's entries."""
        self._queue.append(lane)
        self._start_workers()

    def cancel(self, lane: Lane) -> None:
        """End a lane: its items get the outcome `cancelled`, at once."""
        now = time.perf_counter()
        mine = {task: each for task, each in self._running.items() if each is not None and each.lane is lane}
        records = {
            each.entry.position: cancelled(each.entry.position, each.entry.number, each.started, now - each.clock)
            for each in mine.values()
        }
        lane.cancel(records)
        for task in mine:
            task.cancel()

    def close(self) -> None:
        """Stop everything and record nothing: what was in flight is run again by the next process."""
        self._closed = True
        self._queue.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for task in self._running:
            task.cancel()
        self._threads.close()

    # ------------------------------------------------------------ workers

    def _start_workers(self) -> None:
        if self._work is None or self._paused or self._closed:
            return
        wanted = 0
        for lane in self._queue:
            wanted += len(lane.pending)
            if wanted >= self._limit:
                break
        for _ in range(min(wanted, self._limit - len(self._running))):
            task = self._loop.create_task(self._worker(), context=contextvars.Context())
            self._running[task] = None
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a defect of this module: the loop's exception handler reports it
        self._start_workers()

    def _next(self) -> tuple[Lane, Entry] | None:
        if self._paused or self._closed or len(self._running) > self._limit:
            return None
        while self._queue:
            lane = self._queue[0]
            if lane.pending:
                return lane, lane.pending.popleft()
            self._queue.popleft()
        return None

    async def _worker(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while (found := self._next()) is not None:
            lane, entry = found
            if entry.not_before and (wait := entry.not_before - time.time()) > 0:
                self._rest(lane, entry, wait)
                continue
            assert self._work is not None
            self._running[task] = _Running(lane, entry, time.time(), time.perf_counter())
            attempt = await self._attempt(self._work, entry)
            self._running[task] = None
            lane.put(attempt)
            if attempt.failure is not None and attempt.failure.retry_in is not None and not self._closed:
                wait = attempt.failure.retry_in
                self._rest(lane, Entry(entry.position, entry.payload, entry.number + 1), wait)
            if task.cancelling():
                return  # the item did not let itself be cancelled; this task must not go on half-cancelled
            if time.perf_counter() - self._turn > _TURN:
                await asyncio.sleep(0)
                self._turn = time.perf_counter()

    def _rest(self, lane: Lane, entry: Entry, seconds: float) -> None:
        """Bring the entry back later."""
        if entry.position not in lane.open:
            return
        lane.resting[entry.position] = entry

        def ready() -> None:
            self._timers.discard(timer)
            if lane.resting.pop(entry.position, None) is not None:
                lane.pending.appendleft(Entry(entry.position, entry.payload, entry.number))
                if lane not in self._queue:
                    self._queue.appendleft(lane)
                self._start_workers()

        timer = self._loop.call_later(seconds, ready)
        self._timers.add(timer)

    async def _attempt(self, work: Work, entry: Entry) -> Attempt:
        if work.is_async:
            return await self._on_loop(work, entry)
        return await self._in_thread(work, entry)

    async def _on_loop(self, work: Work, entry: Entry) -> Attempt:
        context = work.context.copy()
        started, clock = time.time(), time.perf_counter()
        deadline: asyncio.Timeout | None = None
        try:
            awaitable = context.run(work.call, entry.payload)
            if self._timeout is None:
                value = await _within(context, awaitable)
            else:
                async with asyncio.timeout(self._timeout) as deadline:
                    value = await _within(context, awaitable)
            ran = time.perf_counter() - clock
            return Attempt(entry.position, entry.number, OK, started, ran, msgspec.Raw(encode(value)))
        except BaseException as error:
            if isinstance(error, GeneratorExit) or (
                isinstance(error, asyncio.CancelledError) and _is_being_cancelled()
            ):
                raise
            ran = time.perf_counter() - clock
            if deadline is not None and deadline.expired():
                return self._timed_out(entry, started, ran)
            return self._failed(entry, error, started, ran)

    async def _in_thread(self, work: Work, entry: Entry) -> Attempt:
        done: asyncio.Future[Attempt | Awaitable[Any]] = self._loop.create_future()
        started, clock = time.time(), time.perf_counter()

        def settle(result: Attempt | Awaitable[Any]) -> None:
            if not done.done():
                done.set_result(result)
            elif late:
                self.hung -= 1

        def job() -> None:
            result = self._call(work, entry)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(settle, result)

        late = False
        self._threads.run(job)
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                result = await done
        except BaseException as error:
            late = True
            self.hung += 1
            if isinstance(error, TimeoutError) and deadline.expired():
                return self._timed_out(entry, started, time.perf_counter() - clock)
            raise
        if isinstance(result, Attempt):
            return result
        awaitable = result
        return await self._on_loop(Work(lambda _: awaitable, True, work.context), entry)

    def _call(self, work: Work, entry: Entry) -> Attempt | Awaitable[Any]:
        """In a thread: one attempt. Never raises. A lambda or a partial may give an awaitable: that is for the loop."""
        started, clock = time.time(), time.perf_counter()
        try:
            value = work.context.copy().run(work.call, entry.payload)
            if isinstance(value, Awaitable):
                return value
            ran = time.perf_counter() - clock
            return Attempt(entry.position, entry.number, OK, started, ran, msgspec.Raw(encode(value)))
        except BaseException as error:  # SystemExit too: it must not end this thread
            return self._failed(entry, error, started, time.perf_counter() - clock)

    def _timed_out(self, entry: Entry, started: float, ran: float) -> Attempt:
        error = ItemTimeout(f"The item ran longer than timeout={self._timeout:g} seconds.")
        failure = describe(error, self._retry.delay_after(entry.number, error, self._random))
        return Attempt(entry.position, entry.number, TIMEOUT, started, ran, failure=failure)

    def _failed(self, entry: Entry, error: BaseException, started: float, ran: float) -> Attempt:
        failure = describe(error, self._retry.delay_after(entry.number, error, self._random))
        return Attempt(entry.position, entry.number, ERROR, started, ran, failure=failure)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _within(context: contextvars.Context, awaitable: Awaitable[Any]) -> Awaitable[Any]:
    """The awaitable, each step of it run in `context`: an item has its own context without a task of its own."""
    if isinstance(awaitable, Coroutine):
        return _steps(context, awaitable)
    return awaitable


@types.coroutine
def _steps(context: contextvars.Context, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        waits_for = context.run(coroutine.send, None)
        while True:
            try:
                got = yield waits_for
            except BaseException as error:
                waits_for = context.run(coroutine.throw, error)
            else:
                waits_for = context.run(coroutine.send, got)
    except StopIteration as end:
        return end.value
