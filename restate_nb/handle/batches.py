"""Batches: so many items begin together; the next ones when all of them have ended and a pause has passed.

When a batch ended is known from its outcomes, which Restate keeps. So a process that takes over in the middle of a
pause waits for what remains of it, and nothing more has to be kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from restate_nb.backends.base import Backend
from restate_nb.results.ledger import Ledger

_LOOK: Final = 0.2  # seconds between looks at the clock: it may be set, and the pause changed or broken off
_AT_ONCE: Final = 50  # batches that wait for nothing


@dataclass(frozen=True, slots=True)
class Batch:
    """How a job is cut into batches.

    Attributes:
        size: how many items begin together.
        pause: seconds from the end of a batch to the start of the next.
    """

    size: int
    pause: float = 0.0


class Batches:
    """Sees a job's rounds through, batch after batch.

    Attributes:
        size: how many items begin together.
        pause: seconds between batches; can be changed at any time.
        until: when the pause that is being waited for ends, in seconds since 1970; 0 for none.
        number: which batch of its round runs or is waited for, from 1.
        count: how many there are in that round.
    """

    def __init__(self, work: Backend, ledger: Ledger, size: int) -> None:
        self._work = work
        self._ledger = ledger
        self.size = size
        self.pause = 0.0
        self.until = 0.0
        self.number = self.count = 1

    async def run_round(
        self, round_: int, positions: Sequence[int], submitted: Callable[[], Awaitable[None]] | None
    ) -> None:
        """See the items of a round to their outcomes; the arguments are those of `Backend.run_round`."""
        start, self.count = 0, -(-len(positions) // self.size)
        while True:
            self.number = start // self.size + 1
            if start and submitted is not None:
                await self._rest(round_, positions[start - self.size : start])
            hurried = submitted is None or self._work.is_stopping(round_)
            end = start + self.size * (_AT_ONCE if hurried else 1)
            last = end >= len(positions)
            when_submitted = submitted if last or submitted is None else _not_last
            await self._work.run_round(round_, positions[start:end], when_submitted, first=start)
            if last:
                return
            start = end

    def pauses_left(self, now: float) -> float:
        """Seconds of pauses that are still to come in this round."""
        return (self.count - self.number) * self.pause + (max(self.until - now, 0.0) if self.until else 0.0)

    async def _rest(self, round_: int, batch: Sequence[int]) -> None:
        ended = max(self._ledger.started[position] + self._ledger.ran[position] for position in batch)
        try:
            while not self._work.is_stopping(round_) and (left := ended + self.pause - time.time()) > 0:
                self.until = ended + self.pause
                await asyncio.sleep(min(left, _LOOK))
        finally:
            self.until = 0.0


async def _not_last() -> None:
    """Told that a batch is submitted, of which others follow."""
