"""Event loops in background threads, and the way from a cell to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop of its own, in a daemon thread of its own, so that a busy cell never blocks it."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there; the cell goes on."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for it. Ctrl-C ends the waiting and the coroutine."""
        future = self.start(coroutine)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what runs there, and end the thread."""
        if not self._thread.is_alive():
            return
        self.start(_cancel_all()).result(timeout=10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=10)


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=5)
    await asyncio.get_running_loop().shutdown_asyncgens()


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
    _allow_nesting(loop)
    return loop.run_until_complete(wait())


def _allow_nesting(loop: asyncio.AbstractEventLoop) -> None:
    try:
        import nest_asyncio  # noqa: PLC0415 - patches asyncio, so never before it is needed
    except ImportError:
        import nest_asyncio2 as nest_asyncio  # noqa: PLC0415 - Python 3.14, which the original does not support
    nest_asyncio.apply(loop)
