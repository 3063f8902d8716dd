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
from collections.abc import Callable, Container, Coroutine
from typing import Any, Final

import msgspec

from restate_nb.engine.attempt import ItemCall, Report, RunnerName, RunningAttempt
from restate_nb.engine.limiter import Limiter, Permit
from restate_nb.engine.loop_runner import LoopRunner
from restate_nb.engine.outbox import FAIL_FAST, Backlog, Entry, ShardQueue
from restate_nb.engine.process_runner import ProcessRunner
from restate_nb.engine.record import CANCELLED, Attempt, is_unkept
from restate_nb.engine.runner import Runner, RunnerContext
from restate_nb.engine.stacks import RunningItem, running_items
from restate_nb.engine.thread_runner import NoThread, ThreadRunner, Threads
from restate_nb.limits import Range, StopRule
from restate_nb.policy import NO_RETRY, RunPolicy

__all__ = ["ItemCall", "Pool"]

OnUnkept = Callable[[Attempt], None]
"""Called with the attempt of an item that returned what cannot be kept."""

_TURN: Final = 0.005
"""Seconds that items which never wait may keep the loop for themselves."""

GROW_SECONDS: Final = 0.5
"""Seconds after which one item more is tried, where the machine gave no thread for it."""


class Pool:
    """At most `concurrency` items at once, from its queues in the order in which they were added.

    Nothing starts before `provide` has brought the function.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "items", threads: Threads | None = None) -> None:
        """`threads`: which it shares with other pools, and does not close; without any it has its own."""
        self._loop = loop
        self._threads = threads or Threads()
        self._shares_threads = threads is not None
        self._workers: dict[asyncio.Task[None], tuple[ShardQueue, RunningAttempt] | None] = {}
        self._context = RunnerContext(loop, f"rnb-{name}", self._workers)
        self._runners: dict[RunnerName, Runner] = {
            "loop": LoopRunner(self._context),
            "thread": ThreadRunner(self._context, self._threads),
            "process": ProcessRunner(self._context, self._threads),
        }
        self._limiter = Limiter(loop, self._woken)
        self._retry = NO_RETRY
        self._rule: StopRule | None = None
        self._call: ItemCall | None = None
        self._queues: weakref.WeakValueDictionary[int, ShardQueue] = weakref.WeakValueDictionary()  # by id
        self._backlog = Backlog()
        self._pending: deque[ShardQueue] = deque()  # queues with pending entries
        self._permits: dict[int, Permit] = {}  # of items that hold a place of a shared limit, by position
        self._fresh = 0  # workers that have not looked for an item yet
        self._timers: set[asyncio.TimerHandle] = set()
        self._paused = False
        self.paused_on_unkept = False  # paused by itself, at a value that cannot be kept
        self._on_unkept: OnUnkept | None = None
        self._closed = False
        self._turn = 0.0
        self._most_workers = sys.maxsize  # that the machine has threads for
        self._growing: asyncio.TimerHandle | None = None
        self._ended_items = self._failed_items = 0  # since the start, or since `reopen`
        self.stopped = ""  # why no item is started any more

    # ------------------------------------------------------------ from any thread

    @property
    def running(self) -> int:
        """How many items run now."""
        return sum(1 for each in list(self._workers.values()) if each is not None)

    def running_positions(self) -> frozenset[int]:
        """Where the items that run now stand in the input."""
        return frozenset(each[1].entry.position for each in list(self._workers.values()) if each is not None)

    @property
    def has_function(self) -> bool:
        """Whether the function is known."""
        return self._call is not None

    @property
    def concurrency(self) -> int:
        """How many items may run at once, at present where that adapts itself."""
        return self._limiter.concurrency

    @property
    def hung(self) -> int:
        """Threads whose item timed out and that run on."""
        return self._context.hung

    @property
    def thread_limit(self) -> int | None:
        """How many items run at once since the machine gives no more threads or processes; None while it does."""
        return self._most_workers if self._growing is not None else None

    @property
    def gil_bound(self) -> bool:
        """Whether its items, in threads, keep the interpreter to themselves: more of them at once would not help."""
        return False

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
        running = [(task, *each) for task, each in list(self._workers.items()) if each is not None]
        attempts = [(task, attempt.entry, attempt.started) for task, _, attempt in running]
        return running_items(attempts, dict(self._context.threads))

    @property
    def backlog_full(self) -> bool:
        """Whether items are held up, since too many outcomes wait to be recorded."""
        return self._backlog.full

    def recorded(self) -> None:
        """Outcomes of its queues were recorded."""
        if self._backlog.full:
            self.soon(self._start_workers)

    def soon(self, call: Callable[..., None], *args: object) -> None:
        """Call a method of this pool on its own loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    # ------------------------------------------------------------ on the pool's loop

    def provide(self, call: ItemCall, policy: RunPolicy) -> None:
        """Set the function and how it is run. Attempts that run end with what they began with."""
        self._call = call
        for runner in self._runners.values():
            runner.on_new_function()
        self._retry = policy.retry
        self._context.timeout = policy.timeout
        self._rule = policy.stop_rule
        self._limiter.set(policy)
        self._context.many_hung = self._limiter.concurrency
        self._start_workers()

    def replace_call(self, call: ItemCall) -> None:
        """Have another executor run the same function: what has not begun. What runs ends where it is."""
        self._call = call
        for runner in self._runners.values():
            runner.on_new_function()
        self._start_workers()

    def set_concurrency(self, bounds: Range) -> None:
        """Change how many run at once; what runs is not stopped."""
        self._limiter.set_concurrency(bounds)
        self._context.many_hung = self._limiter.concurrency
        self._start_workers()

    def pause(self) -> None:
        """Start nothing more; what runs goes on."""
        self._paused = True

    def pause_on_unkept(self, on_unkept: OnUnkept | None) -> None:
        """Pause by itself when what an item returned cannot be kept, and call with its attempt; with None never. If it
        has paused so, it goes on. Items that began with an earlier function do not count."""
        self._on_unkept = on_unkept
        if self.paused_on_unkept:
            self.resume()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = self.paused_on_unkept = False
        self._start_workers()

    def add(self, queue: ShardQueue) -> None:
        """Take up the entries of a queue."""
        self._queues[id(queue)] = queue
        if self.stopped:
            self._backlog.watch(queue)
            queue.stop(self.stopped)
        self._pending.append(queue)
        self._start_workers()

    def stop(self, reason: str, kind: str = FAIL_FAST, but: Container[int] = ()) -> None:
        """Start no further item: those that have not begun, or wait for another attempt, end as cancelled, with this
        reason. What runs is let end. For `kind` and `but` see `ShardQueue.stop`."""
        if not self.stopped:
            self.stopped = reason
            for queue in list(self._queues.values()):
                self._backlog.watch(queue)
                queue.stop(reason, kind, but)
                if queue.pending and queue not in self._pending:
                    self._pending.append(queue)
            self._start_workers()

    def reopen(self) -> None:
        """Take `stop` back, for queues to come."""
        self.stopped = ""
        if self.paused_on_unkept:
            self.resume()
        self._ended_items = self._failed_items = 0

    def cancel(self, queue: ShardQueue) -> None:
        """End a queue: its items get the outcome `cancelled`, at once."""
        mine = {task: each[1] for task, each in self._workers.items() if each is not None and each[0] is queue}
        self._backlog.watch(queue)
        queue.cancel({attempt.entry.position: attempt.cancelled() for attempt in mine.values()})
        for task in mine:
            self._cancel_worker(task)

    def _cancel_worker(self, task: asyncio.Task[None]) -> None:
        self._context.cancelled.add(task)
        task.cancel()

    def drop(self, queue: ShardQueue) -> None:
        """End a queue whose outcomes nobody will record."""
        self.cancel(queue)
        self._queues.pop(id(queue), None)
        self._start_workers()

    def close(self) -> None:
        """Stop everything and record nothing: what was in flight is run again by the next process."""
        self._closed = True
        self._pending.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._growing is not None:
            self._growing.cancel()
        for task in self._workers:
            self._cancel_worker(task)
        self._limiter.withdraw()
        for runner in self._runners.values():
            runner.close()
        if not self._shares_threads:
            self._threads.close()

    def kill(self) -> None:
        """End its worker processes, from any thread: for a pool whose loop may never come to `close` it."""
        for runner in self._runners.values():
            runner.kill()

    def wait_until_gone(self, until: float) -> bool:
        """Wait for killed worker processes to be gone, until a time on `time.monotonic`; says whether they are."""
        return all(runner.wait_until_gone(until) for runner in self._runners.values())

    # ------------------------------------------------------------ workers

    def _start_workers(self) -> None:
        if self._call is None or self._paused or self._closed or not self._backlog.has_room():
            return
        spare = self._most_workers - len(self._workers)
        wanted = 0
        for queue in self._pending:
            wanted += queue.waiting
            if wanted >= self._limiter.concurrency:
                break
        for _ in range(min(wanted, spare, self._limiter.room(len(self._workers), self._fresh))):
            task = self._loop.create_task(self._worker(), context=contextvars.Context())
            self._workers[task] = None
            self._fresh += 1
            task.add_done_callback(self._worker_ended)

    def _woken(self) -> None:
        self._start_workers()
        if not self._fresh:
            self._limiter.withdraw()

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        running = self._workers.pop(task, None)
        self._context.cancelled.discard(task)
        if running is not None and not self._closed and running[1].entry.position in running[0].open:
            self._rescue(task, *running)
        self._start_workers()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GeneratorExit):  # that of an item's task closes all it passes
            raise error  # a defect of this module: the loop's exception handler reports it

    def _rescue(self, task: asyncio.Task[None], queue: ShardQueue, attempt: RunningAttempt) -> None:
        """A worker has ended without a report on its item, by a defect: then the defect is what became of the item."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        attempt.retry = NO_RETRY
        report = attempt.raised(error or RuntimeError("restate_nb has lost this item: please report it."))
        self._backlog.item_ended()
        assert self._call is not None  # a worker runs only then
        self._settle(self._call, queue, attempt.entry, report)

    def _next(self) -> tuple[ShardQueue, Entry] | None:
        if (
            not (self._paused or self._closed or len(self._workers) > self._limiter.concurrency)
            and (self._growing is None or len(self._workers) <= self._most_workers)
            and self._backlog.has_room()
        ):
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
                if not self._limiter.enter():
                    return None
                return queue, queue.pending.popleft()
        self._limiter.withdraw()
        return None

    async def _worker(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._fresh -= 1
        while (found := self._next()) is not None:
            queue, entry = found
            call = self._call
            assert call is not None
            attempt = RunningAttempt(entry, self._retry, time.time(), time.perf_counter())
            self._workers[task] = queue, attempt
            try:
                if self._limiter.is_plain:
                    report = await self._run(call, attempt)
                else:
                    report = await self._with_permit(call, attempt)
            except NoThread:
                self._workers[task] = None
                self._put_back(queue, entry)
                return
            self._workers[task] = None
            self._backlog.item_ended()
            if report.attempt.failure is None and self._rule is None:
                queue.add(report.attempt)
            else:
                self._settle(call, queue, entry, report)
            if task.cancelling():
                return  # the item did not let itself be cancelled; this task must not go on half-cancelled
            if time.perf_counter() - self._turn > _TURN:
                await asyncio.sleep(0)
                self._turn = time.perf_counter()

    def _put_back(self, queue: ShardQueue, entry: Entry) -> None:
        """The machine has no thread for this item: run as many at once as there are, and look for more later."""
        if entry.position in queue.open:
            queue.pending.appendleft(entry)
            if queue not in self._pending:
                self._pending.appendleft(queue)
        self._most_workers = sum(1 for each in self._workers.values() if each is not None)
        if self._growing is None and not self._closed:
            self._growing = self._loop.call_later(GROW_SECONDS, self._grow)

    def _grow(self) -> None:
        self._growing = None
        self._most_workers += max(1, self._most_workers // 4)
        if self._most_workers >= self._limiter.concurrency:
            self._most_workers = sys.maxsize
        else:
            self._growing = self._loop.call_later(GROW_SECONDS, self._grow)
        self._start_workers()

    def _run(self, call: ItemCall, attempt: RunningAttempt) -> Coroutine[Any, Any, Report]:
        if call.pick is not None:
            call = call.pick(attempt.entry.payload)
        return self._runners[call.runner].run(call, attempt)

    async def _with_permit(self, call: ItemCall, attempt: RunningAttempt) -> Report:
        permit, position = self._limiter.permit(), attempt.entry.position
        if permit.is_shared:
            self._permits[position] = permit
        self._start_workers()
        try:
            report = await self._run(call, attempt)
        finally:
            permit.release()
            self._permits.pop(position, None)
        if self._limiter.on_report(permit, report, len(self._workers)):
            self._context.many_hung = self._limiter.concurrency
            self._start_workers()
        return report

    def _settle(self, call: ItemCall, queue: ShardQueue, entry: Entry, report: Report) -> None:
        attempt = report.attempt
        failure = attempt.failure
        if failure is not None and failure.retry_in is not None and self.stopped:
            failure = msgspec.structs.replace(failure, retry_in=None)
            attempt = msgspec.structs.replace(attempt, failure=failure)
        counts = attempt.position in queue.open
        queue.add(attempt)
        if failure is not None and self._on_unkept is not None and call is self._call and is_unkept(failure):
            if not self._paused:
                self._paused = self.paused_on_unkept = True
            self._on_unkept(attempt)
        if failure is not None and failure.retry_in is not None:
            if not self._closed:
                self._delay(queue, Entry(entry.position, entry.payload, entry.number + 1), failure.retry_in)
        elif counts and self._rule is not None and attempt.status != CANCELLED:
            self._ended_items += 1
            self._failed_items += failure is not None
            if reason := self._rule.broken(self._failed_items, self._ended_items):
                self.stop(reason)

    def _delay(self, queue: ShardQueue, entry: Entry, seconds: float) -> None:
        """Bring the entry back later."""
        if entry.position not in queue.open:
            return
        queue.delayed[entry.position] = Entry(entry.position, entry.payload, entry.number, time.time() + seconds)

        def ready() -> None:
            self._timers.discard(timer)
            if queue.delayed.pop(entry.position, None) is not None:
                queue.pending.appendleft(Entry(entry.position, entry.payload, entry.number))
                if queue not in self._pending:
                    self._pending.appendleft(queue)
                self._start_workers()

        timer = self._loop.call_later(seconds, ready)
        self._timers.add(timer)
