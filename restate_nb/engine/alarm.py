"""Timers of an event loop that any thread may set."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_EARLY: Final = 0.001  # seconds by which a loop's timers may be


class Alarm:
    """Calls on the loop, once, at the time that was set last.

    Attributes:
        due: when it rings, on the loop's clock; infinity while it is not set.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._lock = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None  # of the loop's thread
        self.due = math.inf

    def set_in(self, seconds: float) -> None:
        """Ring in so many seconds, and at no other time; never, at infinity."""
        with self._lock:
            self.due = self._loop.time() + seconds
        if seconds != math.inf:
            self._arm_soon()

    def set_by(self, when: float) -> None:
        """Ring at that time on the loop's clock, or when it is to ring anyway, if that is sooner."""
        if when >= self.due:
            return
        with self._lock:
            self.due = min(self.due, when)
        self._arm_soon()

    def cancel(self) -> None:
        """Do not ring."""
        with self._lock:
            self.due = math.inf

    def _arm_soon(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._arm)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self.due
        self._timer = None if due == math.inf else self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        with self._lock:
            rings = self.due <= self._loop.time() + _EARLY
            if rings:
                self.due = math.inf
        if rings:
            self._ring()
        else:
            self._arm()


class Timers:
    """Calls on the loop, each once, some time from now."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timers: set[asyncio.TimerHandle] = set()  # of the loop's thread
        self._cancelled = False

    def call_in(self, seconds: float, call: Callable[[], None]) -> None:
        """Call, unless that is cancelled before."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._arm, self._loop.time() + seconds, call)

    def cancel(self) -> None:
        """Call nothing any more. On the loop only."""
        self._cancelled = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _arm(self, due: float, call: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            call()

        if not self._cancelled:
            timer = self._loop.call_at(due, fire)
            self._timers.add(timer)
