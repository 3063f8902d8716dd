"""Takes a job to its end: provides its function, follows each of its rounds, and concludes it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from restate_nb.backends import BACKENDS
from restate_nb.backends.base import Backend
from restate_nb.engine.function import Executor, Function
from restate_nb.engine.loop_thread import LoopThread
from restate_nb.engine.record import CANCELLED, OK
from restate_nb.engine.waiting import cause_of
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.handle.advice import ProcessAdvice, warn_of_copied_generators
from restate_nb.handle.batches import Batch, Batches
from restate_nb.handle.diagnosis import StallProbe
from restate_nb.handle.function_changes import Older, listed
from restate_nb.handle.items import Items
from restate_nb.handle.provenance import Provenance
from restate_nb.handle.record import JobRecord
from restate_nb.handle.value_guard import ValueGuard
from restate_nb.limits import StopRule
from restate_nb.policy import RunPolicy
from restate_nb.results import memory
from restate_nb.results.ledger import Ledger
from restate_nb.results.limit_history import LimitHistory
from restate_nb.server.http import Unreachable
from restate_nb.service.identity import Identity
from restate_nb.service.wire import Manifest, Round, Summary

if TYPE_CHECKING:
    from restate_nb.panel.updater import Updater

_AGAIN_SECONDS: Final = 0.5
"""From a cancellation of which Restate did not hear to the next try."""

NOTED_SECONDS: Final = 5.0
"""That is waited at most until Restate knows that a job has ended, where something depends on that."""

_log = logging.getLogger(__name__)


class SessionStopped(RuntimeError):
    """Nobody follows the job any longer; it stays where it is."""


@dataclass(slots=True, eq=False)
class JobData:
    """What this process knows of a job, of which all that is shown is made.

    Attributes:
        record: the job as Restate knows it.
        backend: how its items are run.
        ledger: their outcomes.
        items: as they were given; of a job that was found in Restate, as they were sent.
        function: as its cell has it now.
        provenance: what it was when the items ran.
        limits: what limited them over time.
    """

    record: JobRecord
    backend: Backend
    ledger: Ledger
    items: Items
    function: Function
    provenance: Provenance
    limits: LimitHistory = field(default_factory=LimitHistory)

    @property
    def name(self) -> str:
        """The job's name."""
        return self.record.manifest.name

    @property
    def manifest(self) -> Manifest:
        """The job as Restate knows it."""
        return self.record.manifest


async def data_of(record: JobRecord, function: Function, items: Items) -> JobData:
    """What there is to know of a job whose record is open."""
    manifest = record.manifest
    ledger = Ledger(manifest.total)
    backend = BACKENDS[manifest.kind](record.connection, manifest, items.encoded, ledger)
    if manifest.cancelled:
        await backend.cancel()
    if manifest.paused:
        backend.pause()
    for number, round_ in enumerate(manifest.rounds):
        chosen = round_.chosen(manifest.total)
        if chosen is not None:
            ledger.begin_round(number, chosen)
    return JobData(record, backend, ledger, items, function, Provenance(record))


class JobRunner:
    """Runs one job. Its coroutines belong to the session's own loop, the rest to any thread.

    Attributes:
        data: what is known of the job.
        io: the session's own loop.
        batches: sees to it that its items are run in batches; None when they are not.
        guard: pauses it when a value cannot be kept.
        stall: finds out why nothing is recorded.
        advice: says what would make it faster.
        stop_rule: after how many failures it gives up.
        note: what its panel says while it goes on well; often empty.
        panel: keeps what shows the job up to date; None where nothing does.
        ended: is done when every item has an outcome, or nobody follows the job any longer.
    """

    def __init__(self, data: JobData, io: LoopThread) -> None:
        manifest = data.manifest
        self.data = data
        self.io = io
        self.batches = None if manifest.batch is None else Batches(data.backend, data.ledger, manifest.batch)
        self.guard = ValueGuard(data.record, data.backend, data.ledger, io, lambda: self.set_paused(False))
        self.stall = StallProbe(data.record.connection.trouble)
        self.advice = ProcessAdvice()
        self.stop_rule: StopRule | None = None
        self.note = ""
        self.panel: Updater | None = None
        self.ended: Future[None] = Future()
        self._following: Future[None] | None = None
        self._noting: asyncio.Task[None] | None = None  # that the job has ended
        self._attaching = threading.RLock()  # a cell may bring the function while the session does so by itself
        data.ledger.on_recorded = self.note_limits

    def note_limits(self, now: float) -> None:
        """Take down how many items may run at once; `now` in seconds since 1970."""
        if self.data.backend.concurrency:  # none while its function is not known here
            self.data.limits.note(now, self.data.backend.concurrency)

    def elapsed(self, now: float | None) -> float:
        """For how many seconds its rounds went on; `now` is the end of one that still does, in seconds since 1970."""
        return self.data.ledger.busy([each.started for each in self.data.manifest.rounds], now)

    # ------------------------------------------------------------ its function

    def provide(
        self,
        function: Function,
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
        provenance = self.data.provenance
        provenance.asked_again = again
        older = self.set_function(function, items, policy, batch, identity)
        if (older or not older.known) and not self.ended.done() and self.data.manifest.unfinished:
            self.io.run(provenance.note())
        if again and self.ended.done() and self.ended.exception() is None:
            self.follow([])
        return older

    def set_function(
        self, function: Function, items: Items, policy: RunPolicy, batch: Batch | None, identity: Identity
    ) -> Older:
        """`provide`, with nothing noted in Restate, and nothing run again."""
        with self._attaching:
            return self._set_function(function, items, policy, batch, identity)

    def set_first_function(
        self, function: Function, items: Items, policy: RunPolicy, batch: Batch | None, identity: Identity
    ) -> Older | None:
        """`set_function`, unless one is known: then that holds, with its options, and this returns None."""
        with self._attaching:
            if self.data.provenance.now is not None:
                return None
            return self._set_function(function, items, policy, batch, identity)

    def _set_function(
        self, function: Function, items: Items, policy: RunPolicy, batch: Batch | None, identity: Identity
    ) -> Older:
        data = self.data
        if batch is not None and self.batches is not None:
            self.batches.pause = batch.pause
        finished = self.ended.done() or not data.manifest.unfinished
        older = data.provenance.provide(function, identity, finished=finished)
        if older and not self.ended.done():
            what = function.name if older.code else listed(older.data)
            self.note = f"{what} has changed: items that are still to start use it as it is now"
        else:
            self.note = ""
        self.stop_rule = policy.stop_rule
        data.limits.per_second = policy.per_second
        code = f"{data.provenance.code} pickled" if function.classes.pickles else data.provenance.code
        self.guard.provide(function, code, lambda: data.backend.set_function(function, policy))
        self.note_limits(time.time())
        again = self._following is not None
        data.function, data.items = function, items
        self.attach()
        if again:
            data.ledger.attached = data.ledger.done
        return older

    def set_executor(self, executor: Executor) -> None:
        """Have another executor run what has not begun, until the function is brought anew.

        Raises:
            InvalidInput: the job has none, or the function cannot be run by it. Nothing was changed.
        """
        data = self.data
        with self._attaching:
            if executor == data.function.executor:
                return
            function = data.function.with_executor(executor)
            if data.provenance.now is None and data.manifest.kind == "local":
                raise InvalidInput(f"The function {function.name} is not known here: run the cell that maps it first.")
            if executor == "process":
                warn_of_copied_generators(function)
            data.backend.set_executor(function)
            data.function = function
            data.provenance.set_executor(function, finished=self.ended.done())
            self.note_limits(time.time())

    async def reopen(self, wanted: Manifest, fresh: bool) -> JobRecord:
        """Open the record of this job, or of another of its name, and follow what other processes changed of this one.

        Args:
            wanted: the job as it would begin.
            fresh: begin it anew.
        """
        data = self.data
        opened, before = await data.record.reopen(wanted, fresh=fresh, had_ended=self.ended.done)
        if opened.manifest is not data.manifest:
            return opened
        if opened.manifest.paused != before.paused:
            (data.backend.resume if before.paused else data.backend.pause)()
        if rounds := range(len(before.rounds), len(opened.manifest.rounds)):
            for number in rounds:
                data.ledger.begin_round(number, data.manifest.rounds[number].chosen(data.manifest.total) or ())
            data.backend.reopen()
            followed_to_its_end = self.ended.done() and self.ended.exception() is None
            self.follow(rounds if followed_to_its_end else range(rounds.stop))
            self.update_panel()
        return opened

    # ------------------------------------------------------------ its rounds

    def attach(self) -> None:
        """Follow the job from wherever it stands, unless that is being done already."""
        data = self.data
        with self._attaching:
            lost = self.ended.done() and self.ended.exception() is not None
            if self._following is None or lost:  # lost: Restate was away for too long, say, and may be there again
                if not data.record.created:
                    data.ledger.attached_at = time.time()
                if data.provenance.now is None:
                    self.note = f"waiting for {data.function.name}: run the cell that maps it"
                self.follow(range(len(data.manifest.rounds)))

    def follow(self, rounds: Iterable[int]) -> None:
        """See these rounds to their ends, and then the job."""
        self.ended = ended = Future[None]()
        self._following = self.io.start(self._follow(rounds, ended))

    async def _follow(self, rounds: Iterable[int], ended: Future[None]) -> None:
        watching = asyncio.create_task(self.data.provenance.watch(self.data.ledger))
        try:
            await self._finish_rounds(rounds)
            await self._conclude(ended)
        except asyncio.CancelledError:
            self.end_waiting(ended)
            raise
        except BaseException as error:
            if ended.done():
                _log.warning("It is not noted that the job %r has ended: %r", self.data.name, error)
            _end(ended, cause_of(error) if isinstance(error, Exception) else error)
        else:
            _end(ended, None)
        finally:
            watching.cancel()

    async def _finish_rounds(self, rounds: Iterable[int]) -> None:
        data = self.data
        data.backend.connect_ledger()
        for number in rounds:
            await self._finish_round(number)
        if data.provenance.asked_again and data.ledger.complete:
            data.provenance.asked_again = False
            if positions := data.provenance.older_positions(data.ledger):
                await self._finish_round(await self._add_round(positions))
        if not data.ledger.complete:
            raise RuntimeError(f"{data.ledger.total - data.ledger.done} items have no outcome")

    async def _finish_round(self, number: int) -> None:
        """See a round's items to their outcomes, wherever they stand."""
        data = self.data
        round_ = data.manifest.rounds[number]
        chosen = round_.chosen(data.manifest.total)
        positions = range(data.ledger.total) if chosen is None else chosen

        async def submitted() -> None:
            await data.record.change(patient=True, submitted=number)

        way = data.backend if self.batches is None else self.batches
        await way.run_round(number, positions, None if round_.submitted else submitted)

    async def _add_round(self, positions: list[int]) -> int:
        """Open these items again, and return the number of the round that is for them."""
        data = self.data
        await asyncio.to_thread(data.provenance.look_again)
        await data.provenance.note_if_changed()
        data.backend.reopen()
        await data.record.ready()
        positions = sorted(positions)  # as its record will tell them
        code = data.provenance.code
        await data.record.change(add_round=Round.over(positions, data.manifest.total, code=code, started=time.time()))
        number = len(data.manifest.rounds) - 1
        data.ledger.begin_round(number, positions)
        return number

    async def _conclude(self, ended: Future[None]) -> None:
        """All outcomes are here: the job has ended. Whoever waits for it learns what its function changed, and whether
        it gave up, but does not wait until the end is noted."""
        settling = asyncio.create_task(self.data.provenance.settle())
        try:
            if self.data.ledger.total >= memory.MANY_ITEMS:
                await asyncio.to_thread(memory.give_back)
            await asyncio.wait({settling}, timeout=NOTED_SECONDS)
            self._noting = noting = asyncio.create_task(self._note_end(settling))
            if self._gave_up():
                await asyncio.wait({noting}, timeout=NOTED_SECONDS)
        except asyncio.CancelledError:
            settling.cancel()
            raise
        if not noting.done():
            _end(ended, None)
        await noting

    def _gave_up(self) -> bool:
        return self.data.ledger.gave_up(len(self.data.manifest.rounds) - 1) is not None

    async def noted(self) -> None:
        """Wait until it is noted that the job has ended, if it has; as long as that may take while Restate answers."""
        if (noting := self._noting) is not None and not noting.done():
            await asyncio.wait({noting}, timeout=NOTED_SECONDS)

    async def delete(self) -> None:
        """Drop the job from Restate; no note of it comes afterwards."""
        await self.noted()
        if self._noting is not None:
            self._noting.cancel()
        await self.data.record.delete()

    async def _note_end(self, settling: asyncio.Task[None]) -> None:
        """Note how the job ended, for those who list jobs, once it is known what its function changed."""
        data = self.data
        await settling
        ledger, manifest = data.ledger, data.manifest
        summary = Summary(
            ok=ledger.counts[OK],
            failed=ledger.failed,
            cancelled=ledger.counts[CANCELLED],
            at=ledger.last_end or time.time(),
            busy=self.elapsed(None),
        )
        if manifest.summary != summary:
            await data.record.change(patient=True, summary=summary, cancelled=True if self._gave_up() else None)

    # ------------------------------------------------------------ steering

    async def cancel(self) -> None:
        """End every item that has no outcome. While Restate is away it is tried again."""
        while True:
            try:
                await self.data.backend.cancel()
                break
            except Unreachable:
                await asyncio.sleep(_AGAIN_SECONDS)
        await self.data.record.change(patient=True, cancelled=True)

    async def set_paused(self, paused: bool) -> None:
        """Start nothing more, or go on; it holds in the next process, too."""
        backend = self.data.backend
        (backend.pause if paused else backend.resume)()
        await self.data.record.change(paused=paused)
        if not paused:
            await self.data.record.resume_invocations()

    def retry(self, positions: list[int]) -> None:
        """Run these items again, with the function as it is now."""
        if self.guard.unkept is not None:
            self.guard.resume(watch=True).result()
        self.follow([self.io.run(self._add_round(positions))])
        self.update_panel()

    # ------------------------------------------------------------ its panel

    def show_on(self, panel: Updater) -> None:
        """Keep this panel up to date from now on."""
        self.panel = panel
        self.update_panel()

    def update_panel(self) -> None:
        """Keep the panel up to date until the job has ended."""
        if (panel := self.panel) is not None:
            panel.start()
            self.ended.add_done_callback(lambda _: panel.wake())

    # ------------------------------------------------------------ without its session

    def give_up(self, error: ServerError) -> None:
        """Follow the job no longer, for this reason. On the session's loop."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.stop_following()

    def stop_following(self) -> None:
        """Stop following the job; it stays where it is."""
        if self._following is not None:
            self._following.cancel()

    def end_waiting(self, ended: Future[None] | None = None) -> None:
        """Tell those who wait that nobody follows the job any more."""
        _end(ended or self.ended, SessionStopped("the session was stopped"))


def _end(ended: Future[None], error: BaseException | None) -> None:
    with suppress(InvalidStateError):  # the session was stopped, which has told so already
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
