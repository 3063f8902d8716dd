"""Takes a job to its end: opens it, and sees each of its rounds through. Runs on the session's own loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from restate_nb.backends import BACKENDS
from restate_nb.backends.base import Backend
from restate_nb.backends.connection import Connection
from restate_nb.backends.introspection import JobInvocations
from restate_nb.engine.record import CANCELLED, OK
from restate_nb.errors import JobMismatch
from restate_nb.handle.batches import Batches
from restate_nb.handle.provenance import check_bound
from restate_nb.handle.stall_probe import StallProbe
from restate_nb.results.ledger import Ledger
from restate_nb.results.spool import Spool
from restate_nb.server.admin import order_all
from restate_nb.server.http import Unreachable
from restate_nb.service.wire import Change, Manifest, Round, Summary, Unkept

if TYPE_CHECKING:
    import pandas as pd

_AGAIN_SECONDS: Final = 0.5
"""From a cancellation of which Restate did not hear to the next try."""

_PURGE_SECONDS: Final = 10.0
"""That `delete` waits for what it drops; the rest is purged behind its back."""


class JobRunner:
    """One job's way through Restate.

    Attributes:
        manifest: the job as Restate knows it.
        work: how its items are run.
        batches: sees to it that they are run in batches; None when they are not.
        created: whether this process began the job, rather than found it.
        lookout: finds out why nothing is recorded.
    """

    def __init__(
        self, connection: Connection, manifest: Manifest, work: Backend, ledger: Ledger, *, created: bool
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self.manifest = manifest
        self.work = work
        self.batches = None if manifest.batch is None else Batches(work, ledger, manifest.batch)
        self.created = created
        self._changing = asyncio.Lock()  # a cancellation that waits for Restate must not overtake a later retry
        self.lookout = StallProbe(connection.trouble)

    @property
    def session(self) -> str:
        """Whose job it is: the session's, or its workers', in the names of their services."""
        return self._connection.session

    @property
    def manner(self) -> str:
        """How the job's concurrency is kept, where that is not in this process; else empty."""
        return self.work.concurrency_note

    @property
    def shortage(self) -> str:
        """What the machine has too little of, in words; empty when nothing is known of that."""
        return self.work.shortage

    @classmethod
    async def open(
        cls, connection: Connection, wanted: Manifest, encoded: Spool, ledger: Ledger, *, fresh: bool
    ) -> JobRunner:
        """Begin the job, or find the one that has its name.

        Raises:
            JobMismatch: the one that is there is over other items, or runs them in another way.
        """
        await (connection.job_store.ready if wanted.kind == "deployed" else connection.register)()
        if fresh:
            await connection.job_store.kill_stuck_requests(wanted.name, connection.admin_if_any)
        there, created = await connection.job_store.open(wanted, fresh=fresh)
        if (there.items, there.options, there.total) != (wanted.items, wanted.options, wanted.total):
            raise JobMismatch(_mismatch(there, wanted))
        check_bound(there, wanted)
        if there.recipe != wanted.recipe:
            change = Change(generation=there.generation, recipe=wanted.recipe or "")
            there = await connection.job_store.change(there, change)
        if created and there.generation > 1:
            connection.runs.get(there.name, there.generation - 1).cancel()  # else its shards wait for ever
            if there.kind == "workers" and connection.admin_if_any is not None:
                older = msgspec.structs.replace(there, generation=there.generation - 1)
                # without the API they run to their end
                await JobInvocations.of(connection.session, older).cancel(connection.admin)
            connection.sweep()
        return await cls.of(connection, there, encoded, ledger, created=created)

    @classmethod
    async def of(
        cls, connection: Connection, there: Manifest, encoded: Spool, ledger: Ledger, *, created: bool
    ) -> JobRunner:
        """The way of a job that Restate knows."""
        work = BACKENDS[there.kind](connection, there, encoded, ledger)
        if there.cancelled:
            await work.cancel()
        if there.paused:
            work.pause()
        for number, round_ in enumerate(there.rounds):
            chosen = round_.chosen(there.total)
            if chosen is not None:
                ledger.begin_round(number, chosen)
        return cls(connection, there, work, ledger, created=created)

    async def _change(self, *, patient: bool = False, **changes: object) -> None:
        """Change the manifest; `patient`: nobody waits in a cell, so for as long as Restate is away."""
        async with self._changing:
            manifest = self.manifest
            change = msgspec.convert({"generation": manifest.generation, **changes}, Change, from_attributes=True)
            self.manifest = await self._connection.job_store.change(manifest, change, patient=patient)

    async def cancel(self) -> None:
        """End every item that has no outcome. While Restate is away it is tried again."""
        while True:
            try:
                await self.work.cancel()
                break
            except Unreachable:
                await asyncio.sleep(_AGAIN_SECONDS)
        await self._change(patient=True, cancelled=True)

    async def pause(self, paused: bool) -> None:
        """Start nothing more, or go on; it holds in the next process, too."""
        (self.work.pause if paused else self.work.resume)()
        await self._change(paused=paused)
        if not paused:
            stopped = (await self.held_by_restate())[1]
            if stopped:
                await order_all(self._connection.admin.resume, stopped)

    @property
    def can_hold(self) -> bool:
        """Whether there is a way to pause what runs elsewhere."""
        return self._connection.admin_if_any is not None

    async def hold(self, unkept: Unkept) -> None:
        """Start nothing more: what the function returned cannot be kept. It holds in the next process, too."""
        if not self._ledger.complete:
            self.work.pause()
            await self._change(paused=True, unkept=unkept)

    async def held_by_restate(self) -> tuple[list[str], list[str]]:
        """What Restate itself has stopped: the reasons in words, and the ids of the invocations that are paused."""
        admin = self._connection.admin_if_any
        return ([], []) if admin is None else await self.work.invocations.stopped(admin)

    def trouble(self) -> str:
        """What is wrong with the server, in words; empty when nothing is. It may take seconds."""
        return self._connection.trouble()

    def lost(self) -> str:
        """What became of the server's data, in words; empty while they are there."""
        return self._connection.lost()

    def busy(self, now: float | None) -> float:
        """For how many seconds its rounds went on; `now` is the end of one that still does, in seconds since 1970."""
        return self._ledger.busy([each.started for each in self.manifest.rounds], now)

    async def conclude(self) -> None:
        """Note how the job ended, for those who list jobs."""
        counts = self._ledger.counts
        summary = Summary(
            ok=counts[OK],
            failed=self._ledger.failed,
            cancelled=counts[CANCELLED],
            at=self._ledger.last_end or time.time(),
            busy=self.busy(None),
        )
        gave_up = self._ledger.gave_up(len(self.manifest.rounds) - 1) is not None
        if self.manifest.summary != summary:
            await self._change(patient=True, summary=summary, cancelled=True if gave_up else None)

    async def delete(self) -> None:
        """Drop the job in its record, in one step; then purge its invocations, or leave them to the sweeper."""
        manifest, admin = self.manifest, self._connection.admin
        await self._connection.job_store.forget(manifest)
        purging = asyncio.create_task(self.work.invocations.purge(admin))
        purging.add_done_callback(lambda _: self._connection.sweep())
        await asyncio.wait({purging}, timeout=_PURGE_SECONDS)
        if purging.done():
            purging.exception()  # the sweeper tries again

    async def add_round(self, positions: list[int], code: str) -> int:
        """Open these items again, and return the number of the round that is for them."""
        self.work.reopen()
        await (self._connection.job_store.ready if self.manifest.kind == "deployed" else self._connection.register)()
        positions = sorted(positions)  # as its record will tell them
        await self._change(add_round=Round.over(positions, self.manifest.total, code=code, started=time.time()))
        number = len(self.manifest.rounds) - 1
        self._ledger.begin_round(number, positions)
        return number

    async def steps(self, index: pd.Index[Any]) -> pd.DataFrame:
        """The durable steps of the job's invocations; see `steps.read_steps`."""
        from restate_nb.backends.steps import read_steps  # noqa: PLC0415 - loads pandas

        return await read_steps(self._connection.admin, self.work.invocations, index)

    async def finish(self, number: int) -> None:
        """See a round's items to their outcomes, wherever they stand."""
        round_ = self.manifest.rounds[number]
        chosen = round_.chosen(self.manifest.total)
        positions = range(self._ledger.total) if chosen is None else chosen

        async def submitted() -> None:
            await self._change(patient=True, submitted=number)

        way = self.work if self.batches is None else self.batches
        await way.run_round(number, positions, None if round_.submitted else submitted)


def _mismatch(there: Manifest, wanted: Manifest) -> str:
    if there.total != wanted.total:
        what = f"{there.total:,} {'item' if there.total == 1 else 'items'}, and these are {wanted.total:,}"
    elif there.items != wanted.items:
        what = f"{there.total:,} other {'item' if there.total == 1 else 'items'}"
    else:
        what = "the same items, passed in another way, in other batches, or to another kind of function"
    return (
        f"There is a job {wanted.name!r} over {what}. "
        "Give this one another name=, or drop the old job and its outcomes with fresh=True."
    )
