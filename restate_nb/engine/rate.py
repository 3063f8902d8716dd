"""The rate at which items start, as plain arithmetic: it is given the time, and never waits itself."""

from __future__ import annotations

from collections import deque
from typing import Final

from restate_nb.limits import Rate

_CATCH_UP: Final = 0.05
"""Seconds of lateness (a timer's, a busy loop's) that starts may make good, so as not to fall short of the rate."""


class RateLimiter:
    """Starts at a rate: evenly spaced, and never more than `starts` in any `seconds`, wherever these begin.

    A bucket of tokens, such as aiolimiter's, lets up to twice as many through in the first window, and starts them in
    bursts: many APIs answer both with a 429.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._next = 0.0  # when the next start is due
        self._starts: deque[float] = deque(maxlen=rate.starts)

    def continue_from(self, earlier: RateLimiter | None) -> None:
        """Count the starts of the limiter that this one replaces."""
        if earlier is not None and earlier._starts:
            self._starts.extend(earlier._starts)
            self._next = self._starts[-1] + self.rate.seconds / self.rate.starts

    def ready_in(self, now: float) -> float:
        """Seconds until something may start; 0 or less for at once."""
        ready = self._next
        if len(self._starts) == self.rate.starts:
            ready = max(ready, self._starts[0] + self.rate.seconds)
        return ready - now

    def start(self, now: float) -> None:
        """Something starts."""
        self._starts.append(now)
        self._next = max(self._next, now - _CATCH_UP) + self.rate.seconds / self.rate.starts
