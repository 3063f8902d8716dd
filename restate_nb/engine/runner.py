"""What runs attempts for a pool. `loop_runner`, `thread_runner` and `process_runner` are the ways there are.

A runner is made by its pool and called on the pool's loop, but for `kill` and `wait_until_gone`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field

from restate_nb.engine.attempt import ItemCall, Report, RunningAttempt
from restate_nb.engine.record import TIMEOUT
from restate_nb.errors import ItemTimeout


@dataclass(slots=True, eq=False)
class RunnerContext:
    """What the runners of one pool share.

    Attributes:
        loop: the pool's.
        name: of threads, while they run an item.
        tasks: those of the pool, in each of which one attempt runs at a time.
        timeout: seconds that one attempt may take; None for no limit.
        cancelled: the tasks that the pool itself has cancelled. An item can cancel the one that it runs in, too.
        threads: the thread (its ident) in which an attempt runs, by position and number; hung ones too.
        hung: how many threads run on whose item timed out.
        many_hung: with as many of them, timeouts say what to do about it.
    """

    loop: asyncio.AbstractEventLoop
    name: str
    tasks: Container[object]
    timeout: float | None = None
    cancelled: set[asyncio.Task[None]] = field(default_factory=set)
    threads: dict[tuple[int, int], int] = field(default_factory=dict)
    hung: int = 0
    many_hung: int = 1

    def soon(self, call: Callable[..., object], *args: object) -> None:
        """Call on the pool's loop, from a thread; a loop that has ended needs to know nothing."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, *args)

    def is_cancelled(self, error: BaseException) -> bool:
        """Whether the attempt ends without a report: the pool has cancelled it, or its coroutine is thrown away.

        All else is the item's: it may raise GeneratorExit, and CancelledError, and cancel the task that it runs in.
        """
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs
            return True
        return task not in self.tasks or (task in self.cancelled and issubclass(type(error), asyncio.CancelledError))

    def cut_short(self, attempt: RunningAttempt, error: BaseException, deadline: asyncio.Timeout | None) -> Report:
        """The report of an attempt that `error` has ended, which may be that of its deadline."""
        if deadline is None or not deadline.expired():
            return attempt.raised(error)
        says = f"The item ran longer than timeout={self.timeout:g} seconds."
        if self.hung >= self.many_hung:
            says += (
                f" {self.hung} threads are still busy with items that timed out: a thread cannot be stopped. Give the "
                'function\'s own calls a timeout, or use executor="process", which ends the process of an item.'
            )
        return attempt.raised(ItemTimeout(says), TIMEOUT)


class Runner(ABC):
    """A way to run attempts."""

    def __init__(self, context: RunnerContext) -> None:
        self._context = context

    @abstractmethod
    async def run(self, work: ItemCall, attempt: RunningAttempt) -> Report:
        """Make the attempt.

        Raises:
            CancelledError: the pool has cancelled the task that calls it.
            NoThread: the machine gives no thread or process for it, and nothing has begun.
        """

    def on_new_function(self) -> None:  # noqa: B027 - most need not know
        """The function was brought anew."""

    def close(self) -> None:
        """End what it has started, and look after nothing any more."""
        self.kill()

    def kill(self) -> None:  # noqa: B027 - most have started nothing that can be killed
        """End what it has started, from any thread: the loop may be busy with something that never ends."""

    def wait_until_gone(self, until: float) -> bool:
        """Wait for what was killed to be gone, until a time on `time.monotonic`; says whether it is."""
        return True
