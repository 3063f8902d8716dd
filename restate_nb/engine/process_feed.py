"""What one pool has in worker processes: its functions there, and how many items make a batch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from restate_nb.engine import process_frames
from restate_nb.engine.attempt import Ended, ItemCall, Remote, Report, RunningAttempt
from restate_nb.engine.process_frames import Outcome
from restate_nb.engine.process_worker import Worker, print_for
from restate_nb.engine.record import OK, Attempt
from restate_nb.engine.runner import RunnerContext, Source
from restate_nb.engine.surroundings import here
from restate_nb.errors import WorkerDied

TARGET: Final = 0.03
"""Seconds of work in a batch: a hundred times what it costs to hand it over."""

_MOST: Final = 2_000  # items of a batch
_MOST_BYTES: Final = 1 << 20
_GROWTH: Final = 8  # times as many as in the batch before, at most
_OVERHEAD: Final = 10e-6  # seconds that an item costs beside its function

_numbers = itertools.count(1)


class Pace:
    """How long the items take, and so how many make a batch.

    Attributes:
        seconds: that an item takes, the latest more than earlier ones; None while none has ended.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._bytes = 0.0
        self._last = 1

    def learn(self, count: int, seconds: float) -> None:
        """So many items have taken so long, all together."""
        mean = seconds / count + _OVERHEAD
        if self.seconds is None:
            self.seconds = mean
        else:
            weight = 0.5 if mean < self.seconds or count > 8 else 0.25
            self.seconds += weight * (mean - self.seconds)

    def sent(self, count: int, size: int) -> None:
        """A batch of so many items was sent, of so many bytes."""
        self._last = max(count, 1)
        self._bytes = max(size / max(count, 1), self._bytes * 0.9)

    @property
    def is_quick(self) -> bool:
        """Whether a worker should have more than one item."""
        return self.seconds is not None and self.seconds < TARGET

    def count(self) -> int:
        """How many items the next batch has."""
        if self.seconds is None:
            return 1
        by_time = TARGET / self.seconds
        by_size = _MOST_BYTES / max(self._bytes, 1.0)
        return max(1, int(min(by_time, by_size, self._last * _GROWTH, _MOST)))

    def lasts(self, count: int) -> float:
        """How many seconds so many items will take."""
        return count * (self.seconds or 0.0)


class Function:
    """A function that workers are to know.

    Attributes:
        id: by which frames name it.
        owner: by which workers know whether it is of the same job as the one before.
        pickled: what they get.
        deaths: how many workers have ended in a row before they could call it.
        broken: why it is not tried any more; empty while it is.
    """

    def __init__(self, pickled: bytes, owner: int) -> None:
        self.id = next(_numbers)
        self.owner = owner
        self.pickled = pickled
        self.deaths = 0
        self.broken = ""


class Batch(NamedTuple):
    """What is sent at once.

    Attributes:
        sent: the attempts.
        failed: how those end that cannot be sent.
        frames: what is written.
    """

    sent: list[RunningAttempt]
    failed: list[tuple[RunningAttempt, Ended | None]]
    frames: list[bytes]


class Feed:
    """One pool's use of worker processes. All but `workers` is used by their one thread.

    Attributes:
        source: the pool.
        context: what it shares with its runners.
        may_start: says whether a worker may be started, beside so many.
        refused: called when the machine gave none, with how many there are.
        pace: of its items.
        owner: the number of its present functions, which are brought together.
        provided: when they were, on `time.monotonic`.
        place: where that was.
        prepared: those of them that a worker may load before there are items.
        workers: those that have items of it.
        starting: how many are being started for it.
        refusals: how often in a row the machine gave no worker although there was none.
        deaths: how many workers have ended in a row that were started for it, before they were ready.
        broken: why no more are started; empty while they are.
        last_words: what the last of them has printed, by stream.
        once: whether that counts for one item only, since it may be another matter in a moment.
        has_freed: whether a place of `concurrency` was given back, and nobody was told.
    """

    def __init__(
        self, source: Source, context: RunnerContext, may_start: Callable[[int], bool], refused: Callable[[int], None]
    ) -> None:
        self.source = source
        self.context = context
        self.may_start = may_start
        self.refused = refused
        self.pace = Pace()
        self.workers: tuple[Worker, ...] = ()
        self.starting = self.refusals = 0
        self.last_words: list[tuple[str, str]] = []
        self.has_freed = False
        self._functions: dict[bytes, Function] = {}
        self.renew()

    def renew(self) -> None:
        """Functions are brought anew: what they import may be another by now."""
        self._functions = {}
        self.prepared: list[Function] = []
        self.deaths, self.broken, self.once = 0, "", False
        self.owner = next(_numbers)
        self.provided = time.monotonic()
        self.place = here()

    def function(self, remote: Remote) -> Function:
        """The function of a call."""
        found = self._functions.get(remote.function)
        if found is None:
            found = self._functions[remote.function] = Function(remote.function, self.owner)
        return found

    def print_last_words(self, attempt: RunningAttempt) -> None:
        """Print what a worker printed that ended before it got an item, for this one."""
        words, self.last_words = self.last_words, []
        for stream, text in words:
            if text:
                print_for(attempt, stream, text)

    def batch(self, worker: Worker, attempts: list[RunningAttempt]) -> Batch:
        """What is to be sent to a worker, for these attempts; where it knows a function not yet, with that."""
        sent, frames, items, size = [], [], [], 0
        failed: list[tuple[RunningAttempt, Ended | None]] = []
        serial, now = worker.serial + len(worker.flight), time.monotonic()
        remote: Remote | None = None
        function: Function | None = None
        for attempt in attempts:
            entry = attempt.entry
            called = remote_of(attempt.call)
            if function is None or remote is not called:
                remote = called
                function = self.function(remote)
                if function not in worker.functions and not function.broken:
                    frames.append(process_frames.function_frame(function.id, function.owner, function.pickled))
                worker.functions[function] = now
            try:
                if function.broken:
                    raise WorkerDied(function.broken)
                payload = called.pack(entry.payload)
            except BaseException as error:  # of the user's classes
                failed += all_raised([attempt], error)
                continue
            attempt.place = worker, serial
            serial += 1
            sent.append(attempt)
            items.append((function.id, entry.position, entry.number, payload))
            size += len(payload)
        if items:
            frames.append(process_frames.batch_frame(items))
            self.pace.sent(len(items), size)
        return Batch(sent, failed, frames)

    def suits(self, worker: Worker) -> bool:
        """Whether a worker is where the functions were brought, or a later place."""
        return worker.owner == self.owner or worker.started >= self.provided or worker.place == self.place

    def add(self, worker: Worker) -> None:
        """A worker has items of it."""
        worker.feed = self
        worker.owner = self.owner
        self.workers += (worker,)

    def discard(self, worker: Worker) -> None:
        """It has none any more."""
        worker.feed = None
        self.has_freed = True
        self.workers = tuple(each for each in self.workers if each is not worker)


def remote_of(call: ItemCall | None) -> Remote:
    """What workers call."""
    assert call is not None
    assert call.remote is not None
    return call.remote


def ended(attempt: RunningAttempt, outcome: Outcome) -> Ended:
    """How an attempt has ended, by what its worker has written."""
    attempt.started, attempt.ran = outcome.started, outcome.ran
    if outcome.status == OK:
        return outcome.value
    position, number, status = outcome.position, outcome.number, outcome.status
    attempt_ = Attempt(position, number, status, outcome.started, outcome.ran, failure=outcome.failure)
    return Report(attempt_, outcome.pushback)


def all_raised(attempts: Sequence[RunningAttempt], error: BaseException) -> list[tuple[RunningAttempt, Ended | None]]:
    """Attempts that could not begin, each with the error."""
    for attempt in attempts:
        if not attempt.started:
            attempt.begin()
    return [(attempt, attempt.raised(error)) for attempt in attempts]
