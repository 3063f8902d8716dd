"""A job's throughput over time, kept in constant space however long the job runs."""

from __future__ import annotations

from restate_nb.results.progress import Progress

_SLOTS = 60
_RECENT = 12  # slots that say how fast the job is now


class Trend:
    """How many items were done when, and so how fast.

    Time is cut into even slots. When they are used up neighbours are merged and each is twice as long, so the whole
    job is always covered by 30 to 60 of them.
    """

    def __init__(self, slot_seconds: float = 0.5) -> None:
        self._slot_seconds = slot_seconds
        self._slots: list[float] = []  # items done in each slot
        self._began = 0.0
        self._last: tuple[float, int] | None = None  # seconds since it began, and items done

    def add(self, progress: Progress) -> None:
        """Add the job as it is at one moment, which is its `elapsed`."""
        ended = progress.done - progress.attached  # what an earlier process did has no times here
        if self._last is None:
            self._began = progress.elapsed
            self._last = (0.0, ended)
        now = max(progress.elapsed - self._began, self._last[0])
        before, self._last = self._last, (now, ended)
        # Items that went back to waiting (retry_failed) are no negative throughput.
        self._share_out(before[0], now, max(ended - before[1], 0))

    def _share_out(self, start: float, end: float, items: int) -> None:
        """Share items out over the slots between two times."""
        while end >= self._slot_seconds * _SLOTS:
            pairs = zip(self._slots[::2], [*self._slots[1::2], 0.0], strict=False)
            self._slots = [a + b for a, b in pairs]
            self._slot_seconds *= 2
        first, last = int(start / self._slot_seconds), int(end / self._slot_seconds)
        self._slots.extend([0.0] * (last + 1 - len(self._slots)))
        if end <= start:
            self._slots[last] += items
            return
        for slot in range(first, last + 1):
            overlap = min(end, (slot + 1) * self._slot_seconds) - max(start, slot * self._slot_seconds)
            self._slots[slot] += items * overlap / (end - start)

    def rates(self) -> list[float]:
        """Items per second in each slot that is complete, the oldest first."""
        return [items / self._slot_seconds for items in self._slots[:-1]]

    def eta_range(self, remaining: int) -> tuple[float, float] | None:
        """The shortest and the longest time in which `remaining` items may be done, in seconds.

        They come from the faster and the slower of the recent slots; None while there are too few to say.
        """
        recent = sorted(self.rates()[-_RECENT:])
        if len(recent) < 4 or remaining <= 0:
            return None
        slow, fast = recent[len(recent) // 5], recent[-1 - len(recent) // 5]
        return (remaining / fast, remaining / slow) if slow > 0 else None
