"""An event loop in a thread of its own, which goes on whatever the code does that runs on it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Container, Coroutine
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakSet

from restate_nb.engine.forked import Home, in_children
from restate_nb.engine.stacks import stack_of_thread
from restate_nb.engine.threads import DaemonExecutor
from restate_nb.errors import InvalidInput, ServerError

T = TypeVar("T")

_END: Final = 1.0  # seconds for what runs on a loop to end once it is cancelled
_JOIN: Final = 0.2  # seconds for a loop that is told to end
_AT_ONCE: Final = 0.1  # seconds
_BROKEN: Final = 100  # ends in a row, each at once, after which a loop is given up: its selector is broken, say
_log = logging.getLogger(__name__)
_here = threading.local()  # `loop`: the LoopThread that this thread is
_loops: Final[WeakSet[asyncio.AbstractEventLoop]] = WeakSet()


def _close_connections() -> None:
    """In a fork: its copies would keep connections and ports open when this process has died, so that Restate waited
    for it, and nobody could take its place. The numbers stay taken: their objects here will close them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for loop in list(_loops):
        watched = getattr(getattr(loop, "_selector", None), "_fd_to_key", {})  # of other kinds of loops unknown
        for descriptor in list(watched):
            with suppress(OSError):
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


in_children(_close_connections)


class LoopThread:
    """An event loop of its own, in a daemon thread of its own, so that a busy cell never blocks it.

    It goes on whatever the code does that runs on it. `asyncio` lets SystemExit and KeyboardInterrupt of any task or
    callback out of the loop, and anybody can stop it: then it is logged, and the loop runs on.
    """

    def __init__(self, name: str) -> None:
        """Raises ServerError when the machine gives no more threads."""
        self._home = Home()
        self.loop = asyncio.new_event_loop()
        _loops.add(self.loop)
        self.loop.set_default_executor(DaemonExecutor())
        self._closing = False
        self._gone = False
        self._waiting: set[Future[Any]] = set()
        self._last: set[object] = set()
        self._escaped: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self.loop.close()
            raise ServerError(
                f"The machine gives no more threads ({error}), of which a session needs a few: see `ulimit -u`, and "
                "the limit of processes (pids) of its container."
            ) from error

    def _run(self) -> None:
        _here.loop = self
        asyncio.set_event_loop(self.loop)
        failed = 0
        try:
            while not self._closing and failed < _BROKEN:
                began = time.monotonic()
                try:
                    self.loop.run_forever()
                    what: BaseException | None = None
                except BaseException as error:
                    what = error
                if not self._closing:
                    failed = failed + 1 if time.monotonic() - began < _AT_ONCE and _is_defect(what) else 0
                    self._log_end(what)
        finally:
            self._gone = True
            if not self._closing:
                self._fail_waiting()
            with suppress(BaseException):  # of what was blocked until now, and runs on to its end
                if asyncio.all_tasks(self.loop):
                    self.loop.run_until_complete(_cancel_all(_END, self._last))
            with suppress(Exception):
                self.loop.close()
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        for future in list(self._waiting):
            with suppress(InvalidStateError):
                future.set_exception(_ended())

    def _log_end(self, error: BaseException | None) -> None:
        """Log what has ended the loop; of what does so again and again, the first, the tenth, the hundredth time."""
        what = "It was stopped." if error is None else traceback.format_exception_only(error)[-1].strip()
        self._escaped[what] += 1
        count = self._escaped[what]
        if str(count).strip("0") == "1":
            _log.error(
                "The event loop %s was ended by code that runs on it (%s), and goes on. sys.exit() and its like end "
                "nothing but their item.%s",
                self._thread.name,
                what,
                f" This has happened {count:,} times." if count > 1 else "",
                exc_info=error if count == 1 else None,
            )

    def _check_that_it_runs(self) -> None:
        if self._gone:
            raise _ended()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there; the cell goes on.

        Raises:
            InvalidInput: this process is a fork of the one that has the thread.
            ServerError: the loop has ended.
        """
        if not self._home.is_here:
            coroutine.close()
            self._home.check()
        try:
            self._check_that_it_runs()
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except (RuntimeError, ServerError) as error:
            coroutine.close()
            raise _ended() from error
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        if self._gone:  # it ended just before, and nobody looks any more
            with suppress(InvalidStateError):
                future.set_exception(_ended())
        return future

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine there, and wait for it. Ctrl-C ends the waiting and the coroutine.

        Raises:
            InvalidInput: it is this very loop that would wait.
            ServerError: the loop has ended.
            TimeoutError: it took longer than `timeout` seconds; the coroutine is cancelled.
        """
        if getattr(_here, "loop", None) is self:
            coroutine.close()
            raise InvalidInput(
                "This would wait for a loop of the session on that loop itself, for ever: it was called in a handler "
                "or a durable function. Call it in a thread: await asyncio.to_thread(...)."
            )
        future = self.start(coroutine)
        try:
            return future.result(timeout)
        except (KeyboardInterrupt, FutureTimeoutError):
            future.cancel()
            raise

    def check(self) -> None:
        """Refuse to wait for what runs there in a fork, where nothing does.

        Raises:
            InvalidInput: this process is one.
        """
        self._home.check()

    def finish(self, coroutine: Coroutine[Any, Any, None], timeout: float) -> bool:
        """Run one of the last coroutines of this loop; says whether that took less than `timeout` seconds.

        Else it is done when what blocks the loop has ended.

        Raises:
            Exception: what the coroutine raised.
        """
        if getattr(_here, "loop", None) is self or self._gone:
            coroutine.close()
            return False
        self._last.add(coroutine)
        try:
            self.start(coroutine).result(timeout)
        except FutureTimeoutError:
            return False
        self._last.discard(coroutine)
        return True

    def close(self, within: float = _END) -> bool:
        """Cancel what runs there, and end the thread. Says whether it has ended.

        Args:
            within: seconds to wait for each of the two. A loop that is blocked ends when what blocks it does.
        """
        if not (self._home.is_here and self._thread.is_alive()):
            return True
        if within > 0:
            with suppress(Exception):
                self.run(_cancel_all(within / 2), within)
        self._closing = True
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(max(within, _JOIN))
        return not self._thread.is_alive()

    def where(self) -> str:
        """In which line of the user's code it is, for one that does not answer; empty when that is not known."""
        lines = stack_of_thread(self._thread.ident or 0)
        return lines[-1] if lines else ""


def _is_defect(error: BaseException | None) -> bool:
    """Whether it comes of the loop itself, rather than of what runs on it."""
    return isinstance(error, Exception)


def _ended() -> ServerError:
    return ServerError("The session's event loop has ended. Run rnb.start() again.")


def blocked_by_waiting() -> bool:
    """Whether this thread is a loop of a session, on which items or handlers run: nothing may wait on it."""
    return getattr(_here, "loop", None) is not None


async def _cancel_all(within: float, but: Container[object] = ()) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        if task.get_coro() not in but:
            task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=within)
    await asyncio.get_running_loop().shutdown_asyncgens()
