"""Runs coroutines of items on the pool's own loop, each in a task that takes one after another."""

from __future__ import annotations

import asyncio
import contextvars
import time
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Final, NamedTuple

from restate_nb.engine.attempt import Ended, RunningAttempt
from restate_nb.engine.output import belong_to
from restate_nb.engine.record import Recorded
from restate_nb.engine.runner import Runner, RunnerContext, Source

_TURN: Final = 0.005
"""Seconds that items which never wait may keep the loop for themselves."""


class LoopRunner(Runner):
    """Awaits what the call returns."""

    def __init__(self, context: RunnerContext, source: Source) -> None:
        super().__init__(context, source)
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = self._start_more = False
        self._turn = 0.0

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
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
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
        task, source, ended = asyncio.current_task(), self._source, None
        assert task is not None
        attempt: RunningAttempt | None = first
        try:
            while attempt is not None:
                attempt.owner, attempt.place = self, task
                ended = None if attempt.over else await self._ended(attempt, task, awaitable)
                attempt.place = awaitable = None
                if task.cancelling():  # by the pool, or by the item itself: this task must not go on half-cancelled
                    source.finish([(attempt, ended)])
                    break
                attempt = source.next("loop", attempt, ended)
                if time.perf_counter() - self._turn > _TURN:
                    await asyncio.sleep(0)
                    self._turn = time.perf_counter()
        except BaseException as error:
            if attempt is not None and not _is_thrown_away(task):
                source.finish([(attempt, attempt.lost(error))])
                source.wake()
            raise
        source.wake()

    async def _ended(
        self, attempt: RunningAttempt, task: asyncio.Task[None], awaitable: Awaitable[Any] | None
    ) -> Ended | None:
        """How the attempt ended; None when it was cancelled."""
        call = attempt.call
        assert call is not None
        context = call.context.copy()
        try:
            value = context.run(_first_step, attempt, awaitable)
            if type(value) is _Waits:
                value = await _steps(context, value.coroutine, value.on)
            elif type(value) is _Awaits:
                value = await value.awaitable
            if attempt.expired:
                task.uncancel()  # it did not let itself be cancelled, and has ended now
            if type(value) is Recorded:
                return attempt.made_elsewhere(value)
            return attempt.returned(value, call.encode)
        except BaseException as error:
            if _is_thrown_away(task):
                raise
            if attempt.expired:
                task.uncancel()
                return self._context.timed_out(attempt)
            return None if attempt.over and isinstance(error, asyncio.CancelledError) else attempt.raised(error)


class _Waits(NamedTuple):
    """A coroutine that has come to where it waits."""

    coroutine: Coroutine[Any, Any, Any]
    on: Any


class _Awaits(NamedTuple):
    """What is awaited, but for coroutines."""

    awaitable: Awaitable[Any]


def _first_step(attempt: RunningAttempt, awaitable: Awaitable[Any] | None) -> Any:
    """Call the function, and go as far as it goes without waiting: what it returned, `_Waits` or `_Awaits`."""
    belong_to(attempt.entry.position)
    attempt.begin()
    if awaitable is None:
        assert attempt.call is not None
        awaitable = attempt.call.function(attempt.entry.payload)
    if not isinstance(awaitable, Coroutine):
        return _Awaits(awaitable)
    try:
        return _Waits(awaitable, awaitable.send(None))
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
