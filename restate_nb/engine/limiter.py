"""What stands between an item and its start, besides a free worker: rates, and limits that several jobs share.

All gates of a loop are used on that loop only, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import deque
from collections.abc import Callable

from restate_nb.engine.rate import Pace
from restate_nb.limits import Rate
from restate_nb.policy import Limit


class Gate:
    """The gate of one pool.

    `enter` says whether an attempt may start now. If not, `wake` is called when it is worth asking again; who was woken
    either enters or withdraws, since others may be waiting behind it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self.loop = loop
        self._wake = wake
        self._pace: Pace | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.shared: Shared | None = None
        self.hold_until = 0.0  # on time.monotonic
        self.shut = False  # asked in vain; the wake-up is to come
        self.waits_for = ""

    def set(self, per_second: Rate | None, limit: Limit | None) -> None:
        """Change what is limited. The starts of before count on, and attempts leave by the limit they entered by."""
        self.withdraw()
        if per_second is None:
            self._pace = None
        elif self._pace is None or self._pace.rate != per_second:
            earlier, self._pace = self._pace, Pace(per_second)
            self._pace.follow(earlier)
        self.shared = None if limit is None else Shared.of(self.loop, limit)

    def enter(self) -> bool:
        """Whether an attempt may start now; it counts as started."""
        now = time.monotonic()
        self.waits_for = "slowed down by the other side"
        wait = self.hold_until - now
        if wait <= 0 and self._pace is not None:
            self.waits_for = "max_per_second"
            wait = self._pace.ready_in(now)
        if wait > 0:
            if self.shared is not None:
                self.shared.withdraw(self)  # others need not wait for what holds up this pool alone
        elif self.shared is not None:
            self.waits_for = f"the limit {self.shared.name!r}"
            wait = self.shared.enter(self, now)
        if wait > 0:
            self.shut = True
            self._wake_in(wait)
            return False
        self.waits_for = ""
        if self._pace is not None:
            self._pace.start(now)
        return True

    def withdraw(self) -> None:
        """Nothing is to be started for now: let others pass."""
        self.shut = False
        self.waits_for = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.shared is not None:
            self.shared.withdraw(self)

    def _wake_in(self, wait: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if wait == math.inf else self.loop.call_later(wait, self.wake)

    def wake(self) -> None:
        """It is worth asking again."""
        self.shut = False
        self._wake()


class Shared:
    """A limit that the gates of several pools share; those that wait are let in first come, first served."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        self._most = math.inf
        self._pace: Pace | None = None
        self._queue: deque[Gate] = deque()
        self._returning: deque[Callable[[], None]] = deque()  # who has lent a place, and waits to have one again

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop, limit: Limit) -> Shared:
        """The one of this name, with the numbers that it has now."""
        shared = _shared.setdefault(loop, {}).setdefault(limit.name, cls(limit.name))
        shared.set(limit)
        return shared

    def set(self, limit: Limit) -> None:
        """Change the numbers; what runs is not stopped."""
        self._most = math.inf if limit.concurrency is None else limit.concurrency
        earlier = self._pace
        if limit.rate is None:
            self._pace = None
        elif earlier is None or earlier.rate != limit.rate:
            self._pace = Pace(limit.rate)
            self._pace.follow(earlier)
        self._wake_first()

    def enter(self, gate: Gate, now: float) -> float:
        """0: an attempt starts. Otherwise the gate waits: for so many seconds, or, at infinity, until it is woken."""
        wait = 0.0
        if (self._queue and self._queue[0] is not gate) or self._returning or self.running >= self._most:
            wait = math.inf
        elif self._pace is not None:
            wait = self._pace.ready_in(now)
        if wait > 0:
            if gate not in self._queue:
                self._queue.append(gate)
            return wait
        if self._queue:
            self._queue.popleft()
        self.running += 1
        if self._pace is not None:
            self._pace.start(now)
        self._wake_first()
        return 0.0

    def leave(self) -> None:
        """An attempt has ended."""
        self.running -= 1
        self._wake_first()

    def withdraw(self, gate: Gate) -> None:
        """The gate waits no longer."""
        if gate in self._queue:
            self._queue.remove(gate)
            self._wake_first()

    def come_back(self, back: Callable[[], None]) -> None:
        """An attempt that has left for a while goes on as soon as there is a place, before any that has not begun."""
        self._returning.append(back)
        self._wake_first()

    def give_up(self, back: Callable[[], None]) -> None:
        """It has ended before that."""
        self._returning.remove(back)

    def _wake_first(self) -> None:
        while self._returning and self.running < self._most:
            self.running += 1
            self._returning.popleft()()
        if self._queue and self.running < self._most:
            first = self._queue[0]
            first.loop.call_soon(first.wake)


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Shared]] = weakref.WeakKeyDictionary()
