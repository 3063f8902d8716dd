"""Runs coroutines of items on the pool's own loop, in the task that asks."""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any

from restate_nb.engine.attempt import ItemCall, Report, RunningAttempt
from restate_nb.engine.output import at_item
from restate_nb.engine.record import Recorded
from restate_nb.engine.runner import Runner


class LoopRunner(Runner):
    """Awaits what the call returns."""

    async def run(self, work: ItemCall, attempt: RunningAttempt) -> Report:
        """Make the attempt; see `Runner.run`."""
        context, entry = work.context.copy(), attempt.entry
        timeout = self._context.timeout
        deadline: asyncio.Timeout | None = None
        try:
            awaitable = context.run(at_item, entry.position, work.call, entry.payload)
            if timeout is None:
                value = await _within(context, awaitable)
            else:
                async with asyncio.timeout(timeout) as deadline:
                    value = await _within(context, awaitable)
            if isinstance(value, Recorded):
                return attempt.made_elsewhere(value)
            return attempt.returned(value, work.encode)
        except BaseException as error:
            if self._context.is_cancelled(error):
                raise
            return self._context.cut_short(attempt, error, deadline)


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
