"""Runs items in worker processes, for functions that compute: in batches, so that tiny items cost little, each with its
own outcome.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from restate_nb.engine.attempt import ItemCall, RunningAttempt
from restate_nb.engine.cpus import cpus
from restate_nb.engine.process_feed import Feed
from restate_nb.engine.process_worker import Worker
from restate_nb.engine.processes import IDLE, Processes
from restate_nb.engine.runner import Runner, RunnerContext, Source

_EARLY: Final = 8
"""Workers that are started before it is known how many items there are."""


class ProcessRunner(Runner):
    """Calls the function in a worker process."""

    def __init__(self, context: RunnerContext, source: Source, processes: Processes | None = None) -> None:
        """`processes`: which it shares with other pools, and does not close; without any it has its own."""
        super().__init__(context, source)
        self._processes = processes or Processes(warm=IDLE)
        self._shares_processes = processes is not None
        self._feed = Feed(source, context, lambda running: self._allows(running) > 0, self._refused)

    def start(self, most: int) -> None:
        """Have items taken; see `Runner.start`."""
        try:
            self._processes.want(self._feed)
        except RuntimeError:  # the machine gives no thread: it is tried again
            self._refused(0)

    def on_new_function(self, call: ItemCall) -> None:
        """Start workers early, and have them load it."""
        self._feed.renew()
        if call.runner == "process" and call.remote is not None:
            with suppress(RuntimeError):  # it will be tried again with the first item
                count = min(cpus(), self._source.concurrency, _EARLY)
                self._processes.prepare(self._feed, [self._feed.function(call.remote)], count)

    def abandon(self, attempt: RunningAttempt, *, expired: bool) -> None:
        """End the worker that the attempt is in; take it back from a worker that has not begun it."""
        with self._context.lock:
            if expired and attempt.over:
                return
            attempt.expired = expired
        self._processes.abandon(attempt)

    def begun_at(self, attempt: RunningAttempt) -> float | None:
        """When its worker has begun the attempt: it may have to load the function first."""
        if attempt.place is None:
            return None
        worker: Worker
        worker, serial = attempt.place
        return worker.begun_at(serial)

    def recall(self) -> None:
        """Put back what was taken and has not begun."""
        self._processes.recall(self._feed)

    def kill(self) -> None:
        """End the workers that have items of this pool."""
        if self._shares_processes:
            self._processes.leave(self._feed)
        else:
            self._processes.close()

    def wait_until_gone(self, until: float) -> bool:
        """Wait for killed worker processes to be gone; see `Runner.wait_until_gone`."""
        if self._shares_processes:
            return self._processes.wait_until_left(self._feed, until)
        return self._processes.wait_until_gone(until)
