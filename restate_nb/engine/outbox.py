"""The items of one shard on their way through a pool, and the outcomes that wait to be recorded; how many may wait.

Whoever runs items puts outcomes in, one thread at a time; the handler's loop takes them out, as groups of columns. An
outcome leaves only when its group is acknowledged: the attempt that took it may end before that, and the next one must
find it.
"""

from __future__ import annotations

import time
import weakref
from array import array
from bisect import bisect
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from restate_nb.engine import packed
from restate_nb.engine.record import (
    CANCELLED,
    OK,
    Attempt,
    Failure,
    Group,
    decode_group,
    encode_group,
    numbers_column,
    statuses_column,
)
from restate_nb.values.parts import is_joined

if TYPE_CHECKING:
    import asyncio

    from restate_nb.engine.keeping import Keeper

    _Taker: TypeAlias = tuple[asyncio.AbstractEventLoop, asyncio.Event]

_Outcome: TypeAlias = "bytes | msgspec.Raw | Attempt"

MAX_GROUP_COUNT: Final = 10_000
MAX_GROUP_BYTES: Final = 4 * 1024 * 1024
"""Bounds of a group: far under the 32 MiB of a message, and small enough that a commit takes milliseconds."""

MAX_STORED_BYTES: Final = 16 * 1024 * 1024
"""Bytes of a group's values that go to the store: one fsync for all of them, while as much again may gather."""

_REFERENCE_BYTES: Final = 400  # what stands in a journal for a value in the store
_SHORTEST: Final = 128  # bytes: a value with parts has more

FAIL_FAST: Final = "FailFast"
"""The kind of failure of items that were cancelled because others failed; so a job tells so after a restart too."""

_RECORD_BYTES = 32  # a record without its value

GATHER_SECONDS: Final = 0.02
"""A group is taken no sooner than this after the one before, unless nothing more can come: each costs the interpreter
half a millisecond, and the server as much, however many outcomes it has."""

FEW_SECONDS: Final = 0.1
_FEW: Final = 50
"""The same after a group of few, whose outcomes cost the more: where items compute, it is their time."""

_BURST_SECONDS: Final = 0.001  # what ends in the same moment goes along with the first

MAX_UNRECORDED: Final = 20_000
MAX_UNRECORDED_BYTES: Final = 32 * 1024 * 1024
"""Outcomes, and bytes of their values, that may wait to be recorded. More would fill the memory, and be lost if the
process died."""

MAX_UNRECORDED_SECONDS: Final = 10.0
"""For so long nothing may have been recorded: the server is away, and what is done meanwhile may have to be done, and
paid for, again. It is back from a crash in less than a second."""

_LOOK: Final = 16
_LARGE: Final = 1024 * 1024
"""Items that end between two looks; and the size of a value after which there is one at once."""


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
        outcomes_waiting: the outcomes that are in no group yet: their values, or the records of those that did not go
            well.
        in_group: those on their way into the journal.
    """

    def __init__(self, count: int, load: Callable[[], Iterable[Entry]], keeper: Keeper | None = None) -> None:
        """
        Args:
            count: how many entries there are.
            load: brings them; it is called once, on the pool's loop.
            keeper: stores values with parts; None where there are none.
        """
        self._count = count
        self._keeper = keeper
        self._load: Callable[[], Iterable[Entry]] | None = load
        self.pending: deque[Entry] = deque()
        self.delayed: dict[int, Entry] = {}
        self.open: set[int] = set()
        self._since = 0.0  # on time.monotonic: since then something waits to be recorded
        self._ended_bytes = 0  # counted by those who add
        self._recorded_bytes = 0  # counted by the handler's thread
        # Columns, since a million small objects would keep the garbage collector busy. Whoever adds does so at their
        # ends, with `outcomes_waiting` the last; the handler takes from their fronts.
        self._positions: list[int] = []
        self._numbers: list[int] = []
        self._started: list[float] = []
        self._ran: list[float] = []
        self.outcomes_waiting: list[_Outcome] = []
        self.in_group: Group | None = None
        self._encoded: bytes | None = None  # the same, once it was asked for
        self._group_bytes = 0  # of its values, as they were before they were stored
        self._storing: asyncio.Task[int] | None = None
        self._stored_bytes = 0  # of values whose references wait: less those of the references
        self._taken = 0.0  # on time.monotonic: when the last group was
        self._taken_count = 0  # how many outcomes it had
        self._hurries = False  # whether an outcome waits that is to be recorded soon
        self._takers: list[_Taker] = []
        self._gatherers: list[_Taker] = []

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

    def is_stale(self, ended: Collection[int], count: int) -> bool:
        """Whether the handler went on in another process in the meantime.

        Args:
            ended: what has its outcome; to run or to record it here would be once more.
            count: how many entries a new queue would have.
        """
        if self._load is not None:
            return count != self._count
        mine = set(self._positions)
        if self.in_group is not None:
            mine.update(self.in_group.positions)
        return not (self.open.isdisjoint(ended) and mine.isdisjoint(ended))

    def unrecorded(self) -> tuple[int, int, float]:
        """How many outcomes, and how many bytes of values, are not recorded yet; and for how many seconds nothing was
        recorded although there was something."""
        group = self.in_group
        waits = len(self.outcomes_waiting) + (0 if group is None else len(group))
        return waits, self._ended_bytes - self._recorded_bytes, time.monotonic() - self._since if waits else 0.0

    def add(self, attempt: Attempt) -> None:
        """Take an outcome. An item that has its final one already (it was cancelled) gets no other."""
        if attempt.status == OK and attempt.failure is None:
            self.add_ok(attempt.position, attempt.number, attempt.started, attempt.ran, attempt.value)
        elif attempt.position in self.open:
            if attempt.final:
                self.open.discard(attempt.position)
            if attempt.failure is None:
                self._ended_bytes += len(attempt.value)
            self._hurries = True  # what failed may end the job
            self._put(attempt)
            self._wake()

    def add_ok(self, position: int, number: int, started: float, ran: float, value: bytes | msgspec.Raw) -> None:
        """Take the outcome of an item that went well, as `add` does.

        Args:
            position: of the item in the job's input.
            number: of the attempt, from 1.
            started: when it began, in seconds since 1970.
            ran: for how many seconds.
            value: what came of it, encoded.
        """
        if position in self.open:
            self.open.discard(position)
            self._ended_bytes += len(value)
            if (
                not self.outcomes_waiting and self.in_group is None
            ):  # from here on as in `_put`, which would cost a call
                self._since = time.monotonic()
            self._positions.append(position)
            self._numbers.append(number)
            self._started.append(started)
            self._ran.append(ran)
            self.outcomes_waiting.append(value)
            if self._takers or not self.open:
                self._wake()

    def _put(self, attempt: Attempt) -> None:
        if not self.outcomes_waiting and self.in_group is None:
            self._since = time.monotonic()
        self._positions.append(attempt.position)
        self._numbers.append(attempt.number)
        self._started.append(attempt.started)
        self._ran.append(attempt.ran)
        self.outcomes_waiting.append(attempt)
        if self._takers or not self.open:
            self._wake()

    def _wake(self) -> None:
        """Tell the handler of an outcome; one that gathers, only of the last, or of one that hurries."""
        takers, self._takers = self._takers, []
        if self._hurries or not self.open:
            takers += self._gatherers
        for loop, event in takers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def next_group(self) -> bytes:
        """Wait for outcomes, and return a group of all that are there; see `next_attempts`."""
        group = await self.next_attempts()
        if self._encoded is None:
            self._encoded = encode_group(group)
        return self._encoded

    async def next_attempts(self) -> Group:
        """Wait for outcomes, and return all that are there, within the bounds of a group.

        They stay in the queue until `acknowledge`; asked again before that, it gives the same ones.
        """
        import asyncio  # noqa: PLC0415 - a third of the start of a worker process, which awaits nothing of this

        while self.in_group is None:
            if not self.outcomes_waiting:
                event = asyncio.Event()
                # There may be two who wait: an attempt of the handler that does not know yet that it is over, and the
                # next one.
                self._takers.append((asyncio.get_running_loop(), event))
                if not self.outcomes_waiting:  # none has slipped in between
                    await event.wait()
            if self.open and len(self.outcomes_waiting) < MAX_GROUP_COUNT:
                await self._gather()
            if self.in_group is None and self.outcomes_waiting:
                await self._prepare_group()
        return self.in_group

    async def _prepare_group(self) -> None:
        """Make a group of what waits. Its values that are too large for a journal are stored first: once, whoever
        asks meanwhile, and even if whoever asked first is gone by then."""
        import asyncio  # noqa: PLC0415

        storing = self._storing
        if storing is None or storing.get_loop() is not asyncio.get_running_loop():
            values = self.outcomes_waiting[:MAX_GROUP_COUNT]
            joined = [] if self._keeper is None else _joined(values)
            count = _fitting(values, set(joined))
            joined = [at for at in joined if at < count]
            if not joined:
                self._fill_group(count)
                return
            storing = self._storing = asyncio.create_task(self._store(count, joined))
            del values
        try:
            count = await asyncio.shield(storing)
        finally:
            first = self._storing is storing and storing.done()
            if first:
                self._storing = None
        if first and self.in_group is None:
            self._fill_group(count)

    async def _store(self, count: int, joined: Sequence[int]) -> int:
        """Replace the values at these places, of the first `count` that wait, by references to the store. Nobody else
        takes from that end meanwhile."""
        assert self._keeper is not None
        waiting = self.outcomes_waiting
        references = await self._keeper.keep([bytes(_value(waiting[at])) for at in joined])
        for at, reference in zip(joined, references, strict=True):
            outcome = waiting[at]
            self._stored_bytes += len(_value(outcome)) - len(reference)
            if isinstance(outcome, Attempt):
                waiting[at] = msgspec.structs.replace(outcome, value=msgspec.Raw(reference))
            else:
                waiting[at] = reference
        return count

    async def _gather(self) -> None:
        """Wait for what ends in the same moment, or soon after the last group; not if all items have ended."""
        import asyncio  # noqa: PLC0415

        loop, event = asyncio.get_running_loop(), asyncio.Event()
        apart = FEW_SECONDS if self._taken_count < _FEW and not self._hurries else GATHER_SECONDS
        pause = min(max(self._taken + apart - time.monotonic(), _BURST_SECONDS), apart)
        timer = loop.call_later(pause, event.set)
        self._gatherers.append((loop, event))
        try:
            if self.open:
                await event.wait()
            if self.open and (left := self._taken + GATHER_SECONDS - time.monotonic()) > 0:
                await asyncio.sleep(left)
        finally:
            timer.cancel()
            self._gatherers = [each for each in self._gatherers if each[1] is not event]

    def _fill_group(self, count: int) -> None:
        values = self.outcomes_waiting[:count]
        records: dict[int, Attempt] = {}
        if Attempt in set(map(type, values)):
            records = {at: each for at, each in enumerate(values) if isinstance(each, Attempt)}
        self._encoded, self._taken, self._taken_count, self._hurries = None, time.monotonic(), count, False
        self.in_group = self._front(count, records)
        self._group_bytes, self._stored_bytes = len(self.in_group.values) + self._stored_bytes, 0
        for column in (self._positions, self._numbers, self._started, self._ran, self.outcomes_waiting):
            del column[:count]

    def _front(self, count: int, records: Mapping[int, Attempt]) -> Group:
        values: list[Any] = self.outcomes_waiting[:count]
        for at, record in records.items():
            values[at] = record.value if record.failure is None else b""
        ends = list(accumulate(map(len, values)))
        positions = self._positions[:count]
        statuses = b""
        if records:
            statuses = statuses_column([records[at].status if at in records else OK for at in range(count)])
        return Group(
            positions=packed.counts(positions, max(positions)),
            started=array("d", self._started[:count]),
            ran=array("d", self._ran[:count]),
            ends=packed.counts(ends, ends[-1]),
            values=b"".join(values),
            numbers=numbers_column(self._numbers[:count]),
            statuses=statuses,
            failures={at: record.failure for at, record in records.items() if record.failure is not None},
        )

    def recorded(self, raw: bytes) -> Group:
        """This group is in the journal: `acknowledge` it, and return it decoded.

        Raises:
            ValueError: it is no group.
        """
        group = self.in_group if self.in_group is not None and raw == self._encoded else decode_group(raw)
        self.acknowledge(group)
        return group

    def acknowledge(self, recorded: Sequence[Attempt]) -> None:
        """These are in the journal."""
        self._since = time.monotonic()
        group = self.in_group
        if group is None:
            return
        self.in_group = self._encoded = None
        self._recorded_bytes += self._group_bytes
        if recorded is not group:
            self._keep_others(group, {(each.position, each.number) for each in recorded})

    def _keep_others(self, group: Group, recorded: set[tuple[int, int]]) -> None:
        """Only some of a group are in the journal: the others are offered again."""
        left = [each for each in group if (each.position, each.number) not in recorded]
        if left:
            self.in_group = Group.of(left)
            self._group_bytes = len(self.in_group.values)
            self._recorded_bytes -= self._group_bytes

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


def _joined(values: Sequence[_Outcome]) -> list[int]:
    """Which of these outcomes have a value with parts, which is for the store."""
    large = [at for at, each in enumerate(values) if isinstance(each, Attempt) or len(each) > _SHORTEST]
    return [at for at in large if is_joined(_value(values[at]))]


def _value(outcome: _Outcome) -> bytes | msgspec.Raw:
    """What came of it; of a failure, what stands for no value."""
    return outcome.value if isinstance(outcome, Attempt) else outcome


def _fitting(values: Sequence[_Outcome], joined: Container[int]) -> int:
    """How many of these outcomes fit into a group: at least one. `joined`: the places of those that go to the store."""
    sizes = list(map(_size, values)) if Attempt in set(map(type, values)) else list(map(len, values))  # type: ignore[arg-type]
    if not joined and sum(sizes) + len(values) * _RECORD_BYTES <= MAX_GROUP_BYTES:
        return len(values)
    stored = [size if at in joined else 0 for at, size in enumerate(sizes)]
    written = [_RECORD_BYTES + (_REFERENCE_BYTES if at in joined else size) for at, size in enumerate(sizes)]
    fit = (bisect(list(accumulate(written)), MAX_GROUP_BYTES), bisect(list(accumulate(stored)), MAX_STORED_BYTES))
    return max(min(fit), 1)


def _size(outcome: _Outcome) -> int:
    if not isinstance(outcome, Attempt):
        return len(outcome)
    failure = outcome.failure
    return len(outcome.value) if failure is None else len(failure.message) + len(failure.traceback)


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

    def item_ended(self, size: int = 0) -> None:
        """An item has ended, with a value of so many bytes."""
        self._credit -= 1 if size < _LARGE else _LOOK

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
