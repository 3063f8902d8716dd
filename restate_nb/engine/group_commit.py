"""The commit loop: outcomes go into the journal in groups, as many at a time as are there.

One `ctx.run` an item costs hundreds of microseconds. Here a single `ctx.run` waits until at least one outcome is there
and takes all of them, while the pool goes on; so slow items are recorded one by one within milliseconds, and fast ones
by the thousand. On replay the recorded groups come back at once, and only what is missing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import restate
from restate import RunOptions, TerminalError
from restate.serde import BytesSerde

from restate_nb.engine.outbox import ShardQueue
from restate_nb.engine.record import Attempt, Group


class QueueSource(Protocol):
    """Where the commit loop finds its queue: that of an earlier attempt of the handler, or a new one."""

    def queue(self, ended: set[int], failed: Mapping[int, Attempt]) -> ShardQueue:
        """The queue of what is left; called only once all that the journal has was read.

        Args:
            ended: the positions that have their outcome.
            failed: the last attempt of those that are to be tried again.
        """
        ...

    def recorded(self, raw: bytes) -> Group:
        """This group is recorded: let go of what it has, and return it decoded. There may be no queue yet.

        Raises:
            ValueError: it is no group.
        """
        ...

    def cancel(self) -> None:
        """End the queue's items; there may be no queue yet."""


OnGroup = Callable[[bytes, Group], bool]
"""Called with each recorded group: as it is in the journal, and decoded. False ends the loop early."""


async def commit(ctx: Any, count: int, queues: QueueSource, on_group: OnGroup) -> bool:
    """Record attempts until `count` positions have their final one, or until `on_group` says so.

    Returns:
        Whether the invocation was cancelled; then the open items were recorded as cancelled.
    """
    ended: set[int] = set()
    failed: dict[int, Attempt] = {}
    queue: ShardQueue | None = None
    cancelled = False

    async def next_group() -> bytes:
        nonlocal queue
        if queue is None:
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
        raw = await future
        group = queues.recorded(raw)
        ended.update(group.finals())
        if queue is None:
            failed.update(group.to_be_tried_again())
            failed = {position: last for position, last in failed.items() if position not in ended}
        if not on_group(raw, group):
            break
    return cancelled
