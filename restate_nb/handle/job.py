"""The handle on a job: what it is doing, its outcomes, its charts, and how to steer it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from restate_nb.engine import nesting
from restate_nb.engine.function import Function
from restate_nb.engine.outbox import FAIL_FAST
from restate_nb.engine.record import CANCELLED, OK
from restate_nb.environment import this_cell
from restate_nb.errors import InvalidInput, JobError, ServerError
from restate_nb.handle.batches import Batch
from restate_nb.handle.items import Items
from restate_nb.handle.outcomes import Where
from restate_nb.handle.provenance import Older, Provenance, listed
from restate_nb.handle.runner import JobRunner
from restate_nb.handle.value_guard import ValueGuard
from restate_nb.handle.visible import SessionStopped, Visible
from restate_nb.limits import Concurrency, StopRule
from restate_nb.policy import RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.results.limit_history import LimitHistory
from restate_nb.service.identity import Identity
from restate_nb.session.run import LoopThread, blocked_by_waiting, cause_of, until_done
from restate_nb.validation import concurrency_range

if TYPE_CHECKING:
    import pandas as pd

    from restate_nb.panel import Updater


T = TypeVar("T")

_CANCEL_SECONDS = 3.0  # that a cell waits until Restate knows that the job is cancelled
_CANCELLED_SECONDS = 30.0  # that it waits until all is recorded, then
_NOTED_SECONDS = 5.0  # that the end of a job waits until Restate knows of it
_LAST_PANEL_SECONDS = 1.0  # a cell that has ended may store no more output, so the last panel goes first


class Job(Visible, Generic[T]):
    """A running or finished job. Made by `restate_nb.map` and its kin.

    It goes on whether or not anyone looks. `result()` waits and gives the DataFrame, so does `await job`; `frame()`
    gives it as it is now.

    Example:
        import restate_nb as rnb

        rnb.start()
        job = rnb.map(len, ["a", "bb"], name="words")
        job.result()[["item", "value", "run_s"]]
    """

    def __init__(self, driver: JobRunner, io: LoopThread, ledger: Ledger, forget: Callable[[Job[Any]], None]) -> None:
        self._driver = driver
        self._forget = forget
        self._io = io
        self._items: Items
        self._ledger = ledger
        self._guard = ValueGuard(driver, io, ledger)
        self._limits = LimitHistory()
        ledger.on_recorded = self._note_limits
        self._target: Function
        self._which = Provenance(driver)
        self._ended: Future[None] = Future()
        self._following: Future[None] | None = None
        self._note = ""
        self._rule: StopRule | None = None
        self._updater: Updater | None = None
        self._joining = threading.RLock()  # a cell may bring the function while the session does so by itself

    # ------------------------------------------------------------ the panel

    def show(self) -> None:
        """Show the live panel here, and keep it up to date until the job has ended.

        Example:
            job.show()
        """
        from restate_nb.panel import Updater, make_panel  # noqa: PLC0415 - not in scripts that show nothing

        self._updater = Updater(self._progress, make_panel(self._progress(), self))
        self._shown_in = this_cell()
        self._update_panel()

    def _update_panel(self) -> None:
        updater = self._updater
        if updater is not None:
            updater.start()
            self._ended.add_done_callback(lambda _: updater.wake())

    # ------------------------------------------------------------ how much at once

    @property
    def concurrency(self) -> int:
        """How many items may run at once; where that adapts itself, at present. Can be set while the job runs: to a
        number, a range such as `(2, 100)`, or "auto"."""
        return self._driver.work.concurrency

    @concurrency.setter
    def concurrency(self, value: Concurrency) -> None:
        self._driver.work.set_concurrency(concurrency_range("concurrency", value))
        self._note_limits(time.time())

    def _note_limits(self, now: float) -> None:
        if self._driver.work.concurrency:  # none while its function is not known here
            self._limits.note(now, self._driver.work.concurrency)

    def __len__(self) -> int:
        return self._ledger.total

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {what}" for what, count in self.counts.items() if count)
        items = f"{self._ledger.total:,} {'item' if self._ledger.total == 1 else 'items'}"
        return f"<Job {self.name!r}: {self.status}, {items}{': ' if counts else ''}{counts}>"

    # ------------------------------------------------------------ waiting

    def done(self) -> bool:
        """Whether every item has an outcome.

        Example:
            job.done() or job.frame()
        """
        return self._ended.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, or for `timeout` seconds; says whether it has ended.

        Ctrl-C ends the waiting; the job goes on. The waiting ends, too, when the job has paused itself, since a value
        cannot be kept; that is printed. An item that waits for another job lends its place in a shared limit.

        Raises:
            InvalidInput: an item of this job waits for it, or a coroutine on the items' loop, which would never end.

        Example:
            if not job.wait(timeout=0.5):
                print(job.counts)
        """
        ended = self._wait(timeout)
        if not ended and self._guard.stands_still:
            print(f"The job {self.name!r} is {self._paused_itself()}.")
        return ended

    def _wait(self, timeout: float | None) -> bool:
        self._check_here()
        try:
            if not self._ended.done() and (timeout is None or timeout > 0):
                self._check_waiting()
                with nesting.lent():
                    self._guard.wait_ended(self._ended, timeout)
            if not self._ended.done():
                return False
        except KeyboardInterrupt:
            self._say_it_goes_on()
            raise
        if self._updater is not None:
            self._updater.join(_LAST_PANEL_SECONDS)
        return True

    def _see_that_it_goes_on(self) -> None:
        """Whoever waits for more must not wait for ever.

        Raises:
            JobError: the job has paused itself.
        """
        if self._guard.stands_still and not self.done():
            raise JobError(f"The job {self.name!r} is {self._paused_itself()}.", self.frame())

    def _check_here(self) -> None:
        if not self._ended.done():
            self._io.check()

    def _check_waiting(self, *, blocks: bool = True) -> None:
        """See that whoever waits here is not what the job waits for.

        Raises:
            InvalidInput: it is an item of this job, or of one that such an item has begun; or it blocks the loop.
        """
        if nesting.is_within(self._driver.work.prints.job):
            raise InvalidInput(
                f"An item of {self.name!r} waits for its own job, or for one that waits for it: it cannot end before "
                "this item does. Begin a job of another name, over other items."
            )
        if blocks and blocked_by_waiting():
            raise InvalidInput(
                f"This waits for the job {self.name!r} in an `async def` function, and so blocks the loop on which "
                "items run: the job could never end. Write `await job` (or `async for` over rnb.as_completed(job)), "
                "or make the function a plain `def`, which runs in a thread."
            )

    def _say_it_goes_on(self) -> None:
        print(f"Stopped waiting; the job goes on. {self.name!r}: job.result() waits again, job.cancel() ends it.")

    def result(self, timeout: float | None = None) -> pd.DataFrame:
        """Wait until every item has an outcome, and return the frame. Failed items are rows, not exceptions.

        Args:
            timeout: the most to wait, in seconds; the job goes on after it.

        Raises:
            TimeoutError: it took longer.
            JobError: the job could not be followed to its end, or gave up: see `fail_fast` of `rnb.map`; or it has
                paused itself, since what an item returned cannot be kept.
            InvalidInput: see `wait`.

        Example:
            frame = job.result(timeout=60)
        """
        if not self._wait(timeout):
            self._see_that_it_goes_on()
            raise TimeoutError(
                f"{self._ledger.done:,} of {self._ledger.total:,} items are done after {timeout:g} s; the job goes on. "
                "job.frame() shows what is there."
            )
        return self._result()

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        return self._awaited().__await__()

    async def _awaited(self) -> pd.DataFrame:
        self._check_here()
        try:
            if not self._ended.done():
                self._check_waiting(blocks=False)
                async with nesting.lent_while_awaited():
                    await until_done(self._ended, lambda: self._guard.stands_still)
            if self._ended.done():
                self._ended.result()
        except asyncio.CancelledError:
            if this_cell() is not None:  # in a notebook that is Ctrl-C; elsewhere a caller's own timeout
                self._say_it_goes_on()
            raise
        except InvalidInput:
            if not self._ended.done():
                raise
        except Exception:  # told with its cause by _result
            self._ended.exception()
        self._see_that_it_goes_on()
        self._wait(None)  # for the last panel; the job has ended
        return self._result()

    def _result(self) -> pd.DataFrame:
        error = self._ended.exception()
        if error is not None:
            kept = "" if self._driver.lost() else " What is recorded is safe; run its cell again."
            raise JobError(
                f"The job could not be followed to its end: {str(error).rstrip('.')}.{kept}", self.frame()
            ) from error
        self._see_that_it_went_on()
        return self.frame()

    def _see_that_it_went_on(self) -> None:
        last = len(self._driver.manifest.rounds) - 1
        gave_up = self._ledger.gave_up(last)
        if gave_up is None and self._rule is not None:
            gave_up = self._rule.broken(*self._ledger.tally(last))  # with nothing left to cancel
        if gave_up is None:
            return
        counts = self._ledger.counts
        raise JobError(
            f"{gave_up} {counts[OK]:,} have a value, {counts[CANCELLED]:,} were cancelled. {self._kinds()}\n"
            "job.errors() groups the failures; the frame is job.frame(), and `frame` of this error. "
            "Repair what failed, run the cell of the function, and job.retry_failed() goes on.",
            self.frame(),
        )

    def _kinds(self) -> str:
        kinds = [each for each in self._ledger.error_groups() if each.error_type != FAIL_FAST]
        return "; ".join(f"{each.count:,} x {each.error_type}: {each.message}" for each in kinds[:3])

    # ------------------------------------------------------------ outcomes

    def values(self) -> list[T]:
        """Wait, and return what the function returned for each item, in input order.

        Raises:
            JobError: an item failed or was cancelled, or its value cannot be read here; its `frame` has all outcomes.

        Example:
            import restate_nb as rnb

            try:
                total = sum(job.values())
            except rnb.JobError as error:
                print(error.frame["status"].value_counts())
        """
        frame = self.result()
        bad = self._ledger.total - self._ledger.counts[OK]
        if bad:
            raise JobError(
                f"{bad:,} of {self._ledger.total:,} items have no value ({self._kinds()}). "
                "job.errors() groups them, job.retry_failed() runs them again, job.frame() has the others' values.",
                frame,
            )
        raws = self._ledger.raws(range(self._ledger.total))
        return [self._read(raw, position, frame) for position, raw in enumerate(raws)]

    def _read(self, raw: bytes, position: int, frame: pd.DataFrame) -> Any:
        try:
            return self._target.value(raw, position)
        except Exception as error:
            raise JobError(
                f"The value of item {position} (index {self._items.index()[position]!r}) is recorded and cannot be "
                f"read: {error} job.frame() has the others' values, and the reason in place of those that cannot be.",
                frame,
            ) from error

    # ------------------------------------------------------------ steering

    def cancel(self) -> None:
        """End the job: running coroutines are cancelled, threads are no longer waited for, the rest is not started.
        What is done stays. While Restate is away this returns after some seconds, and the job is cancelled as soon as
        it is back.

        Example:
            job.cancel()
        """
        if self.done():
            return
        cancelling = self._io.start(self._driver.cancel())
        try:
            cancelling.result(_CANCEL_SECONDS)
        except FutureTimeoutError:
            print(
                f"Cancelling {self.name!r} takes its time, and goes on by itself: "
                "job.diagnose() says whether Restate is away."
            )
            return
        if not blocked_by_waiting() and not nesting.is_within(self._driver.work.prints.job):
            with suppress(Exception):  # told by whoever asks for the result
                self._ended.exception(_CANCELLED_SECONDS)
            self._wait(0)  # for the last panel

    def pause(self) -> None:
        """Start no more items, until `resume()`; what runs goes on. It holds when the kernel is restarted, too.

        Example:
            job.pause()
        """
        self._io.run(self._driver.pause(True))

    def resume(self) -> None:
        """Go on after `pause()`, or after the job has paused itself: values that cannot be kept do not pause it again
        before its function changes.

        Example:
            job.resume()
        """
        if self._guard.found is not None:
            self._guard.let_go().result()
        else:
            self._io.run(self._driver.pause(False))

    def retry_failed(self, where: Where = None) -> Job[T]:
        """Run failed and cancelled items again, with the function as it is now. Returns this job.

        Args:
            where: which of them; all by default. An exception class or its name, or a tuple of these; a function of
                the frame of failed items, which returns one truth value a row; or a list of index labels.

        Raises:
            InvalidInput: the job still runs, or `where` names an item that has not failed.

        Example:
            job.retry_failed(TimeoutError)
            job.result()
            job.retry_failed(lambda failed: failed["error"].str.contains("429"))
        """
        if not self.done():
            if self._guard.stands_still:
                raise InvalidInput(f"The job {self.name!r} is {self._paused_itself()}.")
            raise InvalidInput("The job still runs. Retry when it has ended, or cancel it first: job.cancel().")
        positions = self._chosen(where)
        if positions:
            if self._which.now is None:
                raise InvalidInput(
                    f"The function {self._target.name} is not known here: run the cell that maps it first."
                )
            if self._guard.found is not None:
                self._guard.let_go(watch=True).result()
            number = self._io.run(self._add_round(positions))
            self._follow([number])
            self._update_panel()
        return self

    def delete(self) -> None:
        """Drop the job and its outcomes from Restate, after cancelling it if it runs. What this handle has stays.

        Example:
            job.delete()
        """
        self.cancel()
        self._io.run(self._driver.delete())
        self._forget(self)

    def restart(self) -> int:
        """Run the invocations of a durable function that no longer match their journals from the beginning.

        That happens to those in flight when the function's steps are changed: Restate replays the steps that are
        recorded, and finds others. What they did before is done again. Returns how many there were.

        Example:
            job.restart()
        """
        return self._io.run(self._driver.work.restart())

    # ------------------------------------------------------------ from the session

    def _provide(
        self,
        target: Function,
        items: Items,
        policy: RunPolicy,
        batch: Batch | None,
        identity: Identity,
        *,
        again: bool = False,
    ) -> Older:
        """Bring the function as it is now, and the index under which the same items were passed this time.

        Args:
            again: run again what older code or content made.

        Returns:
            What has changed since the items ran last.
        """
        self._which.asked_again = again
        older = self._bring(target, items, policy, batch, identity)
        if (older or not older.known) and not self.done() and self._driver.manifest.unfinished:
            self._io.run(self._which.record())
        if again and self.done() and self._ended.exception() is None:
            self._follow([])
        return older

    def _bring(
        self, target: Function, items: Items, policy: RunPolicy, batch: Batch | None, identity: Identity
    ) -> Older:
        with self._joining:
            if batch is not None and self._driver.batches is not None:
                self._driver.batches.pause = batch.pause
            older = self._which.bring(target, identity, finished=self.done() or not self._driver.manifest.unfinished)
            if older and not self.done():
                what = target.name if older.code else listed(older.data)
                self._note = f"{what} has changed: items that are still to start use it as it is now"
            else:
                self._note = ""
            self._rule = policy.stop_rule
            self._limits.per_second = policy.per_second
            self._guard.provide(target, self._which.code, lambda: self._driver.work.set_function(target, policy))
            self._note_limits(time.time())
            again = self._following is not None
            self._attach(target, items)
            if again:
                self._ledger.attached = self._ledger.done
            return older

    def _attach(self, target: Function, items: Items) -> None:
        """Follow the job from wherever it stands, unless that is being done already."""
        with self._joining:
            self._target = target
            self._items = items
            lost = self._ended.done() and self._ended.exception() is not None
            if self._following is None or lost:  # lost: Restate was away for too long, say, and may be there again
                if not self._driver.created:
                    self._ledger.attached_at = time.time()
                if self._which.now is None:
                    self._note = f"waiting for {target.name}: run the cell that maps it"
                self._follow(range(len(self._driver.manifest.rounds)))

    def _follow(self, rounds: Iterable[int]) -> None:
        ended: Future[None] = Future()
        self._ended = ended

        async def follow() -> None:
            watching = asyncio.create_task(self._which.watch(self._ledger))
            try:
                self._driver.work.connect_ledger()
                for number in rounds:
                    await self._driver.finish(number)
                if self._which.asked_again and self._ledger.complete:
                    self._which.asked_again = False
                    if positions := self._which.older_positions(self._ledger):
                        await self._driver.finish(await self._add_round(positions))
                if not self._ledger.complete:
                    raise RuntimeError(f"{self._ledger.total - self._ledger.done} items have no outcome")
                concluding = asyncio.create_task(self._conclude())
                try:
                    await asyncio.wait({concluding}, timeout=_NOTED_SECONDS)
                except asyncio.CancelledError:
                    concluding.cancel()
                    raise
                if not concluding.done():
                    ended.set_result(None)  # all outcomes are here; the end is noted when Restate is back
                await concluding
            except asyncio.CancelledError:
                self._let_go(ended)
                raise
            except BaseException as error:
                _end(ended, cause_of(error) if isinstance(error, Exception) else error)
            else:
                _end(ended, None)
            finally:
                watching.cancel()

        self._following = self._io.start(follow())

    async def _conclude(self) -> None:
        await self._which.settle()
        await self._driver.conclude()

    async def _add_round(self, positions: list[int]) -> int:
        await asyncio.to_thread(self._which.run_here)
        await self._which.record_if_changed()
        return await self._driver.add_round(positions, self._which.code)

    def _give_up(self, error: ServerError) -> None:
        """Follow the job no longer, for this reason. On the session's loop."""
        if not self._ended.done():
            self._ended.set_exception(error)
            self._leave()

    def _leave(self) -> None:
        """Stop following the job; it stays where it is."""
        if self._following is not None:
            self._following.cancel()

    def _let_go(self, ended: Future[None] | None = None) -> None:
        """Tell those who wait that nobody follows the job any more."""
        _end(ended or self._ended, SessionStopped("the session was stopped"))


def _end(ended: Future[None], error: BaseException | None) -> None:
    with suppress(InvalidStateError):  # the session was stopped, which has told so already
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
