"""Items that a pool of this process runs, whatever that means for an item: a call here, or an invocation elsewhere."""

from __future__ import annotations

import contextvars
import time
import weakref
from collections.abc import Sequence

from restate_nb.backends.base import Backend, waits_for_store
from restate_nb.backends.connection import Connection
from restate_nb.engine import nesting, seeds
from restate_nb.engine.asking import refuse_in_items
from restate_nb.engine.cpus import cpus
from restate_nb.engine.function import Executor, Function
from restate_nb.engine.pool import OnUnkept, Pool
from restate_nb.engine.record import Attempt
from restate_nb.engine.stacks import RunningItem
from restate_nb.environment import in_notebook
from restate_nb.formatting import counted, duration
from restate_nb.limits import AUTO, Range
from restate_nb.policy import NO_RETRY, RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.results.spool import Spool
from restate_nb.service.active_jobs import JobRun
from restate_nb.service.wire import Manifest


class PooledBackend(Backend):
    """A job whose concurrency, rates, limits, retries and `fail_fast` are kept by a pool of this process."""

    def __init__(self, connection: Connection, manifest: Manifest, encoded: Spool, ledger: Ledger) -> None:
        super().__init__(connection, manifest, encoded, ledger)
        self._run = connection.runs.get(manifest.name, manifest.generation, manifest.folder)
        self._latest = len(manifest.rounds) - 1  # round
        self._bounds = AUTO  # of the concurrency, as they are wanted now
        self._outside_processes: Range | None = None  # and as they were before items went to processes
        self._executor: Executor = "auto"
        self._context = contextvars.Context()  # that items see
        self._retry = NO_RETRY

    def set_function(self, function: Function, policy: RunPolicy) -> None:
        self._rule, self._retry, self._executor = policy.stop_rule, policy.retry, function.executor
        self._outside_processes = None
        refuse_in_items()
        context = self._context = self.prints.context(bounded=in_notebook())
        pool = weakref.ref(self._run.pool)
        context.run(nesting.enter, self.prints.job, lambda at: None if (it := pool()) is None else it.permit(at))
        context.run(seeds.enter, self._key)
        self._run.provide(context.run(function.item_call, policy.retry), policy)
        self._bounds = policy.bounds

    @property
    def concurrency(self) -> int:
        return self._run.pool.concurrency

    def set_concurrency(self, bounds: Range) -> None:
        self._outside_processes = None
        self._change_concurrency(bounds)

    def set_executor(self, function: Function) -> None:
        call = self._context.copy().run(function.item_call, self._retry)
        before, self._executor = self._executor, function.executor
        if function.executor == "process" and before != "process":
            most, bounds = cpus(), self._bounds
            self._change_concurrency(Range(min(bounds.low, most), min(bounds.high, most)))
            self._outside_processes = bounds
        self._run.replace_call(call)
        if function.executor != "process" and self._outside_processes is not None:
            self.set_concurrency(self._outside_processes)

    def _change_concurrency(self, bounds: Range) -> None:
        self._bounds = bounds
        self._run.pool.set_concurrency(bounds)

    def connect_ledger(self) -> None:
        def apply(round_: int, attempts: Sequence[Attempt]) -> None:
            self._ledger.apply(round_, attempts, time.time())
            if not self._run.pool.stopped:
                self._stop_by_rule(round_)

        self._run.listen(apply)

    def _stop_by_rule(self, round_: int) -> bool:
        """Stop if too many items have failed. The pool counts, too, but not what an earlier process recorded."""
        reason = self._broken_rule(round_) if round_ == self._latest else None
        if reason is not None:
            self._run.stop(reason)
        return reason is not None

    def is_stopping(self, round_: int) -> bool:
        return self._stop_by_rule(round_) or self._run.is_stopping

    def pause(self) -> None:
        self._run.pause()

    def resume(self) -> None:
        self._run.resume()

    async def cancel(self) -> None:
        self._run.cancel()

    def reopen(self) -> None:
        super().reopen()
        self._run.reopen()

    def notify_unkept(self, callback: OnUnkept | None) -> None:
        self._run.pause_on_unkept(callback)

    def obstacles(self) -> list[str]:
        return _obstacles(self._run, self._manifest.function)

    @property
    def shortage(self) -> str:
        return _shortage(self._run.pool)

    @property
    def cores_in_processes(self) -> int:
        cores = min(cpus(), self._bounds.high)
        return cores if cores > 1 and self._executor != "process" and self._run.pool.gil_bound else 0

    @property
    def busy(self) -> bool:
        return self._run.busy

    def running_positions(self) -> frozenset[int]:
        return self._run.pool.running_positions()

    def running_items(self) -> list[RunningItem]:
        return self._run.pool.running_items()


def _obstacles(run: JobRun, function: str) -> list[str]:
    """What keeps the items of a job from being started."""
    found, pool = [], run.pool
    trouble = "" if run.keeper is None else run.keeper.trouble
    if trouble:
        found.append(waits_for_store(trouble))
    if not pool.has_function:
        found.append(f"It waits for {function}: run the cell that maps it.")
    if pool.paused:
        found.append("It is paused: job.resume() goes on.")
    if pool.thread_limit is not None:
        found.append(_shortage(pool))
    if pool.stopped:
        found.append(f"It starts no further item. {pool.stopped}")
    if pool.backlog_full and not trouble:
        found.append("Outcomes wait to be recorded, and nothing is started before: restate-server is slow or away.")
    if pool.waits_for:
        found.append(f"Items wait for their turn: {pool.waits_for}.")
    if retries := pool.retries_at:
        wait = duration(max(0.0, min(retries) - time.time()))
        found.append(f"{counted(len(retries), 'item')} failed, and wait to be tried again: the first in {wait}.")
    if pool.hung:
        found.append(
            f"{counted(pool.hung, 'thread')} still busy with items that timed out: a thread cannot be stopped. Give "
            'the function\'s own calls a timeout, or use executor="process".'
        )
    return found


def _shortage(pool: Pool) -> str:
    """That the machine gives no more threads or processes, in words; empty while it does."""
    if pool.thread_limit is None:
        return ""
    return (
        f"The machine gives no more threads or processes: {counted(pool.thread_limit, 'item')} at once, of up to "
        f"{pool.concurrency:,}. More are tried again and again; the limit is that of the container (pids) or of the "
        "user (ulimit -u)."
    )
