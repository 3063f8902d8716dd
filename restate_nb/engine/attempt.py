"""Where an attempt runs: on the pool's loop, in a thread or in a process. Each way has its timeout."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
import types
from collections.abc import Awaitable, Callable, Container, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from restate_nb.engine.codec import encode
from restate_nb.engine.outbox import Entry
from restate_nb.engine.output import at_item
from restate_nb.engine.process_runner import IDLE, Lease, Processes, Remote
from restate_nb.engine.record import TIMEOUT, Recorded
from restate_nb.engine.thread_runner import NoThread, Threads
from restate_nb.engine.trial import Report, kept, told, try_once, went_wrong
from restate_nb.errors import ItemTimeout
from restate_nb.policy import NO_RETRY, Retry


@dataclass(frozen=True, slots=True)
class ItemCall:
    """What a pool does with an item.

    Attributes:
        call: called with the item's payload.
        is_async: it returns a coroutine, to be run on the pool's loop; otherwise it is called in a thread.
        context: the context variables that items see; each has its own copy.
        remote: what worker processes call instead, which see no context.
        pick: gives what is done with an item by its payload, where that differs from item to item.
        encode: writes what `call` returned.
    """

    call: Callable[[Any], Any]
    is_async: bool
    context: contextvars.Context
    remote: Remote | None = None
    pick: Callable[[Any], ItemCall] | None = None
    encode: Callable[[Any], bytes] = encode


class Attempts:
    """Runs attempts for one pool, on the pool's loop.

    Attributes:
        retry: when a failed attempt is followed by another.
        timeout: seconds that one attempt may take; None for no limit.
        hung: threads whose item timed out and that run on.
        threads: the thread (its ident) in which an attempt runs, by position and number; hung ones too.
        bearable: with as many hung threads, timeouts say what to do about it.
        cut: the tasks that the pool itself has cancelled. An item can cancel the one that it runs in, too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, threads: Threads, tasks: Container[object]) -> None:
        """`name`: of threads, while they run an item; `tasks`: those of the pool."""
        self._loop = loop
        self._name = name
        self._threads = threads
        self._tasks = tasks
        self._processes: Processes | None = None
        self._idling: asyncio.TimerHandle | None = None
        self.retry: Retry = NO_RETRY
        self.timeout: float | None = None
        self.hung = 0
        self.bearable = 1
        self.threads: dict[tuple[int, int], int] = {}
        self.cut: set[asyncio.Task[None]] = set()

    def renew(self) -> None:
        """The function was brought anew."""
        if self._processes is not None:
            self._processes.renew()

    def close(self) -> None:
        """End all worker processes, and look after none any more."""
        if self._idling is not None:
            self._idling.cancel()
        self.kill()

    def kill(self) -> None:
        """End all worker processes. From any thread: the loop may be busy with something that never ends."""
        if self._processes is not None:
            self._processes.close()

    def wait_until_gone(self, until: float) -> bool:
        """Wait for killed worker processes to be gone, until a time on `time.monotonic`; says whether they are."""
        return self._processes is None or self._processes.wait_until_gone(until)

    async def run(self, work: ItemCall, entry: Entry) -> Report:
        """One attempt at an item.

        Raises:
            CancelledError: the pool has cancelled the task that calls it.
            NoThread: there is no thread for it, and none begins.
        """
        if work.pick is not None:
            work = work.pick(entry.payload)
        if work.is_async:
            return await self._on_loop(work, entry)
        if work.remote is not None:
            return await self._in_process(work.remote, work.context, entry)
        return await self._in_thread(work, entry)

    async def _on_loop(self, work: ItemCall, entry: Entry) -> Report:
        context = work.context.copy()
        started, clock = time.time(), time.perf_counter()
        deadline: asyncio.Timeout | None = None
        try:
            awaitable = context.run(at_item, entry.position, work.call, entry.payload)
            if self.timeout is None:
                value = await _within(context, awaitable)
            else:
                async with asyncio.timeout(self.timeout) as deadline:
                    value = await _within(context, awaitable)
            if isinstance(value, Recorded):
                return told(entry.position, entry.number, value, self.retry)
            return kept(entry.position, entry.number, value, work.encode, started=started, clock=clock)
        except BaseException as error:
            if self._is_cut(error):
                raise
            return self._cut_short(entry, error, deadline, self.retry, started=started, clock=clock)

    async def _in_thread(self, work: ItemCall, entry: Entry) -> Report:
        done: asyncio.Future[None] = self._loop.create_future()
        started, clock = time.time(), time.perf_counter()
        retry, late = self.retry, False
        result: Report | Awaitable[Any] | None = None

        def settle() -> None:
            if not done.done():
                done.set_result(None)
            elif late:
                self.hung -= 1

        def job() -> None:
            nonlocal result
            self.threads[entry.position, entry.number] = threading.get_ident()
            call = functools.partial(at_item, entry.position, work.call)
            context = work.context.copy()
            result = context.run(try_once, call, entry.position, entry.number, entry.payload, retry, encode=work.encode)
            self.threads.pop((entry.position, entry.number), None)

        def told() -> None:
            try:  # noqa: SIM105 - which is faster, and this is for every item
                self._loop.call_soon_threadsafe(settle)
            except RuntimeError:  # the loop has ended
                pass

        self._threads.run(self._name, job, told)
        deadline = asyncio.timeout(self.timeout)
        try:
            async with deadline:
                await done
        except BaseException as error:
            if result is None:
                late = True
                self.hung += 1
            if self._is_cut(error):
                raise
            if result is None:  # else it ended in the very turn of its deadline
                return self._cut_short(entry, error, deadline, retry, started=started, clock=clock)
        assert result is not None
        if isinstance(result, Report):
            return result
        awaitable = result
        return await self._on_loop(ItemCall(lambda _: awaitable, True, work.context, encode=work.encode), entry)

    def _is_cut(self, error: BaseException) -> bool:
        """Whether the attempt ends without a report: the pool has cancelled it, or its coroutine is thrown away.

        All else is the item's: it may raise GeneratorExit, and CancelledError, and cancel the task that it runs in.
        """
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs
            return True
        return task not in self._tasks or (task in self.cut and issubclass(type(error), asyncio.CancelledError))

    def _tell(self, call: Callable[..., object], *args: object) -> None:
        """Call on the pool's loop, from a thread; a loop that has ended needs to know nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    async def _in_process(self, remote: Remote, context: contextvars.Context, entry: Entry) -> Report:
        processes = self._processes = self._processes or Processes()
        done: asyncio.Future[None] = self._loop.create_future()
        trip, retry, timeout = Lease(), self.retry, self.timeout
        started, clock = time.time(), time.perf_counter()
        result: Report | NoThread | None = None

        def begun() -> None:
            nonlocal started, clock
            if timeout is not None and not done.done():
                started, clock = time.time(), time.perf_counter()
                deadline.reschedule(self._loop.time() + timeout)

        def attempt(_: object) -> Report | NoThread:
            try:
                return processes.run(remote, entry, retry=retry, trip=trip, began=lambda: self._tell(begun))
            except NoThread as refused:
                return refused

        def job() -> None:
            nonlocal result
            result = context.copy().run(at_item, entry.position, attempt, None)

        self._threads.run(self._name, job, lambda: self._tell(lambda: None if done.done() else done.set_result(None)))
        deadline = asyncio.timeout(None)  # the function may have to be loaded first, which is not the item's time
        try:
            async with deadline:
                await done
        except BaseException as error:
            trip.abandon()
            if self._is_cut(error):
                raise
            if result is None:  # else it ended in the very turn of its deadline
                return self._cut_short(entry, error, deadline, retry, started=started, clock=clock)
        finally:
            if self._idling is None:
                self._idling = self._loop.call_later(IDLE, self._end_idle, processes)
        assert result is not None
        if isinstance(result, NoThread):
            raise result
        return result

    def _end_idle(self, processes: Processes) -> None:
        self._idling = None
        if processes.end_idle():
            self._idling = self._loop.call_later(IDLE, self._end_idle, processes)

    def _cut_short(
        self,
        entry: Entry,
        error: BaseException,
        deadline: asyncio.Timeout | None,
        retry: Retry,
        *,
        started: float,
        clock: float,
    ) -> Report:
        """The report of an attempt that `error` has ended, which may be that of its deadline."""
        if deadline is not None and deadline.expired():
            return self._timed_out(entry, started, clock)
        return went_wrong(entry.position, entry.number, error, retry, started=started, clock=clock)

    def _timed_out(self, entry: Entry, started: float, clock: float) -> Report:
        says = f"The item ran longer than timeout={self.timeout:g} seconds."
        if self.hung >= self.bearable:
            says += (
                f" {self.hung} threads are still busy with items that timed out: a thread cannot be stopped. Give the "
                'function\'s own calls a timeout, or use executor="process", which ends the process of an item.'
            )
        error = ItemTimeout(says)
        return went_wrong(entry.position, entry.number, error, self.retry, started=started, clock=clock, status=TIMEOUT)


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
