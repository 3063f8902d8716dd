"""Adaptive concurrency (AIMD) as plain arithmetic: it is given the time, and never waits itself."""

from __future__ import annotations

import statistics
from typing import Final

from restate_nb.limits import Range

_FIRST: Final = 10  # how many at once to begin with
_CUT: Final = 0.5  # on "slow down"
_EASE: Final = 0.6  # on rising latency
_COST: Final = 0.8  # of the throughput before such a cut: with less than that after it, the load was not the reason
_SLOWER: Final = 2.0  # times the best latency that is taken for queueing on the other side
_NOISE: Final = 0.005  # seconds of latency that mean nothing
_SAMPLE: Final = 20  # the fewest items to take a median of
_LONGEST_HOLD: Final = 60.0


class AdaptiveConcurrency:
    """How many items run at once, found out while they run: more while it goes well, fewer when the other side is full.

    As TCP does it: it grows by one an item until something first says no, then by one a round; it is halved on
    "slow down", at most once a round, and cut when the median latency has doubled. Where items wait in a queue on the
    other side, fewer of them are done as fast; a cut that costs throughput shows that the items themselves take longer,
    and is taken back.
    """

    def __init__(self, bounds: Range, first: int = _FIRST) -> None:
        self.bounds = bounds
        self.hold_until = 0.0
        self._limit = float(min(max(first, bounds.low), bounds.high))
        self._probing = True  # nothing has said no yet
        self._best: float | None = None  # median latency
        self._rate_before_cut: float | None = None  # items a second; None unless latency was the reason
        self._sample: list[float] = []
        self._sampled_from = 0.0  # when the first of them ended
        self._settled_at = 0.0
        self._enough = _SAMPLE

    @property
    def limit(self) -> int:
        """How many may run at once now."""
        return int(self._limit)

    def on_pushback(self, began: float, now: float, wait: float) -> None:
        """An attempt was told to slow down.

        Args:
            began: when the attempt did; one from before the last cut says nothing new.
            now: on the same clock.
            wait: for how many seconds nothing should be sent.
        """
        if wait > 0:
            self.hold_until = max(self.hold_until, now + min(wait, _LONGEST_HOLD))
        if began >= self._settled_at:
            self._rate_before_cut = None
            self._probing = False
            self._set(self._limit * _CUT, now)

    def on_success(self, began: float, now: float, busy: int) -> None:
        """An attempt ended well.

        Args:
            began: when it did.
            now: on the same clock.
            busy: how many ran while it did, itself included: a limit that is not reached has no reason to rise.
        """
        if began >= self._settled_at:
            if not self._sample:
                self._sampled_from = now
            self._sample.append(now - began)
            if len(self._sample) >= self._enough and self._review(now):
                return
        if busy >= self.limit:
            self._limit = min(self._limit + (1.0 if self._probing else 1.0 / self._limit), self.bounds.high)

    def _review(self, now: float) -> bool:
        """Look at a whole sample; whether the limit was changed."""
        median, spent = statistics.median(self._sample), now - self._sampled_from
        if spent < 2 * median:
            return False  # too short to tell the throughput
        rate, before = (len(self._sample) - 1) / spent, self._rate_before_cut
        self._rate_before_cut = None
        if before is not None and rate < _COST * before:
            self._best = median
            self._set(self._limit / _EASE, now)
            return True
        self._best = median if self._best is None else min(self._best, median)
        if median <= _SLOWER * self._best + _NOISE:
            self._start_sample()
            return False
        self._rate_before_cut = rate
        self._probing = False
        self._set(self._limit * _EASE, now + median)  # what starts sooner still queues behind what was there
        return True

    def _set(self, limit: float, settled_at: float) -> None:
        """Change the limit; only attempts that begin after `settled_at` tell of it."""
        self._limit = min(max(limit, float(self.bounds.low)), float(self.bounds.high))
        self._settled_at = settled_at
        self._start_sample()

    def _start_sample(self) -> None:
        self._sample.clear()
        self._enough = max(_SAMPLE, self.limit)
