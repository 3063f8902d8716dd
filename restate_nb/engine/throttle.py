"""How many items of a pool may run at once, and when the next may start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from restate_nb.engine.limiter import Gate, Shared
from restate_nb.engine.rate import Adaptive
from restate_nb.engine.record import OK
from restate_nb.engine.trial import Report
from restate_nb.limits import Range
from restate_nb.policy import RunPolicy


class Throttle:
    """The limits of one pool, used on its loop: how many at once, which may adapt itself; a rate; a shared limit.

    Only the last three need a gate. Without one, items that never wait do not pay for it.

    Attributes:
        limit: how many items may run at once; where that adapts itself, at present.
        open: whether nothing but `limit` holds items up: there is no gate.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """`wake` is called when it is worth asking again after `enter` said no; see `Gate`."""
        self._loop = loop
        self._wake = wake
        self._gate: Gate | None = None
        self._adaptive: Adaptive | None = None
        self.limit = 1
        self.open = True

    @property
    def waits_for(self) -> str:
        """Which limit, other than concurrency, holds items up now; empty when none does."""
        return "" if self._gate is None else self._gate.waits_for

    def set(self, policy: RunPolicy) -> None:
        """Take a job's limits. What runs is not stopped, and starts of before count on."""
        self._set_limit(policy.bounds)
        if policy.rate is not None or policy.limit is not None or self._gate is not None:
            self._made_gate().set(policy.rate, policy.limit)

    def set_concurrency(self, bounds: Range) -> None:
        """Change how many run at once; what the other side has asked to wait is forgotten."""
        self._set_limit(bounds)
        if self._gate is not None:
            self._gate.hold_until = 0.0
            self._gate.withdraw()

    def _set_limit(self, bounds: Range) -> None:
        if bounds.low == bounds.high:
            self._adaptive = None
            self.limit = bounds.low
            return
        if self._adaptive is None or self._adaptive.bounds != bounds:
            self._adaptive = Adaptive(bounds)
        self.limit = self._adaptive.limit
        self._made_gate()

    def _made_gate(self) -> Gate:
        if self._gate is None:
            self._gate = Gate(self._loop, self._wake)
            self.open = False
        return self._gate

    def room(self, running: int, fresh: int) -> int:
        """How many further workers there may be.

        Args:
            running: how many there are.
            fresh: how many of them have not asked to enter yet. Through a gate one goes at a time, and whoever is
                through starts the next.
        """
        room = self.limit - running
        if self._gate is None:
            return room
        return 0 if self._gate.shut else min(room, 1 - fresh)

    def enter(self) -> bool:
        """Whether an item may start now; it counts as started."""
        return self._gate is None or self._gate.enter()

    def withdraw(self) -> None:
        """Nothing is to be started for now: let others pass."""
        if self._gate is not None:
            self._gate.withdraw()

    def passage(self) -> Passage:
        """The way of the item that has just entered by the gate."""
        return Passage(self._loop, None if self._gate is None else self._gate.shared, self._adaptive)

    def learn(self, passage: Passage, report: Report, running: int) -> bool:
        """An item that came by this passage has ended, while `running` did; whether the limit is another now."""
        adaptive, gate = passage.adaptive, self._gate
        if adaptive is None or adaptive is not self._adaptive or gate is None:
            return False
        now = time.monotonic()
        if report.pushback is not None:
            adaptive.pushed_back(passage.began, now, report.pushback)
            gate.hold_until = adaptive.hold_until
        elif report.attempt.status == OK:
            adaptive.went_well(passage.began, now, running)
        before, self.limit = self.limit, adaptive.limit
        return self.limit != before


class Passage:
    """One item's way: it leaves by the limit by which it entered, and tells only the one that let it in.

    While the item does nothing but wait for a job of its own, its place is lent; see `nesting.py`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, shared: Shared | None, adaptive: Adaptive | None) -> None:
        self._loop = loop
        self._shared = shared
        self._lent = 0
        self._back: Callable[[], None] | None = None  # to be called when it has its place back
        self._left = False
        self.adaptive = adaptive
        self.began = time.monotonic()

    @property
    def counts(self) -> bool:
        """Whether it holds a place of a shared limit."""
        return self._shared is not None

    @property
    def lives(self) -> bool:
        """Whether the loop that it belongs to goes on."""
        return self._loop.is_running()

    def soon(self, call: Callable[..., None], *args: object) -> None:
        """Call one of the following, which belong to the loop, from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody counts any more
            self._loop.call_soon_threadsafe(call, *args)

    def lend(self) -> None:
        """The item waits for other items, which may need its place."""
        self._lent += 1
        if self._lent == 1 and not self._left and self._shared is not None:
            self._shared.leave()

    def take_back(self, then: Callable[[], object]) -> None:
        """The item waits no longer; `then` is called when it has its place again."""
        self._lent -= 1
        if self._lent or self._left or self._shared is None:
            then()
            return

        def back() -> None:
            self._back = None
            then()

        self._back = back
        self._shared.come_back(back)

    def leave(self) -> None:
        """The item has ended."""
        self._left = True
        if self._shared is None:
            return
        if self._back is not None:
            self._shared.give_up(self._back)
            self._back()
        elif not self._lent:
            self._shared.leave()
