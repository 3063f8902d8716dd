"""Rates and adaptive concurrency as plain arithmetic: they are told the time, and never wait themselves."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

from restate_nb.limit import Range, Rate

_CATCH_UP: Final = 0.05
"""Seconds of lateness (a timer's, a busy loop's) that starts may make good, so as not to fall short of the rate."""


class Pace:
    """Starts at a rate: evenly spaced, and never more than `starts` in any `seconds`, wherever these begin.

    A bucket of tokens, such as aiolimiter's, lets up to twice as many through in the first window, and starts them in
    bursts: many APIs answer both with a 429.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._even = 0.0  # when the next start is due
        self._latest: deque[float] = deque(maxlen=rate.starts)

    def follow(self, earlier: Pace | None) -> None:
        """Count the starts of the pace that this one replaces."""
        if earlier is not None and earlier._latest:
            self._latest.extend(earlier._latest)
            self._even = self._latest[-1] + self.rate.seconds / self.rate.starts

    def ready_in(self, now: float) -> float:
        """Seconds until something may start; 0 or less for at once."""
        ready = self._even
        if len(self._latest) == self.rate.starts:
            ready = max(ready, self._latest[0] + self.rate.seconds)
        return ready - now

    def start(self, now: float) -> None:
        """Something starts."""
        self._latest.append(now)
        self._even = max(self._even, now - _CATCH_UP) + self.rate.seconds / self.rate.starts


_FIRST: Final = 10  # how many at once to begin with
_CUT: Final = 0.5  # on "slow down"
_EASE: Final = 0.8  # on rising latency
_SLOWER: Final = 2.0  # times the best latency that is taken for queueing on the other side
_NOISE: Final = 0.005  # seconds of latency that mean nothing
_SAMPLE: Final = 10  # the fewest durations to take a median of
_LONGEST_HOLD: Final = 60.0


class Adaptive:
    """How many items run at once, found out while they run: more while it goes well, fewer when the other side is full.

    As TCP does it: it grows by one an item until something first says no, then by one a round; it is halved on
    "slow down", at most once a round, and cut by a fifth when the median latency has doubled. A cut that brings latency
    no nearer to what it was shows that the load was not the reason (the items themselves take longer): then the new
    latency is the normal one.
    """

    def __init__(self, bounds: Range, first: int = _FIRST) -> None:
        self.bounds = bounds
        self.hold_until = 0.0
        self._limit = float(min(max(first, bounds.low), bounds.high))
        self._probing = True  # nothing has said no yet
        self._cut_at = 0.0
        self._sample: list[float] = []
        self._best: float | None = None
        self._before_cut: float | None = None

    @property
    def limit(self) -> int:
        """How many may run at once now."""
        return int(self._limit)

    def pushed_back(self, began: float, now: float, wait: float) -> None:
        """An attempt was told to slow down.

        Args:
            began: when the attempt did; one from before the last cut says nothing new.
            now: on the same clock.
            wait: for how many seconds nothing should be sent.
        """
        if wait > 0:
            self.hold_until = max(self.hold_until, now + min(wait, _LONGEST_HOLD))
        if began >= self._cut_at:
            self._before_cut = None
            self._cut(_CUT, now)

    def went_well(self, began: float, now: float, busy: int) -> None:
        """An attempt ended well.

        Args:
            began: when it did.
            now: on the same clock.
            busy: how many ran while it did, itself included: a limit that is not reached has no reason to rise.
        """
        if began >= self._cut_at:
            self._sample.append(now - began)
            if len(self._sample) >= max(_SAMPLE, self.limit) and self._is_slow(now):
                return
        if busy >= self.limit:
            self._limit = min(self._limit + (1.0 if self._probing else 1.0 / self._limit), self.bounds.high)

    def _is_slow(self, now: float) -> bool:
        median = statistics.median(self._sample)
        self._sample.clear()
        if self._before_cut is not None and median > 0.9 * self._before_cut:
            self._best = median
        self._before_cut = None
        if self._best is None or median < self._best:
            self._best = median
        if median <= _SLOWER * self._best + _NOISE:
            return False
        self._before_cut = median
        self._cut(_EASE, now)
        return True

    def _cut(self, factor: float, now: float) -> None:
        self._limit = max(self._limit * factor, float(self.bounds.low))
        self._probing = False
        self._cut_at = now
        self._sample.clear()
