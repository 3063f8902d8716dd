"""The items of one shard on their way through a pool, and the outcomes that wait to be recorded; how many may wait.

The pool's loop puts outcomes in, the handler's loop takes them out; the two may be different threads. An outcome leaves
only when its group is acknowledged: the attempt that took it may end before that, and the next one must find it.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from restate_nb.engine.record import CANCELLED, OK, Attempt, Failure, encode_group

MAX_GROUP_COUNT: Final = 10_000
MAX_GROUP_BYTES: Final = 4 * 1024 * 1024
"""Bounds of a group: far under the 32 MiB of a message, and small enough that a commit takes milliseconds."""

FAIL_FAST: Final = "FailFast"
"""The kind of failure of items that were cancelled because others failed; so a job tells so after a restart too."""

_RECORD_BYTES = 60  # a record without its value

MAX_UNRECORDED: Final = 20_000
MAX_UNRECORDED_BYTES: Final = 32 * 1024 * 1024
"""Outcomes, and bytes of their values, that may wait to be recorded. More would fill the memory, and be lost if the
process died."""

MAX_UNRECORDED_SECONDS: Final = 10.0
"""For so long nothing may have been recorded: the server is away, and what is done meanwhile may have to be done, and
paid for, again. It is back from a crash in less than a second."""

_LOOK: Final = 16
"""Items that end between two looks; each may have a value of 16 MiB."""


class Entry(msgspec.Struct, frozen=True, gc=False):  # made for each item, at a fifth of what a dataclass costs
    """An item that waits for an attempt.

    Attributes:
        position: where it stands in the job's input.
        payload: what the pool's function is called with.
        number: the number of the attempt, from 1.
        not_before: when it may start, in seconds since 1970; 0 for at once.
    """

    position: int
    payload: Any
    number: int = 1
    not_before: float = 0.0


def entries(payloads: Mapping[int, Any], failed: Mapping[int, Attempt]) -> Iterator[Entry]:
    """The entries of `payloads` by position, in order; `failed` holds the last attempt of those tried before."""
    for position, payload in payloads.items():
        last = failed.get(position)
        if last is None:
            yield Entry(position, payload)
        else:
            assert last.failure is not None
            yield Entry(position, payload, last.number + 1, last.started + last.ran + (last.failure.retry_in or 0.0))


class ShardQueue:
    """One shard's entries, and the outcomes of those that have ended.

    The entries are loaded when their turn comes: of a job with a million items, few shards are being worked on.

    Attributes:
        pending: entries that may start.
        delayed: entries that wait for their next attempt, by position.
        open: the positions that have no outcome yet.
    """

    def __init__(self, count: int, load: Callable[[], Iterable[Entry]]) -> None:
        """`count` entries, which `load` brings; it is called once, on the pool's loop."""
        self._count = count
        self._load: Callable[[], Iterable[Entry]] | None = load
        self.pending: deque[Entry] = deque()
        self.delayed: dict[int, Entry] = {}
        self.open: set[int] = set()
        self._since = 0.0  # on time.monotonic: since then something waits to be recorded
        self._ended = self._ended_bytes = 0  # counted by the pool's thread
        self._recorded = self._recorded_bytes = 0  # counted by the handler's
        self.outcomes_waiting: deque[Attempt] = deque()  # in no group yet
        self.in_group: dict[int, Attempt] = {}  # by `_key`: on their way into the journal
        self._in_group_bytes = 0
        self._takers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def waiting(self) -> int:
        """How many entries wait to be started."""
        return len(self.pending) if self._load is None else self._count

    def load(self) -> bool:
        """Load the entries; says whether that was still to do."""
        if self._load is None:
            return False
        load, self._load = self._load, None
        self.pending.extend(load())
        self.open.update(entry.position for entry in self.pending)
        return True

    def is_stale(self, ended: Iterable[int], count: int) -> bool:
        """Whether the handler went on in another process in the meantime.

        Args:
            ended: what has its outcome; to run or to record it here would be once more.
            count: how many entries a new queue would have.
        """
        if self._load is not None:
            return count != self._count
        mine = {attempt.position for attempt in (*self.outcomes_waiting.copy(), *self.in_group.copy().values())}
        return any(position in self.open or position in mine for position in ended)

    def unrecorded(self) -> tuple[int, int, float]:
        """How many outcomes, and how many bytes of values, are not recorded yet; and for how many seconds nothing was
        recorded although there was something."""
        waits = self._ended - self._recorded
        return waits, self._ended_bytes - self._recorded_bytes, time.monotonic() - self._since if waits else 0.0

    def add(self, attempt: Attempt) -> None:
        """Take an outcome. An item that has its final one already (it was cancelled) gets no other."""
        if attempt.position not in self.open:
            return
        if attempt.final:
            self.open.discard(attempt.position)
        if self._ended == self._recorded:
            self._since = time.monotonic()
        self._ended += 1
        self._ended_bytes += len(attempt.value)
        self.outcomes_waiting.append(attempt)
        if self._takers:
            takers, self._takers = self._takers, []
            for loop, event in takers:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def add_ok(self, position: int, number: int, started: float, ran: float, value: bytes) -> None:
        """Take the outcome of an attempt that went well; see `Attempt` for the arguments."""
        self.add(Attempt(position, number, OK, started, ran, msgspec.Raw(value)))

    async def next_group(self) -> bytes:
        """Wait for outcomes, and return a group of all that are there; see `next_attempts`."""
        return encode_group(await self.next_attempts())

    async def next_attempts(self) -> list[Attempt]:
        """Wait for outcomes, and return all that are there, within the bounds of a group.

        They stay in the queue until `acknowledge`; asked again before that, it gives the same ones.
        """
        while not self.in_group:
            event = asyncio.Event()
            # Before the look, or an outcome could slip in between. There may be two who wait: an attempt of the handler
            # that does not know yet that it is over, and the next one.
            self._takers.append((asyncio.get_running_loop(), event))
            if not self.outcomes_waiting:
                await event.wait()
            self._fill_group()
        return list(self.in_group.values())

    def _fill_group(self) -> None:
        size = 0
        while self.outcomes_waiting and len(self.in_group) < MAX_GROUP_COUNT:
            attempt = self.outcomes_waiting[0]
            of_value = len(attempt.value)
            size += _RECORD_BYTES + of_value
            if attempt.failure is not None:
                size += len(attempt.failure.message) + len(attempt.failure.traceback)
            if size > MAX_GROUP_BYTES and self.in_group:
                return
            self.in_group[_key(attempt)] = attempt
            self._in_group_bytes += of_value
            self.outcomes_waiting.popleft()

    def acknowledge(self, recorded: Iterable[Attempt]) -> None:
        """These are in the journal."""
        for attempt in recorded:
            if self.in_group.pop(_key(attempt), None) is not None:
                self._recorded += 1
        self._since = time.monotonic()
        if not self.in_group:
            self._recorded_bytes += self._in_group_bytes
            self._in_group_bytes = 0

    def cancel(self, running: Mapping[int, Attempt]) -> None:
        """Give every item that has no outcome the outcome `cancelled`; whatever ends later is dropped.

        Args:
            running: what to record of the items that are running, by position.
        """
        self.load()
        numbers = {entry.position: entry.number for entry in (*self.pending, *self.delayed.values())}
        self.pending.clear()
        self.delayed.clear()
        for position in sorted(self.open):
            self.add(running.get(position) or cancelled(position, numbers.get(position, 1)))

    def stop(self, reason: str, kind: str = FAIL_FAST, but: Container[int] = ()) -> None:
        """Give every item that does not run now the outcome `cancelled`, for this reason.

        Args:
            reason: the message of the outcome.
            kind: its type.
            but: the positions that have been begun elsewhere: they keep their turn, to learn what became of them.
        """
        self.load()
        waiting = [*self.pending, *self.delayed.values()]
        self.pending.clear()
        self.delayed.clear()
        for entry in waiting:
            if entry.position in but:
                self.pending.append(entry)
            else:
                self.add(cancelled(entry.position, entry.number, reason=reason, kind=kind))


def _key(attempt: Attempt) -> int:
    return attempt.position << 31 | attempt.number  # a tuple would be one more object for the garbage collector


def cancelled(
    position: int,
    number: int,
    started: float = 0.0,
    ran: float = 0.0,
    *,
    reason: str = "The job was cancelled.",
    kind: str = "CancelledError",
) -> Attempt:
    """The record of an attempt that was cancelled; `started` is 0 when it had not begun."""
    return Attempt(position, number, CANCELLED, started, ran, failure=Failure(kind, reason))


class Backlog:
    """How much of one pool waits to be recorded. Used on the pool's loop; `full` may be read anywhere.

    It looks only at queues that have been begun: of a job with a million items, few of a hundred at a time.

    Attributes:
        full: whether items are held up by it.
    """

    def __init__(self) -> None:
        self._queues: weakref.WeakSet[ShardQueue] = weakref.WeakSet()
        self._credit = 0  # items that may end before the next look
        self.full = False

    def watch(self, queue: ShardQueue) -> None:
        """Outcomes will come by this queue, until nobody holds it any more."""
        self._queues.add(queue)

    def item_ended(self) -> None:
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
        for queue in self._queues:
            waits, of_bytes, seconds = queue.unrecorded()
            count, size, longest = count + waits, size + of_bytes, max(longest, seconds)
        many, large = count * share >= MAX_UNRECORDED, size * share >= MAX_UNRECORDED_BYTES
        self.full = many or large or longest >= MAX_UNRECORDED_SECONDS
        if not self.full:
            self._credit = _LOOK
        return not self.full
