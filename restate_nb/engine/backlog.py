"""How much waits to be recorded: with too much, no item is started."""

from __future__ import annotations

import weakref
from typing import Final

from restate_nb.engine.outbox import ShardQueue

MAX_COUNT: Final = 20_000
MAX_BYTES: Final = 32 * 1024 * 1024
"""Outcomes, and bytes of their values, that may wait to be recorded. More would fill the memory, and be lost if the
process died."""

MAX_SECONDS: Final = 10.0
"""For so long nothing may have been recorded: the server is away, and what is done meanwhile may have to be done, and
paid for, again. It is back from a crash in less than a second."""

_LOOK: Final = 16
"""Items that end between two looks; each may have a value of 16 MiB."""


class Backlog:
    """What the lanes of one pool have not had recorded. Used on the pool's loop; `full` may be read anywhere.

    It looks only at lanes that have been begun: of a job with a million items, few of a hundred at a time.

    Attributes:
        full: whether items are held up by it.
    """

    def __init__(self) -> None:
        self._lanes: weakref.WeakSet[ShardQueue] = weakref.WeakSet()
        self._credit = 0  # items that may end before the next look
        self.full = False

    def watch(self, lane: ShardQueue) -> None:
        """Outcomes will come by this lane, until nobody holds it any more."""
        self._lanes.add(lane)

    def grow(self) -> None:
        """An item has ended."""
        self._credit -= 1

    def has_room(self) -> bool:
        """Whether an item may be started. Once it may not, not before half of what waits is recorded."""
        if self._credit > 0:
            return True
        share = 2 if self.full else 1
        self.full = True  # before the look, or what is recorded meanwhile would wake nobody
        count = size = 0
        longest = 0.0
        for lane in self._lanes:
            waits, of_bytes, seconds = lane.backlog()
            count, size, longest = count + waits, size + of_bytes, max(longest, seconds)
        self.full = count * share >= MAX_COUNT or size * share >= MAX_BYTES or longest >= MAX_SECONDS
        if not self.full:
            self._credit = _LOOK
        return not self.full
