"""Threads for plain functions: as many as run at once, each a daemon, so that a hung one holds up nobody."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

Job = Callable[[], None]

IDLE: Final = 10.0
"""Seconds after which a thread with nothing to do ends."""

NO_MORE: Final = "the machine gives no more threads (a limit of the container or of the user: `ulimit -u`, pids)"


_Task = tuple[str, Job, Job]  # the thread's name meanwhile, what to do, and whom to tell then


class NoThread(Exception):
    """The machine gives no further thread; those that there are go on."""


class _Seat:
    """A thread, and the way to it."""

    __slots__ = ("jobs",)

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Task | None] = SimpleQueue()


class Threads:
    """Runs each job at once, in a thread that is free or in a new one. The last one that became free goes first, so
    that those that are not needed end.

    The caller bounds how many jobs there are. `asyncio.to_thread` and the SDK share min(32, cpus + 4) threads, so that
    80 calls at once are 6 on two cores; and the standard executor joins its threads at exit, which a hung call never
    leaves.
    """

    def __init__(self, idle: float = IDLE) -> None:
        """`idle`: seconds after which a thread with nothing to do ends."""
        self._idle = idle
        self._free: list[_Seat] = []
        self._lock = threading.Lock()
        self._closed = False
        self._numbers = itertools.count(1)

    def run(self, name: str, job: Job, told: Job) -> None:
        """Start a job, which must not raise.

        Args:
            name: of the thread, while it does this.
            job: what to do.
            told: is called in the same thread once that is done, when the thread is free for the next one; so who is
                told needs no further thread. It must not raise either.

        Raises:
            NoThread: there is none, and the machine gives no more.
            RuntimeError: the threads were closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("These threads were closed.")
            if self._free:
                self._free.pop().jobs.put((name, job, told))
                return
        seat = _Seat()
        seat.jobs.put((name, job, told))
        try:
            threading.Thread(target=self._work, args=(seat, next(self._numbers)), name=name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # "can't start new thread"
            raise NoThread from error

    def close(self) -> None:
        """Let every thread end once its job has. Does not wait for them."""
        with self._lock:
            self._closed = True
            for seat in self._free:
                seat.jobs.put(None)
            self._free.clear()

    def _work(self, seat: _Seat, number: int) -> None:
        thread, named = threading.current_thread(), ""
        while (each := self._next(seat)) is not None:
            name, job, told = each
            if name != named:
                named, thread.name = name, f"{name}-{number}"
            job()
            with self._lock:
                over = self._closed
                if not over:
                    self._free.append(seat)
            told()
            del each, job, told  # else an idle thread keeps the last item alive
            if over:
                return

    def _next(self, seat: _Seat) -> _Task | None:
        try:
            return seat.jobs.get(timeout=self._idle)
        except Empty:
            with self._lock:
                if seat in self._free:
                    self._free.remove(seat)
                    return None
        return seat.jobs.get()  # somebody has just chosen it
