"""Sees rounds of a keyed job to their ends side by side: what is new does not wait for what was there before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable


class OpenRounds:
    """Rounds that are seen to their ends at once. Belongs to the session's loop.

    Args:
        finish: sees one to its end.
    """

    def __init__(self, finish: Callable[[int], Awaitable[None]]) -> None:
        self._finish = finish
        self._group: asyncio.TaskGroup | None = None
        self._open = 0

    @property
    def open(self) -> bool:
        """Whether more may be added."""
        return self._open > 0

    def add(self, rounds: Iterable[int]) -> None:
        """See these to their ends, too; while it is open."""
        assert self._group is not None
        for number in rounds:
            self._open += 1
            self._group.create_task(self._run(number))

    async def run(self, rounds: Iterable[int]) -> None:
        """See these to their ends, and those that are added meanwhile."""
        async with asyncio.TaskGroup() as self._group:
            self.add(rounds)

    async def _run(self, number: int) -> None:
        try:
            await self._finish(number)
        finally:
            self._open -= 1
