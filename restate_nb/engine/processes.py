"""The worker processes of a session, which its jobs share; one thread looks after all of them.

`concurrent.futures` and loky run one queue for all of their workers. When one dies, all that is in flight is lost with
it, and a single hung worker cannot be ended. Here each worker has its own socket and its own few items, and what it was
in when it ended is known.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from restate_nb.engine import process_ends, process_frames
from restate_nb.engine.attempt import Ended, RunningAttempt
from restate_nb.engine.cpus import cpus
from restate_nb.engine.order_thread import OrderThread
from restate_nb.engine.process_feed import TARGET, Feed, Function, all_raised, ended, remote_of
from restate_nb.engine.process_frames import BadFrame, Outcomes
from restate_nb.engine.process_worker import Worker
from restate_nb.errors import WorkerDied

IDLE: Final = 10.0
"""Seconds after which a worker with nothing to do is ended, where there is one for each processor without it."""

WARM: Final = 600.0
"""Seconds after which any worker of a session is ended that had nothing to do."""

FORGET: Final = 1.0
"""Seconds after which a worker drops a function that it was sent no item of: it may hold much memory."""

GROWN: Final = 256 * 1024 * 1024
"""Bytes that a worker may have more than at its start once it has dropped its functions; else it is ended."""

REFUSALS: Final = 3
"""How often it is tried to start a worker, where there is none and the machine refuses."""

_KILLED: Final = "was killed"  # how a worker has ended: it may be another matter in a moment
_TRIES: Final = 3  # workers that end before an item begins
_TICK: Final = 0.1  # seconds between looks at what runs
_STEAL: Final = 0.01  # the same, while somebody waits for what it does not do
_REAP: Final = 0.002  # the same, while a process is about to end
_WORTH: Final = 0.003  # seconds of work for which it pays to hand them over


class Processes(OrderThread):
    """Worker processes, started as they are needed, and kept for what comes next."""

    def __init__(self, warm: float = WARM) -> None:
        """`warm`: seconds after which any worker with nothing to do is ended."""
        super().__init__("rnb-workers")
        self._warm = warm
        self._workers: set[Worker] = set()
        self._free: list[Worker] = []  # the latest last
        self._wanting: dict[Feed, None] = {}  # in turns
        self._gone = threading.Condition(self._lock)
        self._closed = False
        self._looks_at = 0.0  # on time.monotonic

    # ------------------------------------------------------------ from any thread

    def want(self, feed: Feed) -> None:
        """Items of a pool wait.

        Raises:
            RuntimeError: the machine gives no thread.
        """
        self._order(lambda: self._wanting.setdefault(feed))

    def prepare(self, feed: Feed, functions: Sequence[Function], count: int) -> None:
        """Have so many workers know these functions, before there are items.

        Raises:
            RuntimeError: the machine gives no thread.
        """
        self._order(lambda: self._prepare(feed, functions, count))

    def abandon(self, attempt: RunningAttempt) -> None:
        """End an attempt that a worker has."""
        with suppress(RuntimeError):  # then there is no thread, and so no worker
            self._order(lambda: self._abandon(attempt))

    def recall(self, feed: Feed) -> None:
        """Have what has not begun put back. From here on hardly any of it begins."""
        held = feed.workers
        for worker in held:
            worker.hold()
        if held:
            with suppress(RuntimeError):
                self._order(lambda: self._recall(feed, held))

    def leave(self, feed: Feed) -> None:
        """End the workers that have items of a pool, for good."""
        with suppress(RuntimeError):
            self._order(lambda: self._leave(feed))

    def wait_until_left(self, feed: Feed, until: float) -> bool:
        """Wait for the workers to be gone that had items of a pool; see `wait_until_gone`."""
        with self._gone:
            return self._gone.wait_for(lambda: not feed.workers, max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Kill all workers, and start none any more. Does not wait for them to be gone, and may be called again."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        self._ring()

    def wait_until_gone(self, until: float) -> bool:
        """Wait until all workers are gone, or for a time on `time.monotonic`; says whether they are."""
        with self._gone:
            return self._gone.wait_for(lambda: not self._workers, max(0.0, until - time.monotonic()))

    # ------------------------------------------------------------ the thread

    def _hear(self, data: Worker) -> None:
        data.flush()
        self._read(data)

    def _go_round(self) -> None:
        self._look()
        if self._closed:
            self._wanting.clear()
        self._feed_all()
        self._take_from_slow_ones()
        for worker in self._workers:
            self._watch(worker)

    def _is_idle(self) -> bool:
        return not self._workers and not self._wanting

    def _break_down(self, error: BaseException) -> None:
        """End all workers; the defect is what became of their items."""
        for worker in list(self._workers):
            worker.destroy()
            if worker.feed is not None:
                worker.feed.source.finish([(each, each.lost(error)) for each in worker.flight])
        with self._gone:
            self._workers.clear()
            self._free.clear()
            self._wanting.clear()
            self._gone.notify_all()

    def _pause(self) -> float | None:
        if any(worker.ends for worker in self._workers):
            return _REAP
        if len(self._free) < len(self._workers):
            return _STEAL if self._free else _TICK
        if any(worker.functions for worker in self._free):
            return FORGET / 2
        if not self._free:
            return None
        return min(IDLE, self._warm)

    def _watch(self, worker: Worker) -> None:
        """Hear of what it writes, and of room for what it is to read."""
        if worker.gone:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.has_unsent else 0)
        if self.selector.get_key(worker.socket).events != events:
            self.selector.modify(worker.socket, events, worker)

    def _read(self, worker: Worker) -> None:
        try:
            for kind, content in worker.frames():
                self._understand(worker, kind, content)
        except BadFrame as error:
            self._distrust(worker, error)
        if worker.gone:
            with suppress(KeyError):
                self.selector.unregister(worker.socket)
            self._retire(worker, "gone")

    def _understand(self, worker: Worker, kind: int, content: bytes) -> None:
        if kind == process_frames.OUTCOMES:
            self._take_in(worker, process_frames.read_outcomes(content))
        elif kind == process_frames.RETURNED:
            self._put_back(worker, worker.take_back(process_frames.read_number(content)))
            self._end_unwanted(worker)
        elif kind == process_frames.READY and not worker.ready:
            worker.ready = True
            self._has_started(worker)
        elif kind == process_frames.LOADED:
            worker.loads.discard(process_frames.read_number(content))
            self._has_started(worker)
        elif kind == process_frames.STALE:
            self._retire(worker, "stale")
        elif kind == process_frames.GROWN:
            if process_frames.read_number(content) > GROWN and worker in self._free:
                self._dismiss(worker, "grown")
        else:
            raise BadFrame(f"a frame of kind {kind}")

    def _distrust(self, worker: Worker, error: BadFrame) -> None:
        """What it writes is not ours: nobody knows what state it is in."""
        worker.fault = worker.fault or f"The worker process answered something else than it was asked: {error}."
        self._retire(worker, "faulty")
        worker.kill()

    # ------------------------------------------------------------ outcomes

    def _take_in(self, worker: Worker, group: Outcomes) -> None:
        """Attempts have ended."""
        feed: Feed | None = worker.feed
        if feed is None:
            if group.first + len(group.ended) > worker.serial:
                raise BadFrame("it reports on an item that it does not have")
            return
        found: list[tuple[RunningAttempt, Ended | None]] = []
        seconds = 0.0
        try:
            for attempt, outcome in worker.take_outcomes(group):
                found.append((attempt, ended(attempt, outcome)))
                seconds += outcome.ran
        finally:
            if found:
                feed.pace.learn(len(found), seconds)
                remote_function = feed.function(remote_of(found[-1][0].call))
                remote_function.deaths = 0
                self._finish(worker, feed, found)
                if any(type(how) is not bytes for _, how in found) and not worker.ends:
                    worker.recall() if feed.source.is_held else worker.release()

    def _finish(self, worker: Worker, feed: Feed, found: Sequence[tuple[RunningAttempt, Ended | None]]) -> None:
        moves_up = worker.flight[0] if worker.flight else None
        if moves_up is not None and not moves_up.started:
            moves_up.begin()
        feed.source.finish(found, moves_up)
        self._wanting.setdefault(feed)
        if moves_up is None and not worker.ends:
            self._set_free(worker)

    def _put_back(self, worker: Worker, attempts: list[RunningAttempt]) -> None:
        """It has not begun these."""
        feed: Feed | None = worker.feed
        if feed is None or not attempts:
            return
        feed.source.put_back(attempts)
        if not worker.flight and not worker.ends:
            self._set_free(worker)

    def _set_free(self, worker: Worker) -> None:
        feed = worker.feed
        worker.unwanted.clear()
        worker.free_since = time.monotonic()
        self._free.append(worker)
        self._discard(feed, worker)

    def _discard(self, feed: Feed, worker: Worker) -> None:
        with self._gone:
            feed.discard(worker)
            self._gone.notify_all()

    # ------------------------------------------------------------ items

    def _feed_all(self) -> None:
        """Give each pool's items to workers, the pools in turns."""
        while self._wanting:
            feed = next(iter(self._wanting))
            del self._wanting[feed]
            if self._feed_one(feed):
                self._wanting[feed] = None  # its next turn is after the others'
            elif feed.has_freed:
                feed.has_freed = False
                feed.source.wake()  # another runner may take what this one does not
        for worker in self._workers:
            feed = worker.feed
            if feed is None or worker.ends or worker.recalls or not feed.pace.is_quick:
                continue
            if feed.pace.lasts(len(worker.flight)) < TARGET and feed.source.is_plain:
                more = feed.source.take("process", feed.pace.count(), follows=True)
                if more:
                    self._give(worker, feed, more)

    def _feed_one(self, feed: Feed) -> bool:
        """Give one worker a batch; whether there may be more to give."""
        worker = self._fit(feed)
        if worker is None and not feed.broken:
            return self._start_for(feed)
        attempts = feed.source.take("process", 1 if worker is None else feed.pace.count())
        if not attempts:
            return False
        if worker is None:
            feed.print_last_words(attempts[0])
            feed.source.finish(all_raised(attempts, WorkerDied(feed.broken)))
            feed.broken = "" if feed.once else feed.broken
            return True
        self._give(worker, feed, attempts)
        return True

    def _start_for(self, feed: Feed) -> bool:
        """Have as many workers start, or load the function, as items may begin. Whether more is to be done at once."""
        with feed.context.lock:
            room = feed.source.room("process")
        while feed.starting < room:
            if self._free:
                self._teach(self._free[-1], feed)
                continue
            if not feed.may_start(len(feed.workers) + feed.starting):
                break
            try:
                self._start(feed)
            except (OSError, MemoryError) as error:
                return self._refused(feed, error)
        return False

    def _fit(self, feed: Feed) -> Worker | None:
        """A free worker for a pool."""
        for worker in [each for each in self._free if not feed.suits(each)]:
            self._dismiss(worker, "of an older place")
        best = [each for each in self._free if each.functions.keys() >= set(feed.prepared)]
        return best[-1] if best else None

    def _start(self, feed: Feed) -> None:
        worker = Worker()
        with self._lock:
            self._workers.add(worker)
            closed = self._closed
        self.selector.register(worker.socket, selectors.EVENT_READ, worker)
        if closed:
            worker.kill()
        self._teach(worker, feed)

    def _teach(self, worker: Worker, feed: Feed) -> None:
        """Have a worker load what is known of a pool's functions; it gets no items before it has."""
        worker.starts_for, worker.owner = feed, feed.owner
        feed.starting += 1
        if worker in self._free:
            self._free.remove(worker)
        for function in feed.prepared:
            if function not in worker.functions:
                worker.functions[function] = time.monotonic()
                worker.loads.add(function.id)
                worker.send(process_frames.function_frame(function.id, function.owner, function.pickled))
        self._has_started(worker)

    def _has_started(self, worker: Worker) -> None:
        """It may get items, if it reads what it is sent and has loaded what it is to."""
        feed: Feed | None = worker.starts_for
        if feed is None or worker.loads or not worker.ready:
            return
        worker.starts_for = None
        feed.starting -= 1
        feed.refusals = feed.deaths = 0
        if not worker.ends:
            worker.free_since = time.monotonic()
            self._free.append(worker)
        self._wanting.setdefault(feed)

    def _refused(self, feed: Feed, error: BaseException) -> bool:
        """The machine gives no worker. Those that there are go on; where there is none, it is tried again first. Says
        whether items fail of it."""
        feed.refusals += 1
        if self._workers or feed.refusals < REFUSALS:
            feed.refused(len(feed.workers) + feed.starting)
            return False
        feed.refusals = 0
        says = (
            f"No worker process can be started: {error}. The machine has no more memory, processes or open files for "
            "it: end other programs, or run fewer items at once with concurrency=."
        )
        with feed.context.lock:
            room = feed.source.room("process")
        failed = [each for _ in range(room) for each in feed.source.take("process")]
        feed.source.finish(all_raised(failed, WorkerDied(says)))
        return bool(failed)

    def _give(self, worker: Worker, feed: Feed, attempts: list[RunningAttempt]) -> None:
        """Send a worker a batch."""
        follows = bool(worker.flight)
        batch = feed.batch(worker, attempts)
        if batch.failed:
            feed.print_last_words(batch.failed[0][0])
            first = not follows and batch.failed[0][0] is attempts[0]
            feed.source.finish(batch.failed, batch.sent[0] if first and batch.sent else None)
            self._wanting.setdefault(feed)
        if batch.sent:
            if not follows:
                self._free.remove(worker)
                feed.add(worker)
                batch.sent[0].begin()
            worker.flight.extend(batch.sent)
            worker.send(*batch.frames)

    def _prepare(self, feed: Feed, functions: Sequence[Function], count: int) -> None:
        """Start workers early, and have them load the functions. Where that fails it will be seen with an item."""
        feed.prepared = list(functions)
        self._fit(feed)
        others = [each for each in self._free if not each.functions.keys() >= set(functions)]
        count -= len(self._free) - len(others)  # an item may have come before this, and taught them
        while others and feed.starting < count:
            self._teach(others.pop(), feed)
        while feed.starting < count and feed.may_start(feed.starting) and not self._closed:
            try:
                self._start(feed)
            except (OSError, MemoryError):
                return

    def _take_from_slow_ones(self) -> None:
        """Where a worker has nothing to do, take back what others have not begun, so that it gets that."""
        if not self._free or self._wanting:
            return
        for worker in self._workers:
            feed, waiting = worker.feed, len(worker.flight) - 1
            if feed is None or waiting < 1 or worker.ends or worker.recalls:
                continue
            if len(feed.workers) >= feed.source.concurrency or not feed.source.is_plain:
                continue
            begun = worker.begun()
            stuck = begun is not None and time.perf_counter() - begun.clock > TARGET
            if stuck or feed.pace.lasts(waiting) > _WORTH:
                worker.recall(0 if stuck else waiting // 2)
                return

    # ------------------------------------------------------------ what is asked for

    def _abandon(self, attempt: RunningAttempt) -> None:
        worker, serial = attempt.place or (None, 0)
        if worker in self._workers and worker.serial <= serial < worker.serial + len(worker.flight):
            worker.unwanted.add(serial)
            self._end_unwanted(worker)

    def _end_unwanted(self, worker: Worker) -> None:
        """Kill a worker that is in an item which is to end; if it is in another, take back what it has not begun."""
        worker.unwanted = {each for each in worker.unwanted if each >= worker.serial}
        if not worker.unwanted or worker.ends:
            return
        if not worker.recalls:
            worker.recall()
        begun = worker.begun()
        if begun is not None and worker.serial in worker.unwanted:
            self._retire(worker, "unwanted")
            worker.kill()

    def _recall(self, feed: Feed, held: Sequence[Worker]) -> None:
        for worker in held:
            if worker in self._workers and not worker.ends:
                worker.recall(0 if worker.feed is feed else len(worker.flight))

    def _leave(self, feed: Feed) -> None:
        self._wanting.pop(feed, None)
        for worker in feed.workers:
            self._retire(worker, "left")
            worker.kill()

    def _retire(self, worker: Worker, why: str) -> None:
        """It gets no items any more, since it ends."""
        worker.expect_end(why)
        if worker in self._free:
            self._free.remove(worker)
        self._looks_at = 0.0

    def _dismiss(self, worker: Worker, why: str) -> None:
        """End a free worker."""
        self._retire(worker, why)
        worker.end(why)

    # ------------------------------------------------------------ looks

    def _look(self) -> None:
        """See what has happened without a frame."""
        now = time.monotonic()
        if now < self._looks_at:
            return
        for worker in list(self._workers):
            if worker.has_ended():
                self._bury(worker)
            elif worker.ends:
                if now > worker.ends_by:
                    worker.kill()
            elif worker.feed is not None:
                self._look_at(worker)
        self._end_idle(now)
        self._looks_at = now + min(self._pause() or 0.0, _TICK)

    def _end_idle(self, now: float) -> None:
        surplus = len(self._free) - cpus()
        for number, worker in enumerate(list(self._free)):
            idle = now - worker.free_since
            if idle >= (min(IDLE, self._warm) if number < surplus else self._warm):
                self._dismiss(worker, "idle")
            elif worker.functions and idle >= FORGET:
                functions = [each.id for each in worker.functions]
                worker.functions.clear()
                worker.send(process_frames.forget_frame(functions))

    def _look_at(self, worker: Worker) -> None:
        """Read what an item prints while it runs; and outcomes that no frame has told of, since it takes long."""
        if worker.lags:
            try:
                kept = worker.shared.kept()
                if kept is not None and kept.first <= worker.serial:  # else a frame is on its way
                    self._take_in(worker, kept)
            except BadFrame as error:
                self._distrust(worker, error)
                return
        worker.forward_running()
        self._end_unwanted(worker)

    def _bury(self, worker: Worker) -> None:
        """A process has ended: what it was in is known, what it had not begun is put back."""
        worker.has_more = True
        while worker.has_more and not worker.gone and not worker.fault:
            self._read(worker)
        if not worker.gone:  # a process that it has started holds the socket open
            self.selector.unregister(worker.socket)
            worker.gone = True
        self._retire(worker, "gone")
        with suppress(BadFrame):
            kept = worker.shared.kept()
            if kept is not None:
                self._take_in(worker, kept)
        feed: Feed | None = worker.feed
        begun = max(0, worker.shared.count - worker.serial)
        flight = list(worker.flight)
        loading = worker.shared.loading
        worker.begun()  # tells the attempt when that was
        if flight:
            worker.forward_rest(flight[max(0, begun - 1)])
        elif worker.starts_for is not None:
            worker.starts_for.last_words = worker.last_words()
        how = worker.reap()
        if feed is not None:
            found = [(each, process_ends.ended(worker, each, how)) for each in flight[:begun]]
            worker.flight.clear()
            feed.source.finish(found)
        early = worker.ends == "gone" and not begun
        if worker.starts_for is not None:
            self._wanting.setdefault(process_ends.note_not_started(worker, how))
        failed = process_ends.note_early(worker, flight[:1], loading, how) if early else []
        with self._gone:
            self._workers.discard(worker)
            if feed is not None:
                feed.discard(worker)
            self._gone.notify_all()
        if feed is not None:
            if failed:
                feed.source.finish(failed)
            feed.source.put_back(flight[begun + len(failed) :])
            self._wanting.setdefault(feed)
