"""Runs the items of a job in this process: as many at once as its limits allow, each to its last attempt.

A pool outlives the attempts of the handlers that feed it. It belongs to one event loop; everything but the read-only
counts is called there, or through `Pool.soon` from another thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Container
from typing import Final

import msgspec

from restate_nb.engine.attempt import Attempts, ItemCall
from restate_nb.engine.backlog import Backlog
from restate_nb.engine.outbox import FAIL_FAST, Entry, ShardQueue, cancelled
from restate_nb.engine.record import CANCELLED, Attempt, is_unkept
from restate_nb.engine.stacks import RunningItem, running_items
from restate_nb.engine.thread_runner import NoThread, Threads
from restate_nb.engine.throttle import Passage, Throttle
from restate_nb.engine.trial import Report, went_wrong
from restate_nb.limits import Range, StopRule
from restate_nb.policy import NO_RETRY, RunPolicy

__all__ = ["ItemCall", "Pool"]

ToldUnkept = Callable[[Attempt], None]
"""Told of an item that returned what cannot be kept."""

_TURN: Final = 0.005
"""Seconds that items which never wait may keep the loop for themselves."""

_GROW: Final = 0.5
"""Seconds after which one item more is tried, where the machine gave no thread for it."""


class _Running(msgspec.Struct, frozen=True, gc=False):
    lane: ShardQueue
    entry: Entry
    started: float
    clock: float


class Pool:
    """At most `concurrency` items at once, from its lanes in the order in which they were added.

    Nothing starts before `provide` has brought the function.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "items", threads: Threads | None = None) -> None:
        """`threads`: which it shares with other pools, and does not close; without any it has its own."""
        self._loop = loop
        self._threads = threads or Threads()
        self._shares_threads = threads is not None
        self._running: dict[asyncio.Task[None], _Running | None] = {}
        self._attempts = Attempts(loop, f"rnb-{name}", self._threads, self._running)
        self._throttle = Throttle(loop, self._woken)
        self._rule: StopRule | None = None
        self._work: ItemCall | None = None
        self._lanes: weakref.WeakValueDictionary[int, ShardQueue] = weakref.WeakValueDictionary()  # by id
        self._backlog = Backlog()
        self._queue: deque[ShardQueue] = deque()  # lanes with pending entries
        self._passages: dict[int, Passage] = {}  # of items that hold a place of a shared limit, by position
        self._fresh = 0  # workers that have not looked for an item yet
        self._timers: set[asyncio.TimerHandle] = set()
        self._paused = False
        self.held = False  # paused by itself, at a value that cannot be kept
        self._told_unkept: ToldUnkept | None = None
        self._closed = False
        self._turn = 0.0
        self._bearable = sys.maxsize  # how many at once the machine has threads for
        self._growing: asyncio.TimerHandle | None = None
        self._ended_items = self._failed_items = 0  # since the start, or since `reopen`
        self.stopped = ""  # why no item is started any more

    # ------------------------------------------------------------ from any thread

    @property
    def running(self) -> int:
        """How many items run now."""
        return sum(1 for each in list(self._running.values()) if each is not None)

    def running_positions(self) -> frozenset[int]:
        """Where the items that run now stand in the input."""
        return frozenset(each.entry.position for each in list(self._running.values()) if each is not None)

    @property
    def has_work(self) -> bool:
        """Whether the function is known."""
        return self._work is not None

    @property
    def concurrency(self) -> int:
        """How many items may run at once, at present where that adapts itself."""
        return self._throttle.limit

    @property
    def hung(self) -> int:
        """Threads whose item timed out and that run on."""
        return self._attempts.hung

    @property
    def scarce(self) -> int | None:
        """How many items run at once since the machine gives no more threads or processes; None while it does."""
        return self._bearable if self._growing is not None else None

    @property
    def waits_for(self) -> str:
        """Which limit, other than concurrency, holds items up now; empty when none does."""
        return self._throttle.waits_for

    @property
    def paused(self) -> bool:
        """Whether it was told to start nothing."""
        return self._paused

    @property
    def resting(self) -> list[float]:
        """When items that failed are tried again, in seconds since 1970."""
        lanes = [lane for each in self._lanes.valuerefs() if (lane := each()) is not None]
        return [entry.not_before for lane in lanes for entry in list(lane.resting.values())]

    def passage(self, position: int) -> Passage | None:
        """How the item there came in by a limit that several jobs share; None when it did not."""
        return self._passages.get(position)

    def running_items(self) -> list[RunningItem]:
        """What runs now, and threads that run on after their item timed out; the longest first."""
        running = [(task, each.entry, each.started) for task, each in list(self._running.items()) if each is not None]
        return running_items(running, dict(self._attempts.threads))

    @property
    def overfull(self) -> bool:
        """Whether items are held up, since too many outcomes wait to be recorded."""
        return self._backlog.full

    def recorded(self) -> None:
        """Outcomes of its lanes were recorded."""
        if self._backlog.full:
            self.soon(self._start_workers)

    def soon(self, call: Callable[..., None], *args: object) -> None:
        """Call a method of this pool on its own loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    # ------------------------------------------------------------ on the pool's loop

    def provide(self, work: ItemCall, policy: RunPolicy) -> None:
        """Set the function and how it is run. Attempts that run end with what they began with."""
        self._work = work
        self._attempts.renew()
        self._set_policy(policy)
        self._start_workers()

    def _set_policy(self, policy: RunPolicy) -> None:
        self._attempts.retry = policy.retry
        self._attempts.timeout = policy.timeout
        self._rule = policy.stop_rule
        self._throttle.set(policy)
        self._attempts.bearable = self._throttle.limit

    def set_concurrency(self, bounds: Range) -> None:
        """Change how many run at once; what runs is not stopped."""
        self._throttle.set_concurrency(bounds)
        self._attempts.bearable = self._throttle.limit
        self._start_workers()

    def pause(self) -> None:
        """Start nothing more; what runs goes on."""
        self._paused = True

    def hold(self, told: ToldUnkept | None) -> None:
        """Pause by itself when what an item returned cannot be kept, and tell so; with None never. If it has, it goes
        on. Items that began with an earlier function do not count."""
        self._told_unkept = told
        if self.held:
            self.resume()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = self.held = False
        self._start_workers()

    def add(self, lane: ShardQueue) -> None:
        """Take up a lane's entries."""
        self._lanes[id(lane)] = lane
        if self.stopped:
            self._backlog.watch(lane)
            lane.stop(self.stopped)
        self._queue.append(lane)
        self._start_workers()

    def stop(self, reason: str, kind: str = FAIL_FAST, but: Container[int] = ()) -> None:
        """Start no further item: those that have not begun, or wait for another attempt, end as cancelled, with this
        reason. What runs is let end. For `kind` and `but` see `Lane.stop`."""
        if not self.stopped:
            self.stopped = reason
            for lane in list(self._lanes.values()):
                self._backlog.watch(lane)
                lane.stop(reason, kind, but)
                if lane.pending and lane not in self._queue:
                    self._queue.append(lane)
            self._start_workers()

    def reopen(self) -> None:
        """Take `stop` back, for lanes to come."""
        self.stopped = ""
        if self.held:
            self.resume()
        self._ended_items = self._failed_items = 0

    def cancel(self, lane: ShardQueue) -> None:
        """End a lane: its items get the outcome `cancelled`, at once."""
        now = time.perf_counter()
        mine = {task: each for task, each in self._running.items() if each is not None and each.lane is lane}
        records = {
            each.entry.position: cancelled(each.entry.position, each.entry.number, each.started, now - each.clock)
            for each in mine.values()
        }
        self._backlog.watch(lane)
        lane.cancel(records)
        for task in mine:
            self._cut(task)

    def _cut(self, task: asyncio.Task[None]) -> None:
        self._attempts.cut.add(task)
        task.cancel()

    def drop(self, lane: ShardQueue) -> None:
        """End a lane whose outcomes nobody will record."""
        self.cancel(lane)
        self._lanes.pop(id(lane), None)
        self._start_workers()

    def close(self) -> None:
        """Stop everything and record nothing: what was in flight is run again by the next process."""
        self._closed = True
        self._queue.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._growing is not None:
            self._growing.cancel()
        for task in self._running:
            self._cut(task)
        self._throttle.withdraw()
        self._attempts.close()
        if not self._shares_threads:
            self._threads.close()

    def kill(self) -> None:
        """End its worker processes, from any thread: for a pool whose loop may never come to `close` it."""
        self._attempts.kill()

    def wait_until_gone(self, until: float) -> bool:
        """Wait for killed worker processes to be gone, until a time on `time.monotonic`; says whether they are."""
        return self._attempts.wait_until_gone(until)

    # ------------------------------------------------------------ workers

    def _start_workers(self) -> None:
        if self._work is None or self._paused or self._closed or not self._backlog.has_room():
            return
        spare = self._bearable - len(self._running)
        wanted = 0
        for lane in self._queue:
            wanted += lane.waits
            if wanted >= self._throttle.limit:
                break
        for _ in range(min(wanted, spare, self._throttle.room(len(self._running), self._fresh))):
            task = self._loop.create_task(self._worker(), context=contextvars.Context())
            self._running[task] = None
            self._fresh += 1
            task.add_done_callback(self._ended)

    def _woken(self) -> None:
        self._start_workers()
        if not self._fresh:
            self._throttle.withdraw()

    def _ended(self, task: asyncio.Task[None]) -> None:
        running = self._running.pop(task, None)
        self._attempts.cut.discard(task)
        if running is not None and not self._closed and running.entry.position in running.lane.open:
            self._rescue(task, running)
        self._start_workers()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GeneratorExit):  # that of an item's task closes all it passes
            raise error  # a defect of this module: the loop's exception handler reports it

    def _rescue(self, task: asyncio.Task[None], running: _Running) -> None:
        """A worker has ended without a report on its item, by a defect: then the defect is what became of the item."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        entry = running.entry
        report = went_wrong(
            entry.position,
            entry.number,
            error or RuntimeError("restate_nb has lost this item: please report it."),
            NO_RETRY,
            started=running.started,
            clock=running.clock,
        )
        self._backlog.grow()
        assert self._work is not None  # a worker runs only then
        self._settle(self._work, running.lane, entry, report)

    def _next(self) -> tuple[ShardQueue, Entry] | None:
        if (
            not (self._paused or self._closed or len(self._running) > self._throttle.limit)
            and (self._growing is None or len(self._running) <= self._bearable)
            and self._backlog.has_room()
        ):
            while self._queue:
                lane = self._queue[0]
                if not lane.pending:
                    if lane.begin():
                        self._backlog.watch(lane)
                    else:
                        self._queue.popleft()
                    continue
                entry = lane.pending[0]
                if entry.not_before and (wait := entry.not_before - time.time()) > 0:
                    self._rest(lane, lane.pending.popleft(), wait)
                    continue
                if not self._throttle.enter():
                    return None
                return lane, lane.pending.popleft()
        self._throttle.withdraw()
        return None

    async def _worker(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._fresh -= 1
        while (found := self._next()) is not None:
            lane, entry = found
            work = self._work
            assert work is not None
            self._running[task] = _Running(lane, entry, time.time(), time.perf_counter())
            try:
                if self._throttle.open:
                    report = await self._attempts.run(work, entry)
                else:
                    report = await self._throttled(work, entry)
            except NoThread:
                self._running[task] = None
                self._put_back(lane, entry)
                return
            self._running[task] = None
            self._backlog.grow()
            if report.attempt.failure is None and self._rule is None:
                lane.put(report.attempt)
            else:
                self._settle(work, lane, entry, report)
            if task.cancelling():
                return  # the item did not let itself be cancelled; this task must not go on half-cancelled
            if time.perf_counter() - self._turn > _TURN:
                await asyncio.sleep(0)
                self._turn = time.perf_counter()

    def _put_back(self, lane: ShardQueue, entry: Entry) -> None:
        """The machine has no thread for this item: run as many at once as there are, and look for more later."""
        if entry.position in lane.open:
            lane.pending.appendleft(entry)
            if lane not in self._queue:
                self._queue.appendleft(lane)
        self._bearable = sum(1 for each in self._running.values() if each is not None)
        if self._growing is None and not self._closed:
            self._growing = self._loop.call_later(_GROW, self._grow)

    def _grow(self) -> None:
        self._growing = None
        self._bearable += max(1, self._bearable // 4)
        if self._bearable >= self._throttle.limit:
            self._bearable = sys.maxsize
        else:
            self._growing = self._loop.call_later(_GROW, self._grow)
        self._start_workers()

    async def _throttled(self, work: ItemCall, entry: Entry) -> Report:
        passage = self._throttle.passage()
        if passage.counts:
            self._passages[entry.position] = passage
        self._start_workers()
        try:
            report = await self._attempts.run(work, entry)
        finally:
            passage.leave()
            self._passages.pop(entry.position, None)
        if self._throttle.learn(passage, report, len(self._running)):
            self._attempts.bearable = self._throttle.limit
            self._start_workers()
        return report

    def _settle(self, work: ItemCall, lane: ShardQueue, entry: Entry, report: Report) -> None:
        attempt = report.attempt
        failure = attempt.failure
        if failure is not None and failure.retry_in is not None and self.stopped:
            failure = msgspec.structs.replace(failure, retry_in=None)
            attempt = msgspec.structs.replace(attempt, failure=failure)
        counts = attempt.position in lane.open
        lane.put(attempt)
        if failure is not None and self._told_unkept is not None and work is self._work and is_unkept(failure):
            if not self._paused:
                self._paused = self.held = True
            self._told_unkept(attempt)
        if failure is not None and failure.retry_in is not None:
            if not self._closed:
                self._rest(lane, Entry(entry.position, entry.payload, entry.number + 1), failure.retry_in)
        elif counts and self._rule is not None and attempt.status != CANCELLED:
            self._ended_items += 1
            self._failed_items += failure is not None
            if reason := self._rule.broken(self._failed_items, self._ended_items):
                self.stop(reason)

    def _rest(self, lane: ShardQueue, entry: Entry, seconds: float) -> None:
        """Bring the entry back later."""
        if entry.position not in lane.open:
            return
        lane.resting[entry.position] = Entry(entry.position, entry.payload, entry.number, time.time() + seconds)

        def ready() -> None:
            self._timers.discard(timer)
            if lane.resting.pop(entry.position, None) is not None:
                lane.pending.appendleft(Entry(entry.position, entry.payload, entry.number))
                if lane not in self._queue:
                    self._queue.appendleft(lane)
                self._start_workers()

        timer = self._loop.call_later(seconds, ready)
        self._timers.add(timer)
