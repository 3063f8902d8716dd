"""Pauses a job at the first value that cannot be kept, so that the other items are not paid for in vain."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any, Final

from restate_nb.backends.base import Backend
from restate_nb.engine.function import Function
from restate_nb.engine.loop_thread import LoopThread
from restate_nb.engine.record import Attempt
from restate_nb.handle.record import JobRecord
from restate_nb.results.ledger import Ledger
from restate_nb.service.wire import Unkept

_LOOK_SECONDS: Final = 0.05  # between looks at what still runs of a job that has paused itself


class ValueGuard:
    """Looks at what the items of one job return.

    Attempts that began before the function was as it is now do not count. Once somebody has let the job go on with the
    same function, nothing pauses it any more.

    Args:
        record: the job's record.
        backend: how its items are run.
        ledger: their outcomes.
        io: the session's own loop.
        resume: lets the job go on.
    """

    def __init__(
        self,
        record: JobRecord,
        backend: Backend,
        ledger: Ledger,
        io: LoopThread,
        resume: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._record = record
        self._backend = backend
        self._ledger = ledger
        self._io = io
        self._resume_job = resume
        self._code = ""
        self._judges = False  # whether the value of one item says something about those of others
        self._unkept: Unkept | None = None  # of this process: before it is recorded, too
        self._pausing: Future[None] | None = None
        self._resuming: Future[None] | None = None
        self._paused: Future[None] = Future()  # is done when the job has paused itself

    @property
    def unkept(self) -> Unkept | None:
        """Why the job has paused itself; None if it is not paused, or by somebody."""
        manifest = self._record.manifest
        if self._resuming is not None and not self._resuming.done():
            return None
        return self._unkept or (manifest.unkept if manifest.paused else None)

    @property
    def stands_still(self) -> bool:
        """Whether it has paused itself, what ran then has ended, and more is to be run."""
        if self._pausing is not None and not self._pausing.done():
            return False
        return self.unkept is not None and not self._backend.busy and not self._ledger.complete

    def provide(self, function: Function, code: str, bring: Callable[[], None]) -> None:
        """Take note of the function as it is now. A job that has paused itself goes on if it is another one.

        Args:
            function: the function.
            code: its digest.
            bring: brings it to where it runs; before anything goes on, or items would begin with the one before.
        """
        if code == self._code:
            bring()
            return
        self._code = code
        manifest = self._record.manifest
        known = self._unkept or manifest.unkept
        changed = known is not None and known.code != code
        can_pause = manifest.kind != "workers" or self._record.can_pause_invocations
        self._judges = function.one_function and manifest.kind != "deployed" and can_pause
        bring()
        if changed and self.unkept is not None:
            self.resume(watch=True)
        else:
            self._watch(known is None or changed)

    def resume(self, *, watch: bool = False) -> Future[None]:
        """Go on; with `watch` only up to the next value that cannot be kept."""
        self._unkept = None
        if self._paused.done():
            self._paused = Future()
        self._watch(watch)
        self._resuming = self._io.start(self._resume(self._pausing))
        return self._resuming

    async def _resume(self, pausing: Future[None] | None) -> None:
        if pausing is not None:  # else it would pause what is to go on
            await asyncio.wait([asyncio.wrap_future(pausing)])
        await self._resume_job()

    def wait_ended(self, ended: Future[None], timeout: float | None) -> bool:
        """Wait until a job has ended, or stands still, for at most `timeout` seconds; says whether it has ended."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not ended.done():
            left = until - time.monotonic()
            if left <= 0 or self.stands_still:
                return False
            looks_on = self.unkept is not None
            seconds = min(_LOOK_SECONDS, left) if looks_on else (None if left == math.inf else left)
            wait([ended] if looks_on else [ended, self._paused], seconds, FIRST_COMPLETED)
        return True

    def _watch(self, watch: bool) -> None:
        self._backend.notify_unkept(partial(self._on_unkept, self._code) if watch and self._judges else None)

    def _on_unkept(self, code: str, attempt: Attempt) -> None:
        """What an item returned cannot be kept. Called on whichever loop learns of it."""
        if code != self._code or self._unkept is not None or attempt.failure is None:
            return
        self._unkept = unkept = Unkept(code, attempt.position, attempt.failure.message)
        self._pausing = self._io.start(self._pause(unkept))

    async def _pause(self, unkept: Unkept) -> None:
        """Start nothing more; it holds in the next process, too."""
        try:
            if not self._ledger.complete:
                self._backend.pause()
                await self._record.change(paused=True, unkept=unkept)
        finally:
            if not self._paused.done():
                self._paused.set_result(None)
