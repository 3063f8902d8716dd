"""Runs coroutines of items on the pool's own loop, each in a task that takes one after another."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Final

import msgspec

from restate_nb.engine.attempt import Ended, RunningAttempt
from restate_nb.engine.output import belong_to
from restate_nb.engine.runner import Runner, RunnerContext, Source

_TURN: Final = 0.005
"""Seconds that items which never wait may keep the loop for themselves."""

_MOST_AT_ONCE: Final = 16
_BATCH_SECONDS: Final = 0.001
"""How many items that never wait are taken at a time, and for how long they may take."""

_NO_CONTEXT: Final = contextvars.Context()


class LoopRunner(Runner):
    """Awaits what the call returns."""

    def __init__(self, context: RunnerContext, source: Source) -> None:
        super().__init__(context, source)
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = self._start_more = False
        self._turn = 0.0
        self._batch = 1  # items that are taken at a time: more than one where they never wait
        self._recalled = False

    # ------------------------------------------------------------ from any thread

    def start(self, most: int) -> None:
        """Have items taken; see `Runner.start`."""
        if self._is_here():
            self._start_tasks(most)
        else:
            self._context.soon(self._start_tasks, most)

    def await_for(self, attempt: RunningAttempt, awaitable: Awaitable[Any]) -> None:
        """Go on with an attempt of another runner, whose call has returned something to be awaited."""
        attempt.owner, attempt.clock = self, 0.0
        self._context.soon(self._start_task, attempt, awaitable)

    def abandon(self, attempt: RunningAttempt, *, expired: bool) -> None:
        """Cancel the attempt's task; its place is free when the coroutine has ended."""
        if self._is_here():
            self._cancel(attempt, expired)
        else:
            self._context.soon(self._cancel, attempt, expired)

    def recall(self) -> None:
        """Put back what was taken and has not begun."""
        self._recalled = True

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._context.loop
        except RuntimeError:
            return False

    def close(self) -> None:
        """Cancel all tasks. To be called on the loop."""
        super().close()
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------ on the loop

    def _start_tasks(self, most: int) -> None:
        if self._starting:  # to take an item calls for the next one
            self._start_more = True
            return
        self._starting = True
        try:
            while most > 0:
                self._start_more = False
                attempt = self._source.next("loop", None, None)
                if attempt is not None:
                    self._start_task(attempt, None)
                    most -= 1
                most += self._start_more
                if attempt is None and not self._start_more:
                    break
        finally:
            self._starting = False

    def _start_task(self, attempt: RunningAttempt, awaitable: Awaitable[Any] | None) -> None:
        coroutine = self._run(attempt, awaitable)
        task = self._context.loop.create_task(coroutine, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._task_ended, attempt))

    def _task_ended(self, first: RunningAttempt, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._source.finish([(first, None)])  # where it was cancelled before its first step
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GeneratorExit):  # that of an item's task closes all it passes
            raise error  # a defect of ours: the loop's exception handler reports it

    def _cancel(self, attempt: RunningAttempt, expired: bool) -> None:
        with self._context.lock:
            if expired and attempt.over:
                return
            attempt.expired = expired
        if isinstance(attempt.place, asyncio.Task):
            attempt.place.cancel()

    async def _run(self, first: RunningAttempt, awaitable: Awaitable[Any] | None) -> None:
        """Make the first attempt, whose call has given the awaitable, if there is one; then take others."""
        task, source = asyncio.current_task(), self._source
        assert task is not None
        attempts = [first]
        try:
            while attempts:
                waits = self._begin(attempts, task, awaitable)
                if waits is not None:
                    attempts = [waits.attempt]
                    ended = await self._ended(waits, task)
                    source.finish([(waits.attempt, ended)])
                attempts, awaitable = [], None
                if task.cancelling():  # by the pool, or by the item itself: this task must not go on half-cancelled
                    break
                turn_is_over = time.perf_counter() - self._turn > _TURN
                attempts = source.take("loop", 1 if turn_is_over else self._batch)
                if attempts and turn_is_over:
                    self._recalled = False
                    await asyncio.sleep(0)
                    self._turn = time.perf_counter()
                    if self._recalled:
                        source.put_back(attempts)
                        attempts = source.take("loop")
        except BaseException as error:
            if not _is_thrown_away(task):
                source.finish([(each, None if each.over else each.lost(error)) for each in attempts])
                source.wake()
            raise
        source.wake()

    def _begin(
        self, attempts: list[RunningAttempt], task: asyncio.Task[None], awaitable: Awaitable[Any] | None
    ) -> _Waits | None:
        """Make attempts as long as they do not wait. The first one that does is given back, and those after it are put
        back, for other tasks."""
        ended: list[tuple[RunningAttempt, Ended | None]] = []
        until = time.perf_counter() + _BATCH_SECONDS
        waits, self._recalled = None, False
        for attempt in attempts:
            if attempt.follows and (self._recalled or attempt.clock > until or task.cancelling()):
                break
            attempt.owner, attempt.place = self, task
            how: Ended | None = None
            if not attempt.over:  # else it was cancelled in the meantime
                call = attempt.call
                assert call is not None
                context = call.context.copy()
                try:
                    value = context.run(_first_step, attempt, awaitable)
                    if type(value) is _Waits:
                        waits = value
                        waits.context = context
                        break
                    how = attempt.gave(value, call.encode)
                except BaseException as error:
                    how = attempt.raised(error)
                attempt.place = None
            ended.append((attempt, how))
            if type(how) is not bytes:
                break  # whether more is to begin after that, the pool says
        rest = attempts[len(ended) + (waits is not None) :]
        self._batch = min(2 * self._batch, _MOST_AT_ONCE) if not rest and waits is None else 1
        self._source.finish(ended, None if waits is None else waits.attempt)
        if rest:
            self._source.put_back(rest)
        return waits

    async def _ended(self, waits: _Waits, task: asyncio.Task[None]) -> Ended | None:
        """How an attempt ended that has come to where it waits; None when it was cancelled."""
        attempt = waits.attempt
        call = attempt.call
        assert call is not None
        try:
            if waits.coroutine is None:
                value = await waits.on
            else:
                value = await _steps(waits.context, waits.coroutine, waits.on)
            if attempt.expired:
                task.uncancel()  # it did not let itself be cancelled, and has ended now
            return attempt.gave(value, call.encode)
        except BaseException as error:
            if _is_thrown_away(task):
                raise
            if attempt.expired:
                task.uncancel()
                return self._context.timed_out(attempt)
            return None if attempt.over and isinstance(error, asyncio.CancelledError) else attempt.raised(error)
        finally:
            attempt.place = None


class _Waits(msgspec.Struct):
    """An attempt that has come to where it waits.

    Attributes:
        attempt: which.
        on: what its coroutine waits for; without a coroutine, what is awaited.
        coroutine: the item's.
        context: in which each of its steps is run.
    """

    attempt: RunningAttempt
    on: Any
    coroutine: Coroutine[Any, Any, Any] | None = None
    context: contextvars.Context = _NO_CONTEXT


def _first_step(attempt: RunningAttempt, awaitable: Awaitable[Any] | None) -> Any:
    """Call the function, and go as far as it goes without waiting: what it returned, or `_Waits`."""
    belong_to(attempt.entry.position)
    attempt.started, attempt.clock = time.time(), time.perf_counter()
    if awaitable is None:
        awaitable = attempt.call.function(attempt.entry.payload)  # type: ignore[union-attr]
    if type(awaitable) is not types.CoroutineType and not isinstance(awaitable, Coroutine):
        return _Waits(attempt, awaitable)
    try:
        return _Waits(attempt, awaitable.send(None), awaitable)
    except StopIteration as end:
        return end.value


@types.coroutine
def _steps(
    context: contextvars.Context, coroutine: Coroutine[Any, Any, Any], waits_for: Any
) -> Generator[Any, Any, Any]:
    """Go on, each step run in `context`: an item has its own context without a task of its own."""
    try:
        while True:
            try:
                got = yield waits_for
            except BaseException as error:
                waits_for = context.run(coroutine.throw, error)
            else:
                waits_for = context.run(coroutine.send, got)
    except StopIteration as end:
        return end.value


def _is_thrown_away(task: asyncio.Task[Any]) -> bool:
    """Whether this code does not run in its task any more: its coroutine is thrown away, after the loop has ended.

    All else is the item's: it may raise GeneratorExit, and CancelledError, and cancel the task that it runs in.
    """
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # no loop runs
        return True
