"""The recorded attempts of a job, each counted once.

The handlers of this process report an attempt when it is recorded and again on every replay, and it comes once more
with the output of its shard. Columns are arrays, since a job may have a million items.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from restate_nb.engine.outbox import FAIL_FAST
from restate_nb.engine.record import CANCELLED, OK, Attempt, Failure
from restate_nb.results.failure_store import FailureStore, bare
from restate_nb.results.progress import ErrorGroup
from restate_nb.results.spool import Spool

PENDING = 255

_RECENT_SECONDS = 10.0
SAMPLE = 2_000
"""How many of the latest durations the percentiles are taken of: what the panel shows must cost the same at a million
items."""


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
        self.attempts = array("i", bytes(4 * total))  # how many were made, over all rounds
        self.first_started = array("d", bytes(8 * total))
        self.started = array("d", bytes(8 * total))  # of the last attempt
        self.ran = array("d", bytes(8 * total))  # of the last attempt
        self.ran_in_all = array("d", bytes(8 * total))
        self._values = Spool()
        self._value_at = array("q", bytes(8 * total))  # where in the spool, from 1; 0 for none
        self.failures = FailureStore()
        self.order = array("I")  # positions as they ended
        self.earlier: list[Attempt] = []  # all attempts but the last of each item, without values and tracebacks
        self.counts = Counter[int]()
        self.retries = 0
        self.done = 0
        self._round = array("H", bytes(2 * total))
        self._number = array("H", bytes(2 * total))  # of the last attempt, within its round
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
            for position in positions:
                self._reopen(position, number)

    def _reopen(self, position: int, number: int) -> None:
        if self._round[position] >= number:
            return
        if self.status[position] != PENDING:
            self._seen.add((position, self._round[position], self._number[position]))
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
            ended = 0
            for attempt in attempts:
                if self._is_new(round_, attempt):
                    ended += self._add(round_, attempt)
            if now and ended:
                self.recent.append((now, ended))
                while self.recent and self.recent[0][0] < now - _RECENT_SECONDS:
                    self.recent.popleft()
        if now:
            self.on_recorded(now)

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
        if attempt.started:
            self.attempts[position] += 1
            self.ran_in_all[position] += attempt.ran
            first = self.first_started[position]
            if not first or attempt.started < first:
                self.first_started[position] = attempt.started
        if round_ < self._round[position] or not attempt.final:
            if attempt.started:
                self.earlier.append(_bare(attempt))
            self.retries += not attempt.final
            return False
        self._number[position] = min(attempt.number, 65_535)
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
            return Snapshot(
                self.total,
                bytes(self.status),
                self.attempts[:],
                self.first_started[:],
                self.started[:],
                self.ran[:],
                self.ran_in_all[:],
                self.failures.all_bare(),
                list(self.earlier),
            )

    def retime(self, position: int, started: float, ran: float) -> None:
        """Put the times of an item's last attempt right, in seconds; of what has ended."""
        with self._lock:
            if self.status[position] == PENDING or not self.started[position]:
                return
            if self.first_started[position] == self.started[position]:
                self.first_started[position] = started
            self.ran_in_all[position] += ran - self.ran[position]
            self.started[position], self.ran[position] = started, ran

    def last(self, position: int) -> Attempt:
        """The last attempt at an item that has ended, without its value and its traceback."""
        return _last_attempt(self, position, self.failures.bare(position))

    def raws(self, positions: Sequence[int]) -> Iterator[bytes]:
        """The recorded values of items that went well, encoded."""
        yield from self._values.each(self._value_at[position] - 1 for position in positions)

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
        return (position for position, status in enumerate(self.status) if status in statuses)

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
