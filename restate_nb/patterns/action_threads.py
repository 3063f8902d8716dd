"""Threads for the plain functions that `ctx.run` calls in operations.

asyncio has min(32, cpus + 4) threads for all of a process, so that twenty operations at once would be six on two cores.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

from restate_nb.engine.threads import NoThread, Threads

_threads = Threads()


def in_own_thread(action: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """A plain function as a coroutine function that runs it in a thread which no other one waits for."""

    async def run() -> Any:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        variables = contextvars.copy_context()

        def task() -> None:
            value, error = None, None
            try:
                value = variables.run(action)
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(_end, ended, (value, error))
            except RuntimeError:  # the loop was closed meanwhile: nobody is left to hear it
                return

        try:
            _threads.run("ctx.run", task)
        except NoThread:
            return await loop.run_in_executor(None, variables.run, action)
        value, error = await ended
        if error is not None:
            raise error
        return value

    return run


def _end(ended: asyncio.Future[Any], how: tuple[Any, BaseException | None]) -> None:
    if not ended.done():
        ended.set_result(how)
