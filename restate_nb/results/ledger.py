"""The recorded attempts of a job, each counted once.

The handlers of this process report an attempt when it is recorded and again on every replay, and it comes once more
with the output of its shard. Columns are arrays, since a job may have a million items.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from restate_nb.engine.outbox import FAIL_FAST
from restate_nb.engine.record import CANCELLED, OK, Attempt, Failure, Group
from restate_nb.results.failure_store import FailureStore, bare
from restate_nb.results.progress import ErrorGroup
from restate_nb.results.spool import AT_ONCE, Spool

PENDING = 255

_RECENT_SECONDS = 10.0
SAMPLE = 2_000
"""How many of the latest durations the percentiles are taken of: what the panel shows must cost the same at a million
items."""

_FEW: Final = 16  # below it, adding each costs less than adding all at once


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ledger at one moment: copies, which nobody changes any more. Columns are by position, as in `Ledger`."""

    total: int
    status: bytes
    attempts: array[int]
    first_started: array[float]
    started: array[float]
    ran: array[float]
    ran_in_all: array[float]
    failures: dict[int, Failure]  # without their tracebacks
    earlier: list[Attempt]

    def last(self, position: int) -> Attempt:
        """The last attempt at an item that has ended, without its value and its traceback."""
        return _last_attempt(self, position, self.failures.get(position))


class Ledger:
    """The attempts of one job, by position."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.status = bytearray([PENDING]) * total
        self.attempts = array("i", [0]) * total  # how many were made, over all rounds
        self.started = array("d", [0.0]) * total  # of the last attempt
        self.ran = array("d", [0.0]) * total  # of the last attempt
        self.first_started, self.ran_in_all = self.started, self.ran  # the same until an item has a second attempt
        self._values = Spool()
        self._value_at = _zeros(total, np.uint32)  # where in the spool, from 1; 0 for none
        self.failures = FailureStore()
        self.order = array("I")  # positions as they ended
        self.earlier: list[Attempt] = []  # all attempts but the last of each item, without values and tracebacks
        self.counts = Counter[int]()
        self.retries = 0
        self.done = 0
        self._round = _zeros(total, np.uint16)
        self._earlier_in_round = _zeros(total, np.uint16)  # attempts before the last one
        self._seen: set[tuple[int, int, int]] = set()  # position, round and number of all but plain successes
        self.recent: deque[tuple[float, int]] = deque()  # (when, how many ended)
        self._durations: deque[float] = deque(maxlen=SAMPLE)
        self.last_end = 0.0  # seconds since 1970
        self.attached_at = 0.0  # seconds since 1970: what ended before then was done by an earlier process
        self.attached = 0
        self._tallies: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._ends: defaultdict[int, float] = defaultdict(float)  # by round
        self._lock = threading.Lock()
        self.on_recorded: Callable[[float], None] = lambda now: None
        """Called with each group of attempts that is recorded now, with the time in seconds since 1970."""

    def begin_round(self, number: int, positions: Iterable[int]) -> None:
        """Open these items again; their attempts so far become earlier ones."""
        with self._lock:
            for position in positions if number else ():
                self._reopen(position, number)

    def _reopen(self, position: int, number: int) -> None:
        if self._round[position] >= number:
            return
        if self.status[position] != PENDING:
            self._seen.add((position, self._round[position], self._earlier_in_round[position] + 1))
            if self.started[position]:
                self.earlier.append(self.last(position))
            self.counts[self.status[position]] -= 1
            self.done -= 1
            self.status[position] = PENDING
            self.failures.pop(position)
        self._round[position] = number

    def apply(self, round_: int, attempts: Sequence[Attempt], now: float) -> None:
        """Add recorded attempts; those that are known already change nothing.

        Args:
            round_: the round that they belong to.
            attempts: in the order of the journal.
            now: seconds since 1970, for the rate; 0 when they are of the past.
        """
        with self._lock:
            if isinstance(attempts, Group):
                ended = self._add_group(round_, attempts)
            else:
                ended = self._add_each(round_, attempts)
            if now and ended:
                self.recent.append((now, ended))
                while self.recent and self.recent[0][0] < now - _RECENT_SECONDS:
                    self.recent.popleft()
        if now:
            self.on_recorded(now)

    def _add_group(self, round_: int, group: Group) -> int:
        """How many items have ended with it since this process attached to the job."""
        ended = begin = 0
        for at in (*group.unusual(), len(group)):
            added = self._add_plain(round_, _Plain(group, begin, at)) if at - begin >= _FEW else None
            ended += self._add_each(round_, group[begin:at]) if added is None else added
            ended += self._add_each(round_, group[at : at + 1])
            begin = at + 1
        return ended

    def _add_plain(self, round_: int, rows: _Plain) -> int | None:
        """The same of plain successes, all at once; None when some are no news, or are of another round."""
        at, started, ran = rows.positions, rows.started, rows.ran
        if at.max() >= self.total:
            return None
        status = np.frombuffer(self.status, dtype=np.uint8)
        if (np.asarray(self._round)[at] != round_).any() or (status[at] != PENDING).any() or not started.all():
            return None
        value_at = np.asarray(self._value_at)
        places = np.arange(len(self._values) + 1, len(self._values) + 1 + len(at), dtype=np.uint32)
        value_at[at] = places
        if (value_at[at] != places).any():
            return None  # an item is among them twice
        self._values.extend(rows.values, rows.ends)
        attempts = np.frombuffer(self.attempts, dtype=np.intc)
        if attempts[at].any():
            self._keep_first_apart()
        attempts[at] += 1
        _set(self.started, at, started)
        _set(self.ran, at, ran)
        in_all = ran
        if self.first_started is not self.started:
            first, ran_in_all = np.frombuffer(self.first_started), np.frombuffer(self.ran_in_all)
            first[at] = np.where((first[at] == 0) | (started < first[at]), started, first[at])
            ran_in_all[at] += ran
            in_all = ran_in_all[at]
        self._durations.extend(in_all[-SAMPLE:].tolist())
        status[at] = OK
        self.order.frombytes(at.astype(np.uintc).tobytes())
        return self._count_plain(round_, started + ran)

    def _count_plain(self, round_: int, ends: Any) -> int:
        count, latest = len(ends), float(ends.max())
        self.counts[OK] += count
        self.done += count
        self.last_end = max(self.last_end, latest)
        self._ends[round_] = max(self._ends[round_], latest)
        self._tallies[round_][1] += count
        earlier_process = int((ends < self.attached_at).sum())
        self.attached += earlier_process
        return count - earlier_process

    def _keep_first_apart(self) -> None:
        """An item has a second attempt: what is known of all of its attempts is no more the same as of the last."""
        if self.first_started is self.started:
            self.first_started, self.ran_in_all = self.started[:], self.ran[:]

    def _add_each(self, round_: int, attempts: Iterable[Attempt]) -> int:
        return sum(self._is_new(round_, attempt) and self._add(round_, attempt) for attempt in attempts)

    def _is_new(self, round_: int, attempt: Attempt) -> bool:
        position = attempt.position
        if not 0 <= position < self.total:
            return False
        if round_ > self._round[position]:
            self._reopen(position, round_)  # another process has begun that round
        if attempt.final and round_ == self._round[position]:
            if self.status[position] != PENDING:
                return False
            if attempt.number == 1:
                return True  # nearly all of them: one attempt, and it is the outcome
        key = position, round_, attempt.number
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _add(self, round_: int, attempt: Attempt) -> bool:
        """Whether an item has ended with it since this process attached to the job."""
        position = attempt.position
        of_the_past = round_ < self._round[position] or not attempt.final
        if of_the_past or self.attempts[position] or not attempt.started:
            self._keep_first_apart()
        if attempt.started:
            self.attempts[position] += 1
            if self.first_started is not self.started:
                self.ran_in_all[position] += attempt.ran
                first = self.first_started[position]
                if not first or attempt.started < first:
                    self.first_started[position] = attempt.started
        if of_the_past:
            if attempt.started:
                self.earlier.append(_bare(attempt))
            self.retries += not attempt.final
            return False
        if attempt.number != 1:  # what is not written takes no memory
            self._earlier_in_round[position] = min(max(attempt.number - 1, 0), 65_534)
        self.started[position] = attempt.started
        self.ran[position] = attempt.ran
        self.status[position] = attempt.status
        self.counts[attempt.status] += 1
        self.done += 1
        end = attempt.started + attempt.ran
        self.last_end = max(self.last_end, end)
        self._ends[round_] = max(self._ends[round_], end)
        earlier_process = end < self.attached_at
        self.attached += earlier_process
        failure = attempt.failure
        if attempt.status != CANCELLED:
            tally = self._tallies[round_]
            tally[0] += failure is not None
            tally[1] += 1
        if failure is None:
            self._value_at[position] = self._values.append(memoryview(attempt.value)) + 1
            self._durations.append(self.ran_in_all[position])
        else:
            self.failures[position] = failure
        self.order.append(position)
        return not earlier_process

    def snapshot(self) -> Snapshot:
        """What is recorded by now, all of it of one moment: handlers add to the ledger while cells read it."""
        with self._lock:
            started, ran = self.started[:], self.ran[:]
            apart = self.first_started is not self.started
            return Snapshot(
                self.total,
                bytes(self.status),
                self.attempts[:],
                self.first_started[:] if apart else started,
                started,
                ran,
                self.ran_in_all[:] if apart else ran,
                self.failures.all_bare(),
                list(self.earlier),
            )

    @contextmanager
    def held(self) -> Iterator[Snapshot]:
        """A snapshot to look at here and now. When all items have ended nobody waits to add to them, and it is no copy
        but what all add to, held still."""
        if not self.complete:
            yield self.snapshot()
            return
        with self._lock:
            yield Snapshot(
                self.total,
                bytes(self.status),
                self.attempts,
                self.first_started,
                self.started,
                self.ran,
                self.ran_in_all,
                self.failures.all_bare(),
                self.earlier,
            )

    def retime(self, position: int, started: float, ran: float) -> None:
        """Put the times of an item's last attempt right, in seconds; of what has ended."""
        with self._lock:
            if self.status[position] == PENDING or not self.started[position]:
                return
            if self.first_started is not self.started:
                if self.first_started[position] == self.started[position]:
                    self.first_started[position] = started
                self.ran_in_all[position] += ran - self.ran[position]
            self.started[position], self.ran[position] = started, ran

    def last(self, position: int) -> Attempt:
        """The last attempt at an item that has ended, without its value and its traceback."""
        return _last_attempt(self, position, self.failures.bare(position))

    def raws(self, positions: Sequence[int]) -> Iterator[bytes]:
        """The recorded values of items that went well, encoded."""
        for part in self.raws_in_parts(positions):
            yield from part

    def raws_in_parts(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[list[bytes]]:
        """The same, many at a time, and never more than some MB."""
        for begin in range(0, len(positions), AT_ONCE):
            yield from self._values.in_parts(self._places(positions[begin : begin + AT_ONCE]))

    def stored_bytes(self, positions: npt.NDArray[np.int64]) -> int:
        """How many bytes the values of these items, which went well, have in the store."""
        return self._values.stored_bytes(self._places(positions))

    def value_sizes(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many bytes the value of each of these items has, which went well, here or in the store."""
        return self._values.sizes_when_read(self._places(positions))

    def _places(self, positions: Any) -> npt.NDArray[np.int64]:
        return np.asarray(self._value_at)[np.asarray(positions, dtype=np.int64)].astype(np.int64) - 1

    def tally(self, round_: int) -> tuple[int, int]:
        """How many items failed in a round, and how many ended in it, cancelled ones left out."""
        failed, ended = self._tallies[round_]
        return failed, ended

    def busy(self, begins: Sequence[float], now: float | None) -> float:
        """For how many seconds rounds went on; the time between the end of one and the next does not count.

        Args:
            begins: when each round began, in seconds since 1970.
            now: the end of the last one, which still goes on; None when it has ended.
        """
        ends = [self._ends[number] for number in range(len(begins))]
        if now is not None:
            ends[-1] = now
        return sum(max(end - begin, 0.0) for begin, end in zip(begins, ends, strict=True))

    def gave_up(self, round_: int) -> str | None:
        """Why the job stopped in that round, when it did: too many of its items had failed."""
        for position, failure in self.failures.all_bare().items():
            if failure.type == FAIL_FAST and self.status[position] == CANCELLED and self._round[position] == round_:
                return failure.message
        return None

    def knows(self, positions: Iterable[int]) -> bool:
        """Whether all of these items have ended."""
        if isinstance(positions, range) and positions.step == 1:
            return self.status.find(PENDING, positions.start, positions.stop) < 0
        return all(self.status[position] != PENDING for position in positions)

    @property
    def complete(self) -> bool:
        """Whether all items have ended."""
        return self.done == self.total

    @property
    def failed(self) -> int:
        """How many ended with an error or a timeout."""
        return self.done - self.counts[OK] - self.counts[CANCELLED]

    def positions(self, *statuses: int) -> Iterator[int]:
        """The positions of items with one of these statuses."""
        return iter(np.flatnonzero(np.isin(np.frombuffer(bytes(self.status), dtype=np.uint8), statuses)).tolist())

    def ended_upto(self, begin: int) -> int:
        """The first position from this one on whose item has not ended; the total where all have."""
        pending = np.flatnonzero(np.frombuffer(self.status, dtype=np.uint8)[begin:] == PENDING)
        return begin + int(pending[0]) if len(pending) else self.total

    def rate(self, now: float) -> float | None:
        """Items that ended a second, over the last ten seconds; None while too little is known."""
        with self._lock:
            recent = [(when, count) for when, count in self.recent if when >= now - _RECENT_SECONDS]
        if len(recent) < 2:
            return None
        seconds = now - recent[0][0]
        return sum(count for _, count in recent[1:]) / seconds if seconds > 0.05 else None

    def percentiles(self) -> tuple[float | None, float | None]:
        """The 50th and the 95th percentile of how long the latest items ran, in seconds; None while there are none."""
        with self._lock:
            durations = sorted(self._durations)
        if not durations:
            return None, None
        return durations[len(durations) // 2], durations[len(durations) * 95 // 100]

    def error_groups(self, most: int = 5) -> tuple[ErrorGroup, ...]:
        """The most frequent kinds of failure."""
        with self._lock:
            return self.failures.groups(most)


class _Plain:
    """Some of the rows of a group that are plain successes, for numpy."""

    def __init__(self, group: Group, begin: int, end: int) -> None:
        rows = slice(begin, end)
        start = group.ends[begin - 1] if begin else 0
        self.positions = np.frombuffer(group.positions, dtype=group.positions.typecode)[rows].astype(np.int64)
        self.started = np.frombuffer(group.started)[rows]
        self.ran = np.frombuffer(group.ran)[rows]
        self.ends = np.frombuffer(group.ends, dtype=group.ends.typecode)[rows].astype(np.int64) - start
        self.values = memoryview(group.values)[start : start + int(self.ends[-1])]


def _zeros(count: int, kind: type[np.unsignedinteger[Any]]) -> memoryview:
    """A column of whole numbers; pages of memory into which nothing is written are not taken."""
    return np.zeros(count, dtype=kind).data


def _set(column: array[float], at: Any, numbers: Any) -> None:
    np.frombuffer(column)[at] = numbers


def _last_attempt(columns: Snapshot | Ledger, position: int, failure: Failure | None) -> Attempt:
    return Attempt(
        position,
        columns.attempts[position],
        columns.status[position],
        columns.started[position],
        columns.ran[position],
        failure=failure,
    )


def _bare(attempt: Attempt) -> Attempt:
    failure = None if attempt.failure is None else bare(attempt.failure)
    return Attempt(attempt.position, attempt.number, attempt.status, attempt.started, attempt.ran, failure=failure)
