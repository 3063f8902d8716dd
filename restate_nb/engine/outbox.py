"""The items of one shard on their way through a pool, and the outcomes that wait to be recorded.

The pool's loop puts outcomes in, the handler's loop takes them out; the two may be different threads. An outcome leaves
only when its group is acknowledged: the attempt that took it may end before that, and the next one must find it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from restate_nb.engine.record import CANCELLED, Attempt, Failure, encode_group

MAX_GROUP_COUNT: Final = 10_000
MAX_GROUP_BYTES: Final = 4 * 1024 * 1024
"""Bounds of a group: far under the 32 MiB of a message, and small enough that a commit takes milliseconds."""

FAIL_FAST: Final = "FailFast"
"""The kind of failure of items that were cancelled because others failed; so a job tells so after a restart too."""

_RECORD_BYTES = 60  # a record without its value


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
    """What waits: `payloads` by position, in order; `failed` holds the last attempt of those that were tried before."""
    for position, payload in payloads.items():
        last = failed.get(position)
        if last is None:
            yield Entry(position, payload)
        else:
            assert last.failure is not None
            yield Entry(position, payload, last.number + 1, last.started + last.ran + (last.failure.retry_in or 0.0))


class ShardQueue:
    """One shard's entries and its outbox.

    The entries are loaded when their turn comes: of a job with a million items, few shards are being worked on.
    """

    def __init__(self, count: int, load: Callable[[], Iterable[Entry]]) -> None:
        """`count` entries, which `load` brings; it is called once, on the pool's loop."""
        self._count = count
        self._load: Callable[[], Iterable[Entry]] | None = load
        self.pending: deque[Entry] = deque()
        self.resting: dict[int, Entry] = {}  # wait for their next attempt
        self.open: set[int] = set()
        self._since = 0.0  # on time.monotonic: since then something waits to be recorded
        self._put = self._put_bytes = 0  # counted by the pool's thread
        self._recorded = self._recorded_bytes = 0  # counted by the handler's
        self._fresh: deque[Attempt] = deque()
        self._offered: dict[int, Attempt] = {}  # by `_key`
        self._offered_bytes = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def waits(self) -> int:
        """How many entries wait to be started."""
        return len(self.pending) if self._load is None else self._count

    def begin(self) -> bool:
        """Load the entries; says whether that was still to do."""
        if self._load is None:
            return False
        load, self._load = self._load, None
        self.pending.extend(load())
        self.open.update(entry.position for entry in self.pending)
        return True

    def behind(self, ended: Iterable[int], count: int) -> bool:
        """Whether the handler went on in another process in the meantime.

        Args:
            ended: what has its outcome; to run or to record it here would be once more.
            count: how many entries a new lane would have.
        """
        if self._load is not None:
            return count != self._count
        mine = {attempt.position for attempt in (*self._fresh.copy(), *self._offered.copy().values())}
        return any(position in self.open or position in mine for position in ended)

    def backlog(self) -> tuple[int, int, float]:
        """How many outcomes, and how many bytes of values, are not recorded yet; and for how many seconds nothing was
        recorded although there was something."""
        waits = self._put - self._recorded
        return waits, self._put_bytes - self._recorded_bytes, time.monotonic() - self._since if waits else 0.0

    def put(self, attempt: Attempt) -> None:
        """Add an outcome. An item that has its final one already (it was cancelled) gets no other."""
        if attempt.position not in self.open:
            return
        if attempt.final:
            self.open.discard(attempt.position)
        if self._put == self._recorded:
            self._since = time.monotonic()
        self._put += 1
        self._put_bytes += len(attempt.value)
        self._fresh.append(attempt)
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for loop, event in waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    async def take(self) -> bytes:
        """Wait for outcomes, and return a group of all that are there, within bounds; see `offered`."""
        return encode_group(await self.offered())

    async def offered(self) -> list[Attempt]:
        """Wait for outcomes, and return all that are there, within the bounds of a group.

        They stay in the lane until `acknowledge`; asked again before that, the same ones are offered again.
        """
        while not self._offered:
            event = asyncio.Event()
            # Before the look, or an outcome could slip in between. There may be two who wait: an attempt of the handler
            # that does not know yet that it is over, and the next one.
            self._waiting.append((asyncio.get_running_loop(), event))
            if not self._fresh:
                await event.wait()
            self._offer()
        return list(self._offered.values())

    def _offer(self) -> None:
        size = 0
        while self._fresh and len(self._offered) < MAX_GROUP_COUNT:
            attempt = self._fresh[0]
            of_value = len(attempt.value)
            size += _RECORD_BYTES + of_value
            if attempt.failure is not None:
                size += len(attempt.failure.message) + len(attempt.failure.traceback)
            if size > MAX_GROUP_BYTES and self._offered:
                return
            self._offered[_key(attempt)] = attempt
            self._offered_bytes += of_value
            self._fresh.popleft()

    def acknowledge(self, recorded: Iterable[Attempt]) -> None:
        """These are in the journal: they need not be offered again."""
        for attempt in recorded:
            if self._offered.pop(_key(attempt), None) is not None:
                self._recorded += 1
        self._since = time.monotonic()
        if not self._offered:
            self._recorded_bytes += self._offered_bytes
            self._offered_bytes = 0

    def cancel(self, running: Mapping[int, Attempt]) -> None:
        """Give every item that has no outcome the outcome `cancelled`; nothing that comes later is listened to.

        Args:
            running: what to record of the items that are running, by position.
        """
        self.begin()
        numbers = {entry.position: entry.number for entry in (*self.pending, *self.resting.values())}
        self.pending.clear()
        self.resting.clear()
        for position in sorted(self.open):
            self.put(running.get(position) or cancelled(position, numbers.get(position, 1)))

    def stop(self, reason: str, kind: str = FAIL_FAST, but: Container[int] = ()) -> None:
        """Give every item that does not run now the outcome `cancelled`, for this reason.

        Args:
            reason: the message of the outcome.
            kind: its type.
            but: the positions that have been begun elsewhere: they keep their turn, to learn what became of them.
        """
        self.begin()
        waiting = [*self.pending, *self.resting.values()]
        self.pending.clear()
        self.resting.clear()
        for entry in waiting:
            if entry.position in but:
                self.pending.append(entry)
            else:
                self.put(cancelled(entry.position, entry.number, reason=reason, kind=kind))


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
