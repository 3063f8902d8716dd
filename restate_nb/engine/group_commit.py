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

from restate_nb.engine.outbox import ShardQueue
from restate_nb.engine.record import Attempt, decode_group


class QueueSource(Protocol):
    """Where the commit loop finds its queue: that of an earlier attempt of the handler, or a new one."""

    def queue(self, ended: set[int], failed: Mapping[int, Attempt]) -> ShardQueue:
        """The queue of what is left; called only once all that the journal has was read.

        Args:
            ended: the positions that have their outcome.
            failed: the last attempt of those that are to be tried again.
        """
        ...

    def acknowledge(self, recorded: Iterable[Attempt]) -> None:
        """These are recorded; there may be no queue yet."""

    def cancel(self) -> None:
        """End the queue's items; there may be no queue yet."""


OnGroup = Callable[[bytes, list[Attempt]], bool]
"""Called with each recorded group: as it is in the journal, and decoded. False ends the loop early."""


async def commit(ctx: Any, count: int, queues: QueueSource, on_group: OnGroup) -> bool:
    """Record attempts until `count` positions have their final one, or until `on_group` says so.

    Returns:
        Whether the invocation was cancelled; then the open items were recorded as cancelled.
    """
    ended: set[int] = set()
    failed: dict[int, Attempt] = {}
    cancelled = False

    async def next_group() -> bytes:
        queue = queues.queue(ended, failed)
        if cancelled:
            queues.cancel()
        return await queue.next_group()

    while len(ended) < count:
        future = ctx.run_typed("commit", next_group, RunOptions(serde=BytesSerde()))
        while True:
            try:
                await restate.gather(future)
                break
            except TerminalError:  # gather raises only when the invocation is cancelled; the run itself goes on
                cancelled = True
                queues.cancel()
        group = await future
        attempts = decode_group(group)
        for attempt in attempts:
            if attempt.final:
                ended.add(attempt.position)
                failed.pop(attempt.position, None)
            else:
                failed[attempt.position] = attempt
        queues.acknowledge(attempts)
        if not on_group(group, attempts):
            break
    return cancelled
