"""Calls plain functions in threads that take their items themselves, as many threads as there are items that wait.

A thread more helps while items wait inside, and where they compute it only fights with the others for the interpreter.
Which of the two it is a *probe* shows: a thread that sleeps, and then wants the interpreter. If it has it at once, so
would a further item, and the number of threads is doubled; if the others keep it to themselves, none is added. So a job
of functions that never wait runs in one thread, as fast as a loop, and a hundred items that wait have a hundred threads
within milliseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

from restate_nb.engine.attempt import Ended, ItemCall, Report, RunningAttempt
from restate_nb.engine.cpus import cpus
from restate_nb.engine.loop_runner import LoopRunner
from restate_nb.engine.output import belong_to
from restate_nb.engine.runner import Runner, RunnerContext, Source
from restate_nb.engine.threads import NoThread, Threads

_PROBE: Final = 0.0005
"""Seconds for which a probe sleeps before it wants the interpreter."""

_PROMPT: Final = 0.0004
"""Seconds within which it has it where nobody else wants it: timers are late by some of that."""

_SPARE: Final = 0.005
_SPAREST: Final = 0.05
"""Seconds between probes while threads are not what is lacking."""

_SURE: Final = 3
"""Prompt probes in a row without which no thread is added where items end all the time."""

_SHORT: Final = 0.0001
"""Seconds that an item takes for which a further thread is never worth it."""

_BOUND: Final = 4
_MOST_LATE: Final = 16
"""Late probes, less prompt ones, that tell that items compute; and how many are remembered."""


class ThreadRunner(Runner):
    """Calls the function in a thread; what it returns to be awaited is, on the loop."""

    def __init__(self, context: RunnerContext, source: Source, threads: Threads, loop_runner: LoopRunner) -> None:
        super().__init__(context, source)
        self._threads = threads
        self._loop_runner = loop_runner
        self._pullers = 0  # threads that take items
        self._coming = 0  # of them, those that have not taken one yet
        self._ended = 0  # items
        self._probing = False
        self._closed = False
        self._late = 0  # late probes, less prompt ones

    @property
    def gil_bound(self) -> bool:
        """Whether items keep the interpreter to themselves, so that more at once would not help."""
        source = self._source
        return self._probing and self._late >= _BOUND and source.waiting and source.concurrency > 1

    def start(self, most: int) -> None:
        """Have items taken; see `Runner.start`. Where more than `concurrency` holds items up, what may begin at any
        moment is little, and is begun at once."""
        with self._context.lock:
            plain = self._source.is_plain
            wanted = 1 - self._pullers if plain else most - self._coming
            count = max(0, min(wanted, self._allows(self._pullers)))
            self._pullers += count
            self._coming += count
            probes = plain and not self._probing and not self._closed and self._source.concurrency > 1
            self._probing = self._probing or probes
        self._start_pullers(count)
        if probes:
            self._start_probe()

    def _start_pullers(self, count: int) -> None:
        for _ in range(count):
            try:
                self._threads.run(self._context.name, self._pull)
            except (NoThread, RuntimeError) as error:
                with self._context.lock:
                    self._pullers -= 1
                    self._coming -= 1
                if isinstance(error, NoThread):
                    self._refused(self._pullers)

    def _start_probe(self) -> None:
        try:
            self._threads.run(f"{self._context.name}-probe", self._probe)
        except (NoThread, RuntimeError) as error:
            self._probing = False
            if isinstance(error, NoThread):
                self._refused(self._pullers)

    def abandon(self, attempt: RunningAttempt, *, expired: bool) -> None:
        """Give the attempt up: its thread cannot be ended, and runs on without a place."""
        with self._context.lock:
            if attempt.place is None or (expired and attempt.over):
                return  # it has just ended
            self._context.hung_threads[attempt.place] = attempt.entry.position, attempt.entry.number
            attempt.place = None
            self._pullers -= 1
            self._source.finish([(attempt, self._context.timed_out(attempt) if expired else None)])
        self._source.wake()

    def close(self) -> None:
        """Take nothing more."""
        super().close()
        self._closed = True

    # ------------------------------------------------------------ in threads

    def _pull(self) -> None:
        """Take items, one after the other, until there are none."""
        with self._context.lock:
            self._coming -= 1
        attempt: RunningAttempt | None = None
        ended: Ended | None = None
        try:
            while (attempt := self._next(attempt, ended)) is not None:
                call = attempt.call
                assert call is not None
                made = call.context.copy().run(_made, attempt, call)
                if isinstance(made, (bytes, Report)):
                    ended = made
                else:
                    self._go_on(attempt, made)
        except BaseException as error:  # a defect of ours: then it is what became of the item
            with self._context.lock:
                if self._context.hung_threads.pop(threading.get_ident(), None) is None:
                    self._pullers -= 1
                if attempt is not None:
                    self._source.finish([(attempt, attempt.lost(error))])
            says = {"message": "restate_nb has lost an item: please report it", "exception": error}
            self._context.soon(self._context.loop.call_exception_handler, says)
        self._source.wake()

    def _next(self, attempt: RunningAttempt | None, ended: Ended | None) -> RunningAttempt | None:
        """Bring an attempt back, and take the next; None where there is none for this thread."""
        with self._context.lock:
            if attempt is not None and attempt.owner is not self:
                attempt = None  # it goes on elsewhere
            if attempt is not None:
                if self._context.hung_threads.pop(threading.get_ident(), None) is not None:
                    return None  # given up in the meantime: the thread has no place any more
                attempt.place = None
                self._ended += 1
            found = self._source.next("thread", attempt, ended)
            if found is None:
                self._pullers -= 1
            else:
                found.owner, found.place = self, threading.get_ident()
            return found

    def _go_on(self, attempt: RunningAttempt, awaitable: Awaitable[Any]) -> None:
        """Have the rest of the attempt awaited on the loop, unless it was given up in the meantime."""
        with self._context.lock:
            if attempt.place is not None:
                attempt.place = None
                self._loop_runner.await_for(attempt, awaitable)
                return
        if isinstance(awaitable, Coroutine):
            awaitable.close()

    def _probe(self) -> None:
        """Look whether a further thread would have the interpreter, while items wait for one."""
        pause, prompt, processors, source = _PROBE, 0, cpus(), self._source
        while True:
            ended = self._ended
            busy, began = time.process_time(), time.perf_counter()
            time.sleep(pause)
            seconds = time.perf_counter() - began
            busy = (time.process_time() - busy) / seconds  # processors that this process has used
            late = seconds - pause > _PROMPT or busy > 0.9 * processors
            with self._context.lock:
                if self._closed or not self._pullers or not source.waiting:
                    self._probing, self._late = False, 0
                    return
                self._late = min(self._late + 1, _MOST_LATE) if late else max(self._late - 2, 0)
                prompt = 0 if late else prompt + 1
                ended = self._ended - ended
                short = ended > 0 and self._pullers * seconds / ended < _SHORT
                count = min(max(1, self._pullers), source.room("thread"), self._allows(self._pullers))
                if late or short or count <= 0 or (ended and prompt < _SURE):
                    pause = min(2 * pause, _SPARE if prompt and count > 0 else _SPAREST)
                    continue
                self._pullers += count
                self._coming += count
            self._start_pullers(count)
            if self._shortage is not None:
                self._turn_puller()
                return
            pause = _PROBE

    def _turn_puller(self) -> None:
        """The machine gives no more threads, and the probe's own is one."""
        with self._context.lock:
            self._probing = False
            self._pullers += 1
            self._coming += 1
            self._shortage = self._pullers
        self._pull()


def _made(attempt: RunningAttempt, call: ItemCall) -> Ended | Awaitable[Any]:
    belong_to(attempt.entry.position)
    return attempt.make(call.function, call.encode)
