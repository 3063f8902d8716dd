"""What stands between an item and its start: how many run at once, rates, and limits that several jobs share.

All limiters of a loop are used under the one lock of that loop (`lock_of`), in whichever thread.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from restate_nb.engine.adaptive import AdaptiveConcurrency
from restate_nb.engine.alarm import Alarm
from restate_nb.engine.rate import RateLimiter
from restate_nb.limits import Range, Rate
from restate_nb.policy import Limit, RunPolicy


class Limiter:
    """The limits of one pool: how many items at once, which may adapt itself; a rate; a limit that several jobs share.

    `enter` says whether an item may start now. If not, `wake` is called when it is worth asking again; who was woken
    either enters or withdraws, since others may be waiting behind it.

    Attributes:
        concurrency: how many items may run at once; where that adapts itself, at present.
        is_plain: whether nothing but `concurrency` holds items up. Then items that never wait pay for nothing else.
        waits_for: which limit, other than concurrency, holds items up now; empty when none does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self.loop = loop
        self._wake = wake
        self.concurrency = 1
        self.is_plain = True
        self.waits_for = ""
        self._adaptive: AdaptiveConcurrency | None = None
        self._rate: RateLimiter | None = None
        self._shared: SharedLimiter | None = None
        self._hold_until = 0.0  # on time.monotonic: when the other side has asked to wait
        self._refused = False  # `enter` said no, and the wake-up is to come
        self._alarm = Alarm(loop, self.wake)

    def set(self, policy: RunPolicy) -> None:
        """Take a job's limits. What runs is not stopped, and leaves by the limit it entered by; starts of before count
        on."""
        self._set_concurrency(policy.bounds)
        if self.is_plain and policy.rate is None and policy.limit is None:
            return
        self.is_plain = False
        self.withdraw()
        self._rate = _limiter_of(policy.rate, self._rate)
        self._shared = None if policy.limit is None else SharedLimiter.of(self.loop, policy.limit)

    def set_concurrency(self, bounds: Range) -> None:
        """Change how many run at once; what the other side has asked to wait is forgotten."""
        self._set_concurrency(bounds)
        self._hold_until = 0.0
        self.withdraw()

    def _set_concurrency(self, bounds: Range) -> None:
        if bounds.low == bounds.high:
            self._adaptive = None
            self.concurrency = bounds.low
            return
        if self._adaptive is None or self._adaptive.bounds != bounds:
            self._adaptive = AdaptiveConcurrency(bounds)
        self.concurrency = self._adaptive.limit
        self.is_plain = False

    def room(self, running: int) -> int:
        """How many more items than `running` may ask to enter now. Unless the limiter is plain they go one at a time,
        and whoever has entered starts the next."""
        room = self.concurrency - running
        if self.is_plain:
            return room
        return 0 if self._refused else min(room, 1)

    def enter(self) -> bool:
        """Whether an item may start now; it counts as started."""
        if self.is_plain:
            return True
        now = time.monotonic()
        self.waits_for = "slowed down by the other side"
        wait = self._hold_until - now
        if wait <= 0 and self._rate is not None:
            self.waits_for = "max_per_second"
            wait = self._rate.ready_in(now)
        if wait > 0:
            if self._shared is not None:
                self._shared.withdraw(self)  # others need not wait for what holds up this pool alone
        elif self._shared is not None:
            self.waits_for = f"the limit {self._shared.name!r}"
            wait = self._shared.enter(self, now)
        if wait > 0:
            self._refused = True
            self._alarm.set_in(wait)
            return False
        self.waits_for = ""
        if self._rate is not None:
            self._rate.start(now)
        return True

    def withdraw(self) -> None:
        """Nothing is to be started for now: let others pass."""
        if self.is_plain:
            return
        self._refused = False
        self.waits_for = ""
        self._alarm.cancel()
        if self._shared is not None:
            self._shared.withdraw(self)

    def wake(self) -> None:
        """It is worth asking again. Called without the lock, on the loop."""
        with lock_of(self.loop):
            self._refused = False
        self._wake()

    def permit(self) -> Permit:
        """That of the item which has just entered."""
        return Permit(self.loop, self._shared, self._adaptive)

    def on_end(self, permit: Permit, ok: bool, pushback: float | None, ran: float, running: int) -> None:
        """An item with this permit has ended.

        Args:
            permit: the item's.
            ok: whether it went well.
            pushback: what `backpressure.pushback` found.
            ran: for how many seconds; since it was let in, it may have waited for a thread as well.
            running: how many ran while it did, itself included.
        """
        adaptive = permit.adaptive
        if adaptive is None or adaptive is not self._adaptive:
            return
        now = time.monotonic()
        if pushback is not None:
            adaptive.on_pushback(now - ran, now, pushback)
            self._hold_until = adaptive.hold_until
        elif ok:
            adaptive.on_success(now - ran, now, running)
        self.concurrency = adaptive.limit


class SharedLimiter:
    """A limit that the limiters of several pools share; those that wait are let in first come, first served.

    Attributes:
        name: of the limit.
        running: how many items hold a place.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        self._concurrency = math.inf
        self._rate: RateLimiter | None = None
        self._queue: deque[Limiter] = deque()
        self._returning: deque[Callable[[], None]] = deque()  # who has lent a place, and waits to have one again

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop, limit: Limit) -> SharedLimiter:
        """The one of this name, with the numbers that it has now."""
        shared = _shared.setdefault(loop, {}).setdefault(limit.name, cls(limit.name))
        shared.set(limit)
        return shared

    def set(self, limit: Limit) -> None:
        """Change the numbers; what runs is not stopped."""
        self._concurrency = math.inf if limit.concurrency is None else limit.concurrency
        self._rate = _limiter_of(limit.rate, self._rate)
        self._wake_first()

    def enter(self, limiter: Limiter, now: float) -> float:
        """0: an item starts. Otherwise the limiter waits: for so many seconds, or, at infinity, until it is woken."""
        wait = 0.0
        if (self._queue and self._queue[0] is not limiter) or self._returning or self.running >= self._concurrency:
            wait = math.inf
        elif self._rate is not None:
            wait = self._rate.ready_in(now)
        if wait > 0:
            if limiter not in self._queue:
                self._queue.append(limiter)
            return wait
        if self._queue:
            self._queue.popleft()
        self.running += 1
        if self._rate is not None:
            self._rate.start(now)
        self._wake_first()
        return 0.0

    def release(self) -> None:
        """Give a place back: an item has ended."""
        self.running -= 1
        self._wake_first()

    def withdraw(self, limiter: Limiter) -> None:
        """The limiter waits no longer."""
        if limiter in self._queue:
            self._queue.remove(limiter)
            self._wake_first()

    def enter_again(self, entered: Callable[[], None]) -> None:
        """An item that has left for a while goes on as soon as there is a place, before any that has not begun."""
        self._returning.append(entered)
        self._wake_first()

    def give_up(self, entered: Callable[[], None]) -> None:
        """The item that waits to enter again has ended."""
        self._returning.remove(entered)

    def _wake_first(self) -> None:
        while self._returning and self.running < self._concurrency:
            self.running += 1
            self._returning.popleft()()
        if self._queue and self.running < self._concurrency:
            first = self._queue[0]
            with suppress(RuntimeError):  # the loop has ended
                first.loop.call_soon_threadsafe(first.wake)


_locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, threading.RLock] = weakref.WeakKeyDictionary()


def lock_of(loop: asyncio.AbstractEventLoop) -> threading.RLock:
    """The lock of all pools and limiters of a loop."""
    return _locks.setdefault(loop, threading.RLock())


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, SharedLimiter]] = weakref.WeakKeyDictionary()


def _limiter_of(per_second: Rate | None, earlier: RateLimiter | None) -> RateLimiter | None:
    """The limiter of a rate: the earlier one where that is its rate, else one that counts its starts too."""
    if per_second is None:
        return None
    if earlier is not None and earlier.rate == per_second:
        return earlier
    limiter = RateLimiter(per_second)
    limiter.continue_from(earlier)
    return limiter


class Permit:
    """That of one item to run: it leaves by the limit by which it entered, and reports to the one that let it in only.

    While the item does nothing but wait for a job of its own, its place is lent; see `nesting.py`.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, shared: SharedLimiter | None, adaptive: AdaptiveConcurrency | None
    ) -> None:
        self._loop = loop
        self._shared = shared
        self._lent = 0
        self._entering: Callable[[], None] | None = None  # to be called when it has its place again
        self._left = False
        self.adaptive = adaptive

    @property
    def is_shared(self) -> bool:
        """Whether it holds a place of a shared limit."""
        return self._shared is not None

    @property
    def is_live(self) -> bool:
        """Whether the loop that it belongs to goes on."""
        return self._loop.is_running()

    def soon(self, call: Callable[..., None], *args: object) -> None:
        """Call one of the following, which belong to the loop, from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody counts any more
            self._loop.call_soon_threadsafe(self._locked, call, *args)

    def _locked(self, call: Callable[..., None], *args: object) -> None:
        with lock_of(self._loop):
            call(*args)

    def lend(self) -> None:
        """The item waits for other items, which may need its place."""
        self._lent += 1
        if self._lent == 1 and not self._left and self._shared is not None:
            self._shared.release()

    def take_back(self, then: Callable[[], object]) -> None:
        """The item waits no longer; `then` is called when it has its place again."""
        self._lent -= 1
        if self._lent or self._left or self._shared is None:
            then()
            return

        def entered() -> None:
            self._entering = None
            then()

        self._entering = entered
        self._shared.enter_again(entered)

    def release(self) -> None:
        """Give the item's place back: it has ended."""
        self._left = True
        if self._shared is None:
            return
        if self._entering is not None:
            self._shared.give_up(self._entering)
            self._entering()
        elif not self._lent:
            self._shared.release()
