"""Pauses a job at the first value that cannot be kept, so that the other items are not paid for in vain."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Final

from restate_nb.engine.function import Function
from restate_nb.engine.record import Attempt
from restate_nb.handle.runner import JobRunner
from restate_nb.results.ledger import Ledger
from restate_nb.service.wire import Unkept
from restate_nb.session.run import LoopThread

_LOOK: Final = 0.05  # seconds between looks at what still runs of a job that has paused itself


class ValueGuard:
    """Looks at what the items of one job return.

    Attempts that began before the function was as it is now do not count. Once somebody has let the job go on with the
    same function, nothing pauses it any more.
    """

    def __init__(self, driver: JobRunner, io: LoopThread, ledger: Ledger) -> None:
        self._driver = driver
        self._io = io
        self._ledger = ledger
        self._code = ""
        self._judges = False  # whether the value of one item says something about those of others
        self._found: Unkept | None = None  # of this process: before it is recorded, too
        self._holding: Future[None] | None = None
        self._going: Future[None] | None = None
        self._told: Future[None] = Future()  # is done when the job has paused itself

    @property
    def found(self) -> Unkept | None:
        """Why the job is paused; None if it is not, or by somebody."""
        manifest = self._driver.manifest
        if self._going is not None and not self._going.done():
            return None
        return self._found or (manifest.unkept if manifest.paused else None)

    @property
    def stands_still(self) -> bool:
        """Whether it has paused itself, what ran then has ended, and more is to be run."""
        if self._holding is not None and not self._holding.done():
            return False
        return self.found is not None and not self._driver.work.busy and not self._ledger.complete

    def provide(self, target: Function, code: str, bring: Callable[[], None]) -> None:
        """Take note of the function as it is now. A job that has paused itself goes on if it is another one.

        Args:
            target: the function.
            code: its digest.
            bring: brings it to where it runs; before anything goes on, or items would begin with the one before.
        """
        if code == self._code:
            bring()
            return
        self._code = code
        manifest = self._driver.manifest
        known = self._found or manifest.unkept
        changed = known is not None and known.code != code
        can_hold = manifest.kind != "workers" or self._driver.can_hold
        self._judges = target.one_function and manifest.kind != "deployed" and can_hold
        bring()
        if changed and self.found is not None:
            self.let_go(watch=True)
        else:
            self._watch(known is None or changed)

    def let_go(self, *, watch: bool = False) -> Future[None]:
        """Go on; with `watch` only up to the next value that cannot be kept."""
        self._found = None
        if self._told.done():
            self._told = Future()
        self._watch(watch)
        self._going = self._io.start(self._go_on(self._holding))
        return self._going

    async def _go_on(self, holding: Future[None] | None) -> None:
        if holding is not None:  # else it would pause what is to go on
            await asyncio.wait([asyncio.wrap_future(holding)])
        await self._driver.pause(False)

    def wait_ended(self, ended: Future[None], timeout: float | None) -> bool:
        """Wait until a job has ended, or stands still, for at most `timeout` seconds; says whether it has ended."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not ended.done():
            left = until - time.monotonic()
            if left <= 0 or self.stands_still:
                return False
            looks_on = self.found is not None
            seconds = min(_LOOK, left) if looks_on else (None if left == math.inf else left)
            wait([ended] if looks_on else [ended, self._told], seconds, FIRST_COMPLETED)
        return True

    def _watch(self, watch: bool) -> None:
        self._driver.work.notify_unkept(partial(self._heard, self._code) if watch and self._judges else None)

    def _heard(self, code: str, attempt: Attempt) -> None:
        """What an item returned cannot be kept. Called on whichever loop learns of it."""
        if code != self._code or self._found is not None or attempt.failure is None:
            return
        self._found = found = Unkept(code, attempt.position, attempt.failure.message)
        self._holding = self._io.start(self._hold(found))

    async def _hold(self, found: Unkept) -> None:
        try:
            await self._driver.hold(found)
        finally:
            if not self._told.done():
                self._told.set_result(None)
