"""The commit loop: outcomes go into the journal in groups, as many at a time as are there.

One `ctx.run` an item costs hundreds of microseconds. Here a single `ctx.run` waits until at least one outcome is there
and takes all of them, while the pool goes on; so slow items are recorded one by one within milliseconds, and fast ones
by the thousand. On replay the recorded groups come back at once, and only what is missing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import restate
from restate import RunOptions, TerminalError
from restate.serde import BytesSerde

from restate_nb.engine.lane import Lane
from restate_nb.engine.record import Attempt, decode_group


class Lanes(Protocol):
    """Where the commit loop finds its lane: that of an earlier attempt of the handler, or a new one."""

    def lane(self, open_positions: set[int], failed: Mapping[int, Attempt]) -> Lane:
        """The lane for these positions; called only once all that the journal has was read."""
        ...

    def acknowledge(self, recorded: Iterable[Attempt]) -> None:
        """These are recorded; there may be no lane yet."""

    def cancel(self) -> None:
        """End the lane's items; there may be no lane yet."""


OnGroup = Callable[[bytes, list[Attempt]], bool]
"""Told of each recorded group: as it is in the journal, and decoded. False ends the loop early."""


async def commit(ctx: Any, positions: Iterable[int], lanes: Lanes, on_group: OnGroup) -> bool:
    """Record attempts until every position has its final one, or until `on_group` says so.

    Returns:
        Whether the invocation was cancelled; then the open items were recorded as cancelled.
    """
    open_positions = set(positions)
    failed: dict[int, Attempt] = {}
    cancelled = False

    async def next_group() -> bytes:
        lane = lanes.lane(open_positions, failed)
        if cancelled:
            lanes.cancel()
        return await lane.take()

    while open_positions:
        future = ctx.run_typed("commit", next_group, RunOptions(serde=BytesSerde()))
        while True:
            try:
                await restate.gather(future)
                break
            except TerminalError:  # gather raises only when the invocation is cancelled; the run itself goes on
                cancelled = True
                lanes.cancel()
        group = await future
        attempts = decode_group(group)
        for attempt in attempts:
            if attempt.final:
                open_positions.discard(attempt.position)
                failed.pop(attempt.position, None)
            else:
                failed[attempt.position] = attempt
        lanes.acknowledge(attempts)
        if not on_group(group, attempts):
            break
    return cancelled
