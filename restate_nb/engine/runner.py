"""The interface of what runs attempts for a pool: `loop_runner`, `thread_runner` and `process_runner` implement it.

A runner takes attempts from its pool, which is a `Source`, whenever it is free to, and brings back how they ended. What
a pool and its runners share is guarded by one lock, that of their loop; no code of others runs under it.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from restate_nb.engine.alarm import Alarm
from restate_nb.engine.attempt import Ended, ItemCall, RunnerName, RunningAttempt
from restate_nb.engine.record import TIMEOUT
from restate_nb.errors import ItemTimeout

GROW_SECONDS: Final = 0.5
"""Seconds after which one item more is tried, where the machine gave no thread or process for it."""


class Source(Protocol):
    """Where runners take attempts from, in any thread: their pool."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing but `concurrency` holds items up."""
        ...

    @property
    def is_held(self) -> bool:
        """Whether nothing may begin: it is paused, or has stopped."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether items wait that have not begun."""
        ...

    @property
    def concurrency(self) -> int:
        """How many items may run at once."""
        ...

    def room(self, runner: RunnerName) -> int:
        """How many items wait that may begin now with this runner."""
        ...

    def take(self, runner: RunnerName, most: int = 1, *, follows: bool = False) -> list[RunningAttempt]:
        """The next attempts that may begin with this runner; none where none may.

        The first one takes a place of `concurrency`; the others follow it in the same place, one after another.

        Args:
            runner: which.
            most: how many; one at most where anything but `concurrency` holds items up.
            follows: all of them follow what the caller has already; none where anything else holds items up.
        """
        ...

    def next(self, runner: RunnerName, attempt: RunningAttempt | None, ended: Ended | None) -> RunningAttempt | None:
        """`finish` with one attempt, if there is one, and `take` of one."""
        ...

    def finish(
        self, ended: Sequence[tuple[RunningAttempt, Ended | None]], moves_up: RunningAttempt | None = None
    ) -> None:
        """Attempts have ended; of those that were given up meanwhile nothing is recorded.

        Args:
            ended: each with how it ended; None for one that was given up.
            moves_up: the attempt that followed them, and has their place now.
        """
        ...

    def put_back(self, attempts: Sequence[RunningAttempt]) -> None:
        """These have not begun, and may be taken by any runner."""
        ...

    def wake(self) -> None:
        """Have the items taken that may begin now."""
        ...

    def withdraw(self) -> None:
        """Nobody can take an item for now: other jobs need not wait for this one."""
        ...


@dataclass(slots=True, eq=False)
class RunnerContext:
    """What the runners of one pool share.

    Attributes:
        loop: the pool's.
        name: of threads, while they run an item.
        lock: guards the pool and its runners.
        hung_threads: by ident, those that run on though their item was given up: its position, and which attempt.
        many_hung: with as many of them, timeouts say what to do about it.
    """

    loop: asyncio.AbstractEventLoop
    name: str
    lock: threading.RLock
    hung_threads: dict[int, tuple[int, int]] = field(default_factory=dict)
    many_hung: int = 1

    @property
    def hung(self) -> int:
        """How many threads run on whose item was given up."""
        return len(self.hung_threads)

    def soon(self, call: Callable[..., object], *args: object) -> None:
        """Call on the pool's loop, from a thread; a loop that has ended needs to know nothing."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, *args)

    def timed_out(self, attempt: RunningAttempt) -> Ended:
        """What is recorded of an attempt that ran longer than it may."""
        says = f"The item ran longer than timeout={attempt.timeout:g} seconds."
        if self.hung >= self.many_hung:
            says += (
                f" {self.hung} threads are still busy with items that timed out: a thread cannot be stopped. Give the "
                'function\'s own calls a timeout, or use executor="process", which ends the process of an item.'
            )
        return attempt.raised(ItemTimeout(says), TIMEOUT)


class Runner(ABC):
    """A way to run attempts. All of it may be called in any thread."""

    def __init__(self, context: RunnerContext, source: Source) -> None:
        self._context = context
        self._source = source
        self._shortage: int | None = None  # how many at once, since the machine gives no more
        self._growing = Alarm(context.loop, self._grow)

    @abstractmethod
    def start(self, most: int) -> None:
        """Up to `most` items wait that may begin now: have them taken. Does not block, and never raises."""

    @abstractmethod
    def abandon(self, attempt: RunningAttempt, *, expired: bool) -> None:
        """End an attempt before its time.

        Args:
            attempt: one that has been taken from the source by this runner.
            expired: whether it has run longer than it may; then that is how it ended. Else it was cancelled, and what
                is recorded of it is recorded already.
        """

    def recall(self) -> None:  # noqa: B027 - most take one at a time, and begin it at once
        """Put back what was taken and has not begun."""

    def begun_at(self, attempt: RunningAttempt) -> float | None:
        """When an attempt began, on `time.perf_counter`; None when it has not."""
        return attempt.clock or None

    @property
    def gil_bound(self) -> bool:
        """Whether items keep the interpreter to themselves, so that more at once would not help."""
        return False

    def on_new_function(self, call: ItemCall) -> None:  # noqa: B027 - most need not know
        """The function was brought, maybe anew."""

    def close(self) -> None:
        """End what it has started, and look after nothing any more."""
        self._growing.cancel()
        self.kill()

    def kill(self) -> None:  # noqa: B027 - most have started nothing that can be killed
        """End what it has started: the loop may be busy with something that never ends."""

    def wait_until_gone(self, until: float) -> bool:
        """Wait for what was killed to be gone, until a time on `time.monotonic`; says whether it is."""
        return True

    # ------------------------------------------------------------ where the machine gives no more threads or processes

    @property
    def shortage(self) -> int | None:
        """How many items run at once since the machine gives no more threads or processes; None while it does."""
        return self._shortage

    def _allows(self, running: int) -> int:
        """How many more than `running` may be tried."""
        return self._source.concurrency if self._shortage is None else max(0, self._shortage - running)

    def _refused(self, running: int) -> None:
        """The machine gave none for a further item: run as many at once as there are, and look for more later."""
        with self._context.lock:
            self._shortage = running
            self._growing.set_in(GROW_SECONDS)
            if not running:
                self._source.withdraw()

    def _grow(self) -> None:
        with self._context.lock:
            most = self._shortage or 0
            most += max(1, most // 4)
            if most >= self._source.concurrency:
                self._shortage = None
            else:
                self._shortage = most
                self._growing.set_in(GROW_SECONDS)
        self._source.wake()
