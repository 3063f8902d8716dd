"""Waiting in a cell for what runs on an event loop: of this thread, or of a background thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

from restate_nb.errors import ServerError
from restate_nb.patches import allow_nesting

T = TypeVar("T")


def cause_of(error: Exception) -> Exception:
    """What went wrong in a task group, rather than the group: the first that is not only Restate being away."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [cause_of(each) for each in error.exceptions]
    return next((each for each in causes if not isinstance(each, ServerError)), causes[0])


async def until_done(future: Future[T], given_up: Callable[[], bool] = lambda: False) -> T | None:
    """Await a future of another thread from a cell's loop; None once `given_up` says so.

    Cancelling the cell does not cancel the future. The loop wakes four times a second, since a signal handler of Python
    runs only when the interpreter does: a bare `await` in a cell could not be interrupted.
    """
    waiting = asyncio.shield(asyncio.wrap_future(future))
    while not waiting.done():
        if given_up():
            return None
        await asyncio.wait({waiting}, timeout=0.25)
    return waiting.result()


def run(awaitable: Awaitable[T]) -> T:
    """Wait for an awaitable from a cell, also where the notebook's own loop is running already.

    Raises:
        Whatever the awaitable raises.

    Example:
        >>> import asyncio
        >>> run(asyncio.sleep(0, result=3))
        3
    """

    async def wait() -> T:
        return await awaitable

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    allow_nesting(loop)
    return loop.run_until_complete(wait())
