"""Threads for plain functions: each a daemon, so that a hung one holds up nobody, and used again by who comes next."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Final

IDLE: Final = 10.0
"""Seconds after which a thread with nothing to do ends."""

NO_MORE: Final = "the machine gives no more threads (a limit of the container or of the user: `ulimit -u`, pids)"

_Task = tuple[str, Callable[[], None], Callable[[], None]]  # the thread's name meanwhile, what to do, what to do then


def _nothing() -> None:
    pass


class NoThread(Exception):
    """The machine gives no further thread; those that there are go on."""


class Threads:
    """Runs each task at once, in a thread that is free or in a new one. One that is free for long ends.

    The caller bounds how many tasks there are. `asyncio.to_thread` and the SDK share min(32, cpus + 4) threads, so that
    80 calls at once are 6 on two cores; and the standard executor joins its threads at exit, which a hung call never
    leaves.
    """

    def __init__(self, idle: float = IDLE) -> None:
        """`idle`: seconds after which a thread with nothing to do ends."""
        self._idle = idle
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._free = 0  # threads without a task, those left out for which one is in the queue
        self._lock = threading.Lock()
        self._closed = False
        self._numbers = itertools.count(1)

    def run(self, name: str, task: Callable[[], None], then: Callable[[], None] = _nothing) -> None:
        """Start a task, which must not raise.

        Args:
            name: of the thread, while it does this.
            task: what to do.
            then: is called in the same thread once that is done, when the thread is free for the next task; so who
                hears of it needs no further thread. It must not raise either.

        Raises:
            NoThread: there is none, and the machine gives no more.
            RuntimeError: the threads were closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("These threads were closed.")
            if self._free:
                self._free -= 1
                self._tasks.put((name, task, then))
                return
        try:
            threading.Thread(target=self._work, args=(next(self._numbers),), name=name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # "can't start new thread"
            raise NoThread from error
        self._tasks.put((name, task, then))  # not an argument: the thread would keep it for as long as it lives

    def close(self) -> None:
        """Let every thread end once its task has. Does not wait for them."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in range(self._free):
                    self._tasks.put(None)

    def _work(self, number: int) -> None:
        thread, named = threading.current_thread(), ""
        while True:
            try:
                next_ = self._tasks.get(timeout=self._idle)
            except Empty:
                if self._may_end():
                    return
                continue
            if next_ is None:
                return
            name, task, then = next_
            if name != named:
                named, thread.name = name, f"{name}-{number}"
            task()
            with self._lock:
                over = self._closed
                self._free += not over
            then()
            del next_, task, then  # else an idle thread keeps the last item alive
            if over:
                return

    def _may_end(self) -> bool:
        """Whether no task is on its way to the thread that asks, which then counts no longer."""
        with self._lock:
            ends = self._free > 0 and not self._closed
            self._free -= ends
            return ends


class DaemonExecutor(ThreadPoolExecutor):
    """What `asyncio.to_thread` uses on a session's loops: threads that nobody waits for when the interpreter ends, and
    as many of them as items commonly run at once. It is a ThreadPoolExecutor in name, since asyncio takes no other.
    """

    def __init__(self, most: int = 64) -> None:
        """`most`: how many threads at once; what is more waits for its turn."""
        super().__init__(max_workers=1)  # which starts none by itself
        self._most = most
        self._ours = Threads()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0
        self._turns = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the function in a thread.

        Raises:
            RuntimeError: the executor was shut down, or the machine gives no thread at all.
        """
        future: Future[Any] = Future()
        work = future, functools.partial(fn, *args, **kwargs)
        with self._turns:
            if self._running == self._most:
                self._waiting.append(work)
                return future
            self._running += 1
        try:
            self._ours.run("rnb-to-thread", functools.partial(_call, *work), self._go_on)
        except NoThread as error:
            with self._turns:
                self._running -= 1
                if self._running:
                    self._waiting.append(work)
                    return future
            raise RuntimeError(f"can't start new thread: {NO_MORE}") from error
        return future

    def _go_on(self) -> None:
        """A thread is free; it has just become so, which means that there is one for who waits longest."""
        with self._turns:
            if not self._waiting:
                self._running -= 1
                return
            work = self._waiting.popleft()
        try:
            self._ours.run("rnb-to-thread", functools.partial(_call, *work), self._go_on)
        except (NoThread, RuntimeError) as error:
            with self._turns:
                self._running -= 1
            work[0].set_exception(RuntimeError(str(error) or f"can't start new thread: {NO_MORE}"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let every thread end once its call has, and cancel those that wait; waits for none."""
        super().shutdown(wait=False)
        with self._turns:
            waiting = list(self._waiting)
            self._waiting.clear()
        for future, _ in waiting:
            future.cancel()
        self._ours.close()


def _call(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # SystemExit too: it must not end this thread
        future.set_exception(error)
    else:
        future.set_result(result)
