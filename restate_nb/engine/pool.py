"""Runs the items of a job in this process: as many at once as its limits allow, each to its last attempt.

A pool outlives the attempts of the handlers that feed it. Its runners take items from it, in threads of their own, so
all of it may be called in any thread, but for `close`; what it shares is guarded by the lock of its loop.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Container, Sequence

import msgspec

from restate_nb.engine.alarm import Alarm, Timers
from restate_nb.engine.attempt import Ended, ItemCall, RunnerName, RunningAttempt
from restate_nb.engine.limiter import Limiter, Permit, lock_of
from restate_nb.engine.loop_runner import LoopRunner
from restate_nb.engine.outbox import FAIL_FAST, Backlog, Entry, ShardQueue
from restate_nb.engine.process_runner import ProcessRunner
from restate_nb.engine.processes import Processes
from restate_nb.engine.record import CANCELLED, OK, Attempt, is_unkept
from restate_nb.engine.runner import Runner, RunnerContext
from restate_nb.engine.stacks import RunningItem, running_items
from restate_nb.engine.thread_runner import ThreadRunner
from restate_nb.engine.threads import Threads
from restate_nb.limits import Range, StopRule
from restate_nb.policy import NO_RETRY, RunPolicy

__all__ = ["ItemCall", "Pool"]

OnUnkept = Callable[[Attempt], None]
"""Called with the attempt of an item that returned what cannot be kept."""


class Pool:
    """At most `concurrency` items at once, from its queues in the order in which they were added.

    Nothing starts before `provide` has brought the function.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str = "items",
        threads: Threads | None = None,
        processes: Processes | None = None,
    ) -> None:
        """`threads`, `processes`: which it shares with other pools, and does not close; without any it has its own."""
        self._loop = loop
        self._lock = lock_of(loop)
        self._threads = threads or Threads()
        self._shares_threads = threads is not None
        self._context = RunnerContext(loop, f"rnb-{name}", self._lock)
        on_loop = LoopRunner(self._context, self)
        self._runners: dict[RunnerName, Runner] = {
            "loop": on_loop,
            "thread": ThreadRunner(self._context, self, self._threads, on_loop),
            "process": ProcessRunner(self._context, self, processes),
        }
        self._limiter = Limiter(loop, self._woken)
        self._watchdog = Alarm(loop, self._expire)
        self._retry = NO_RETRY
        self._timeout: float | None = None
        self._rule: StopRule | None = None
        self._call: ItemCall | None = None
        self._queues: weakref.WeakValueDictionary[int, ShardQueue] = weakref.WeakValueDictionary()  # by id
        self._backlog = Backlog()
        self._pending: deque[ShardQueue] = deque()  # queues with pending entries
        self._running: dict[int, RunningAttempt] = {}  # what runners have taken, by id
        self._occupied = 0  # places of `concurrency`
        self._permits: dict[int, Permit] = {}  # of items that hold a place of a shared limit, by position
        self._timers = Timers(loop)
        self._paused = False
        self.paused_on_unkept = False  # paused by itself, at a value that cannot be kept
        self._on_unkept: OnUnkept | None = None
        self._closed = False
        self._ended_items = self._failed_items = 0  # since the start, or since `reopen`
        self.stopped = ""  # why no item is started any more
        self._stopped_how: tuple[str, str, Container[int]] = "", FAIL_FAST, ()

    # ------------------------------------------------------------ what is seen of it

    @property
    def running(self) -> int:
        """How many items run now."""
        return self._occupied

    def running_positions(self) -> frozenset[int]:
        """Where the items that run now stand in the input."""
        return frozenset(each.entry.position for each in self._taken() if not each.follows)

    def _taken(self) -> list[RunningAttempt]:
        with self._lock:
            return list(self._running.values())

    @property
    def has_function(self) -> bool:
        """Whether the function is known."""
        return self._call is not None

    @property
    def concurrency(self) -> int:
        """How many items may run at once, at present where that adapts itself."""
        return self._limiter.concurrency

    @property
    def is_plain(self) -> bool:
        """Whether nothing but `concurrency` holds items up."""
        return self._limiter.is_plain

    @property
    def is_held(self) -> bool:
        """Whether nothing may begin: it is paused, or has stopped."""
        return self._paused or self._closed or bool(self.stopped)

    @property
    def waiting(self) -> bool:
        """Whether items wait that have not begun."""
        return any(queue.waiting for queue in list(self._pending))

    @property
    def hung(self) -> int:
        """Threads whose item timed out and that run on."""
        return self._context.hung

    @property
    def gil_bound(self) -> bool:
        """Whether items in threads keep the interpreter to themselves, so that more at once would not help."""
        return any(runner.gil_bound for runner in self._runners.values())

    @property
    def thread_limit(self) -> int | None:
        """How many items run at once since the machine gives no more threads or processes; None while it does."""
        return next((each.shortage for each in self._runners.values() if each.shortage is not None), None)

    @property
    def waits_for(self) -> str:
        """Which limit, other than concurrency, holds items up now; empty when none does."""
        return self._limiter.waits_for

    @property
    def paused(self) -> bool:
        """Whether it was told to start nothing."""
        return self._paused

    @property
    def retries_at(self) -> list[float]:
        """When items that failed are tried again, in seconds since 1970."""
        queues = [queue for each in self._queues.valuerefs() if (queue := each()) is not None]
        return [entry.not_before for queue in queues for entry in list(queue.delayed.values())]

    def permit(self, position: int) -> Permit | None:
        """That of the item there, by a limit that several jobs share; None when it has none."""
        return self._permits.get(position)

    def running_items(self) -> list[RunningItem]:
        """What runs now, and threads that run on after their item timed out; the longest first."""
        return running_items([each for each in self._taken() if not each.follows], self._context.hung_threads)

    @property
    def backlog_full(self) -> bool:
        """Whether items are held up, since too many outcomes wait to be recorded."""
        return self._backlog.full

    # ------------------------------------------------------------ what is told to it

    def recorded(self) -> None:
        """Outcomes of its queues were recorded."""
        if self._backlog.full:
            self.wake()

    def soon(self, call: Callable[..., None], *args: object) -> None:
        """Call a method of this pool on its own loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def provide(self, call: ItemCall, policy: RunPolicy) -> None:
        """Set the function and how it is run. Attempts that run end with what they began with."""
        with self._lock:
            before, self._call = self._call, call
            self._retry = policy.retry
            self._timeout = policy.timeout
            self._rule = policy.stop_rule
            self._limiter.set(policy)
            self._context.many_hung = self._limiter.concurrency
        self._bring(call, before is not None)

    def replace_call(self, call: ItemCall) -> None:
        """Have another executor run the same function: what has not begun. What runs ends where it is."""
        with self._lock:
            self._call = call
        self._bring(call, recall=True)

    def _bring(self, call: ItemCall, recall: bool) -> None:
        if recall:
            self._recall()
        for runner in self._runners.values():
            runner.on_new_function(call)
        self.wake()

    def set_concurrency(self, bounds: Range) -> None:
        """Change how many run at once; what runs is not stopped."""
        with self._lock:
            before = self._limiter.concurrency
            self._limiter.set_concurrency(bounds)
            now = self._context.many_hung = self._limiter.concurrency
        if now < before:
            self._recall()
        self.wake()

    def pause(self) -> None:
        """Start nothing more; what runs goes on."""
        self._paused = True
        self._recall()

    def pause_on_unkept(self, on_unkept: OnUnkept | None) -> None:
        """Pause by itself when what an item returned cannot be kept, and call with its attempt; with None never. If it
        has paused so, it goes on. Items that began with an earlier function do not count."""
        self._on_unkept = on_unkept
        if self.paused_on_unkept:
            self.resume()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = self.paused_on_unkept = False
        self.wake()

    def add(self, queue: ShardQueue) -> None:
        """Take up the entries of a queue."""
        with self._lock:
            self._queues[id(queue)] = queue
            if self.stopped:
                self._backlog.watch(queue)
                queue.stop(self.stopped)
            self._pending.append(queue)
        self.wake()

    def stop(self, reason: str, kind: str = FAIL_FAST, but: Container[int] = ()) -> None:
        """Start no further item: those that have not begun, or wait for another attempt, end as cancelled, with this
        reason. What runs is let end. For `kind` and `but` see `ShardQueue.stop`."""
        if self._stop_queues(reason, kind, but):
            self._recall()
            self.wake()

    def _stop_queues(self, reason: str, kind: str = FAIL_FAST, but: Container[int] = ()) -> bool:
        with self._lock:
            if self.stopped:
                return False
            self.stopped = reason
            self._stopped_how = reason, kind, but
            for queue in list(self._queues.values()):
                self._backlog.watch(queue)
                queue.stop(reason, kind, but)
                if queue.pending and queue not in self._pending:
                    self._pending.append(queue)
            return True

    def reopen(self) -> None:
        """Take `stop` back, for queues to come."""
        self.stopped = ""
        if self.paused_on_unkept:
            self.resume()
        self._ended_items = self._failed_items = 0

    def cancel(self, queue: ShardQueue) -> None:
        """End a queue: its items get the outcome `cancelled`, at once."""
        self._recall()
        with self._lock:
            mine = [each for each in self._running.values() if each.queue is queue and not each.over]
            self._backlog.watch(queue)
            queue.cancel({each.entry.position: each.cancelled() for each in mine})
            for attempt in mine:
                attempt.over = True
        for attempt in mine:
            attempt.owner.abandon(attempt, expired=False)

    def drop(self, queue: ShardQueue) -> None:
        """End a queue whose outcomes nobody will record."""
        self.cancel(queue)
        self._queues.pop(id(queue), None)
        self.wake()

    def close(self) -> None:
        """Stop everything and record nothing: what was in flight is run again by the next process. On the loop only."""
        with self._lock:
            self._closed = True
            self._pending.clear()
            for attempt in self._running.values():
                attempt.over = True
            self._limiter.withdraw()
            self._watchdog.cancel()
        self._timers.cancel()
        for runner in self._runners.values():
            runner.close()
        if not self._shares_threads:
            self._threads.close()

    def kill(self) -> None:
        """End its worker processes: for a pool whose loop may never come to `close` it."""
        for runner in self._runners.values():
            runner.kill()

    def wait_until_gone(self, until: float) -> bool:
        """Wait for killed worker processes to be gone, until a time on `time.monotonic`; says whether they are."""
        return all(runner.wait_until_gone(until) for runner in self._runners.values())

    # ------------------------------------------------------------ what its runners ask: see `runner.Source`

    def wake(self) -> None:
        """Have the items taken that may begin now."""
        with self._lock:
            name, room = self._may_begin()
        if room:
            self._runners[name].start(room)

    def _woken(self) -> None:
        """The limiter says that an item may begin."""
        with self._lock:
            name, room = self._may_begin()
            if not room:
                self._limiter.withdraw()
        if room:
            self._runners[name].start(room)

    def withdraw(self) -> None:
        """Nobody can take an item for now; see `runner.Source`."""
        with self._lock:
            self._limiter.withdraw()

    def _may_begin(self) -> tuple[RunnerName, int]:
        """The runner of the item whose turn it is, and how many items may begin now."""
        call = self._call
        if call is None or self._paused or self._closed or not self._backlog.has_room():
            return "loop", 0
        room, wanted = self._limiter.room(self._occupied), 0
        if room > 0:
            for queue in self._pending:
                wanted += queue.waiting
                if wanted >= room:
                    break
        if wanted and call.pick is not None:
            entry = self._first()
            if entry is None:
                return "loop", 0
            call = call.pick(entry.payload)
        return call.runner, max(0, min(wanted, room))

    def room(self, runner: RunnerName) -> int:
        """How many items wait that may begin now with this runner."""
        name, room = self._may_begin()
        return room if name == runner else 0

    def _first(self) -> Entry | None:
        """The entry whose turn it is, which stays; None where none may begin now."""
        while self._pending:
            queue = self._pending[0]
            if not queue.pending:
                if queue.load():
                    self._backlog.watch(queue)
                else:
                    self._pending.popleft()
                continue
            entry = queue.pending[0]
            if entry.not_before and (wait := entry.not_before - time.time()) > 0:
                self._delay(queue, queue.pending.popleft(), wait)
                continue
            return entry
        return None

    def take(self, runner: RunnerName, most: int = 1, *, follows: bool = False) -> list[RunningAttempt]:
        """The next attempts that may begin with this runner; see `runner.Source`."""
        taken: list[RunningAttempt] = []
        with self._lock:
            attempt = self._take(runner, follows)
            if attempt is not None:
                taken.append(attempt)
                if most > 1 and attempt.call is self._call and attempt.permit is None:
                    self._take_more(taken, most)
        if taken and (taken[0].permit is not None or taken[0].call is not self._call):
            self.wake()
        return taken

    def _take(self, runner: RunnerName, follows: bool) -> RunningAttempt | None:
        call, limiter = self._call, self._limiter
        if call is None or self._paused or self._closed or not self._backlog.has_room():
            limiter.withdraw()
            return None
        if not follows and self._occupied >= limiter.concurrency:
            limiter.withdraw()
            return None
        entry = self._first()
        if entry is None:
            limiter.withdraw()
            return None
        made_by = call if call.pick is None else call.pick(entry.payload)
        if made_by.runner != runner:
            return None
        permit = None
        if not limiter.is_plain:
            if follows or not limiter.enter():
                return None
            permit = limiter.permit()
            if permit.is_shared:
                self._permits[entry.position] = permit
        queue = self._pending[0]
        queue.pending.popleft()
        attempt = RunningAttempt(
            entry,
            self._retry,
            0.0,
            0.0,
            0.0,
            made_by,
            queue,
            self._timeout,
            self._runners[runner],
            permit,
            follows,
        )
        attempt.provided = call
        self._occupied += not follows
        self._running[id(attempt)] = attempt
        if self._timeout is not None:
            self._watchdog.set_by(self._loop.time() + self._timeout)
        return attempt

    def _take_more(self, taken: list[RunningAttempt], most: int) -> None:
        """Take what follows these, in their place, of the same queue."""
        call, queue, retry, timeout, owner = self._call, taken[0].queue, self._retry, self._timeout, taken[0].owner
        assert queue is not None
        pending, running = queue.pending, self._running
        while len(taken) < most and pending and not pending[0].not_before:
            attempt = RunningAttempt(
                pending.popleft(), retry, 0.0, 0.0, 0.0, call, queue, timeout, owner, None, True, provided=call
            )
            running[id(attempt)] = attempt
            taken.append(attempt)

    def next(self, runner: RunnerName, attempt: RunningAttempt | None, ended: Ended | None) -> RunningAttempt | None:
        """Finish one attempt, and take another; see `runner.Source`."""
        with self._lock:
            if attempt is not None:
                self._finish(attempt, ended)
            found = self._take(runner, follows=False)
        if found is not None and (found.permit is not None or self._call is not found.call):
            self.wake()
        return found

    def finish(
        self, ended: Sequence[tuple[RunningAttempt, Ended | None]], moves_up: RunningAttempt | None = None
    ) -> None:
        """Attempts have ended; see `runner.Source`."""
        with self._lock:
            if moves_up is not None and moves_up.follows:  # first, or who looks meanwhile would see a place too few
                moves_up.follows = False
                self._occupied += 1
            for attempt, how in ended:
                self._finish(attempt, how)

    def put_back(self, attempts: Sequence[RunningAttempt]) -> None:
        """These have not begun; see `runner.Source`."""
        with self._lock:
            for attempt in reversed(attempts):
                self._finish(attempt, None)
                queue = attempt.queue
                if attempt.over or queue is None or attempt.entry.position not in queue.open:
                    continue
                attempt.over = True
                queue.pending.appendleft(attempt.entry)
                if queue not in self._pending:
                    self._pending.appendleft(queue)
                if self.stopped:
                    queue.stop(*self._stopped_how)
        self.wake()

    def _release(self, permit: Permit, attempt: RunningAttempt) -> None:
        if self._permits.get(attempt.entry.position) is permit:
            del self._permits[attempt.entry.position]
        permit.release()

    def _finish(self, attempt: RunningAttempt, ended: Ended | None) -> None:
        running = self._occupied
        if self._running.pop(id(attempt), None) is not None and not attempt.follows:
            self._occupied -= 1
        if attempt.permit is not None:
            self._release(attempt.permit, attempt)
        if not attempt.over and ended is not None:
            self._record(attempt, ended, running)

    def _record(self, attempt: RunningAttempt, ended: Ended, running: int) -> None:
        self._backlog.item_ended(len(ended) if type(ended) is bytes else 0)
        queue, permit = attempt.queue, attempt.permit
        assert queue is not None
        if type(ended) is bytes and permit is None and self._rule is None:  # nearly all
            entry = attempt.entry
            queue.add_ok(entry.position, entry.number, attempt.started, attempt.ran, ended)
        else:
            report = attempt.report(ended)
            made = report.attempt
            if permit is not None:
                self._limiter.on_end(permit, made.status == OK, report.pushback, made.ran, running)
                self._context.many_hung = self._limiter.concurrency
            self._settle(attempt, queue, made)
        attempt.over = True

    def _settle(self, running: RunningAttempt, queue: ShardQueue, attempt: Attempt) -> None:
        entry, failure = running.entry, attempt.failure
        if failure is not None and failure.retry_in is not None and self.stopped:
            failure = msgspec.structs.replace(failure, retry_in=None)
            attempt = msgspec.structs.replace(attempt, failure=failure)
        counts = attempt.position in queue.open
        queue.add(attempt)
        on_unkept = self._on_unkept if running.provided is self._call else None
        if failure is not None and on_unkept is not None and is_unkept(failure):
            if not self._paused:
                self._paused = self.paused_on_unkept = True
            self.soon(on_unkept, attempt)
        if failure is not None and failure.retry_in is not None:
            if not self._closed:
                self._delay(queue, Entry(entry.position, entry.payload, entry.number + 1), failure.retry_in)
        elif counts and self._rule is not None and attempt.status != CANCELLED:
            self._ended_items += 1
            self._failed_items += failure is not None
            reason = self._rule.broken(self._failed_items, self._ended_items)
            if reason and self._stop_queues(reason):
                self.soon(self._recall)

    # ------------------------------------------------------------ times

    def _expire(self) -> None:
        """End what has run longer than it may, and look again when the next attempt will have."""
        now, nearest, expired = time.perf_counter(), math.inf, []
        with self._lock:
            for attempt in self._running.values():
                if attempt.timeout is None or attempt.over or attempt.expired:
                    continue
                begun = attempt.owner.begun_at(attempt)
                left = attempt.timeout if begun is None else begun + attempt.timeout - now
                if left <= 0:
                    expired.append(attempt)
                else:
                    nearest = min(nearest, left)
            if nearest != math.inf:
                self._watchdog.set_by(self._loop.time() + nearest)
        for attempt in expired:
            attempt.owner.abandon(attempt, expired=True)

    def _delay(self, queue: ShardQueue, entry: Entry, seconds: float) -> None:
        """Bring the entry back later."""
        if entry.position not in queue.open:
            return
        queue.delayed[entry.position] = Entry(entry.position, entry.payload, entry.number, time.time() + seconds)
        self._timers.call_in(seconds, lambda: self._bring_back(queue, entry))

    def _bring_back(self, queue: ShardQueue, entry: Entry) -> None:
        with self._lock:
            if queue.delayed.pop(entry.position, None) is None:
                return
            queue.pending.appendleft(Entry(entry.position, entry.payload, entry.number))
            if queue not in self._pending:
                self._pending.appendleft(queue)
        self.wake()

    def _recall(self) -> None:
        for runner in self._runners.values():
            runner.recall()
