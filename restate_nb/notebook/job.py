"""The handle on a job: what it is doing, its outcomes, its charts, and how to steer it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from restate_nb.engine.lane import FAIL_FAST
from restate_nb.engine.record import CANCELLED, OK
from restate_nb.engine.target import Target
from restate_nb.errors import InvalidInput, JobError, ServerError
from restate_nb.limit import Concurrency, StopRule, concurrency_range, stop_rule
from restate_nb.notebook.batches import Batch
from restate_nb.notebook.driver import Driver
from restate_nb.notebook.inputs import Items
from restate_nb.notebook.ledger import Ledger
from restate_nb.notebook.limits import Limits
from restate_nb.notebook.loops import LoopThread, until_done
from restate_nb.notebook.outcomes import Where
from restate_nb.notebook.visible import SessionStopped, Visible, this_cell
from restate_nb.notebook.which import Older, Which, listed
from restate_nb.policy import RunPolicy
from restate_nb.service.identity import Identity

if TYPE_CHECKING:
    import pandas as pd


T = TypeVar("T")

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

    def __init__(self, driver: Driver, io: LoopThread, ledger: Ledger, forget: Callable[[Job[Any]], None]) -> None:
        self._driver = driver
        self._forget = forget
        self._io = io
        self._items: Items
        self._ledger = ledger
        self._limits = Limits()
        ledger.heard = self._note_limits
        self._target: Target
        self._which = Which(driver)
        self._ended: Future[None] = Future()
        self._following: Future[None] | None = None
        self._note = ""
        self._rule: StopRule | None = None
        self._joining = threading.RLock()  # a cell may bring the function while the session does so by itself

    # ------------------------------------------------------------ how much at once

    @property
    def concurrency(self) -> int:
        """How many items may run at once; where that adapts itself, at present. Can be set while the job runs: to a
        number, a range such as `(2, 100)`, or "auto"."""
        return self._driver.work.concurrency

    @concurrency.setter
    def concurrency(self, value: Concurrency) -> None:
        concurrency_range("concurrency", value)
        self._driver.work.set_concurrency(value)
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

        Ctrl-C ends the waiting; the job goes on.

        Example:
            if not job.wait(timeout=0.5):
                print(job.counts)
        """
        ended = self._ended
        try:
            ended.exception(timeout)
        except FutureTimeoutError:
            return False
        except KeyboardInterrupt:
            self._say_it_goes_on()
            raise
        if self._showing is not None:
            self._showing.join(_LAST_PANEL_SECONDS)
        return True

    def _say_it_goes_on(self) -> None:
        print(f"Stopped waiting; the job goes on. {self.name!r}: job.result() waits again, job.cancel() ends it.")

    def result(self, timeout: float | None = None) -> pd.DataFrame:
        """Wait until every item has an outcome, and return the frame. Failed items are rows, not exceptions.

        Args:
            timeout: the most to wait, in seconds; the job goes on after it.

        Raises:
            TimeoutError: it took longer.
            JobError: the job could not be followed to its end, or gave up: see `fail_fast` of `rnb.map`.

        Example:
            frame = job.result(timeout=60)
        """
        if not self.wait(timeout):
            raise TimeoutError(
                f"{self._ledger.done:,} of {self._ledger.total:,} items are done after {timeout:g} s; the job goes on. "
                "job.frame() shows what is there."
            )
        return self._result()

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        return self._awaited().__await__()

    async def _awaited(self) -> pd.DataFrame:
        try:
            await until_done(self._ended)
        except asyncio.CancelledError:
            if this_cell() is not None:  # in a notebook that is Ctrl-C; elsewhere a caller's own timeout
                self._say_it_goes_on()
            raise
        except Exception:  # told with its cause by _result
            self._ended.exception()
        self.wait()  # for the last panel; the job has ended
        return self._result()

    def _result(self) -> pd.DataFrame:
        error = self._ended.exception()
        if error is not None:
            raise JobError(
                f"The job could not be followed to its end: {str(error).rstrip('.')}. What is recorded is safe; run "
                "its cell again.",
                self.frame(),
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
            JobError: an item failed or was cancelled; its `frame` has all outcomes.

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
        return [self._target.value(raw, position) for position, raw in enumerate(raws)]

    # ------------------------------------------------------------ steering

    def cancel(self) -> None:
        """End the job: running coroutines are cancelled, threads are no longer waited for, the rest is not started.
        What is done stays.

        Example:
            job.cancel()
        """
        if not self.done():
            self._io.run(self._driver.cancel())
            self.wait(30)

    def pause(self) -> None:
        """Start no more items, until `resume()`; what runs goes on. It holds when the kernel is restarted, too.

        Example:
            job.pause()
        """
        self._io.run(self._driver.pause(True))

    def resume(self) -> None:
        """Go on after `pause()`.

        Example:
            job.resume()
        """
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
            raise InvalidInput("The job still runs. Retry when it has ended, or cancel it first: job.cancel().")
        positions = self._chosen(where)
        if positions:
            if self._which.now is None:
                raise InvalidInput(
                    f"The function {self._target.name} is not known here: run the cell that maps it first."
                )
            number = self._io.run(self._add_round(positions))
            self._follow([number])
            if self._panel is not None:
                self._panel.reopen()
                self._keep_up()
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
        target: Target,
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

    def _bring(self, target: Target, items: Items, policy: RunPolicy, batch: Batch | None, identity: Identity) -> Older:
        with self._joining:
            if batch is not None and self._driver.batches is not None:
                self._driver.batches.pause = batch.pause
            older = self._which.bring(target, identity, finished=self.done() or not self._driver.manifest.unfinished)
            if older and not self.done():
                what = target.name if older.code else listed(older.data)
                self._note = f"{what} has changed: items that are still to start use it as it is now"
            else:
                self._note = ""
            self._rule = stop_rule(policy.fail_fast)
            self._limits.per_second = policy.per_second
            self._driver.work.provide(target, policy)
            self._note_limits(time.time())
            again = self._following is not None
            self._attach(target, items)
            if again:
                self._ledger.attached = self._ledger.done
            return older

    def _attach(self, target: Target, items: Items) -> None:
        """Follow the job from wherever it stands, unless that is being done already."""
        with self._joining:
            self._target = target
            self._items = items
            lost = self._ended.done() and isinstance(self._ended.exception(), ServerError)
            if self._following is None or lost:  # lost: Restate was away for too long, and may be there again
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
                self._driver.work.listen()
                for number in rounds:
                    await self._driver.finish(number)
                if self._which.asked_again and self._ledger.complete:
                    self._which.asked_again = False
                    if positions := self._which.older_positions(self._ledger):
                        await self._driver.finish(await self._add_round(positions))
                if not self._ledger.complete:
                    raise RuntimeError(f"{self._ledger.total - self._ledger.done} items have no outcome")
                await self._which.settle()
                await self._driver.conclude()
            except asyncio.CancelledError:
                ended.set_exception(SessionStopped("the session was stopped"))
                raise
            except Exception as error:
                ended.set_exception(error)
            else:
                ended.set_result(None)
            finally:
                watching.cancel()

        self._following = self._io.start(follow())

    async def _add_round(self, positions: list[int]) -> int:
        await asyncio.to_thread(self._which.run_here)
        await self._which.record_if_changed()
        return await self._driver.add_round(positions, self._which.code)

    def _leave(self) -> None:
        """Stop following the job; it stays where it is."""
        if self._following is not None:
            self._following.cancel()
