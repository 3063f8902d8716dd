"""Items that workers run: small shards, sent to Restate all at once, in lanes that run one shard at a time each.

The lanes are keys of a virtual object, so Restate itself keeps the order and the bound, whoever looks on: with as many
lanes as items may run at once, or fewer that share the concurrency, no more than that run on all workers together.
Shards are small, and their outputs are all that is needed to see the job advance.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from restate_nb.backends.base import Connection
from restate_nb.backends.local import ended_outside
from restate_nb.backends.worker_pause import WorkerPause
from restate_nb.backends.worker_registry import WorkerStats
from restate_nb.engine.function import Function
from restate_nb.engine.outbox import FAIL_FAST, cancelled
from restate_nb.engine.output import OutputCapture
from restate_nb.engine.pool import OnUnkept
from restate_nb.engine.record import ERROR, Attempt, Failure, is_unkept
from restate_nb.engine.stacks import RunningItem
from restate_nb.errors import InvalidInput, InvocationFailed, ServerError
from restate_nb.limits import Range, StopRule
from restate_nb.policy import RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.results.spool import Spool
from restate_nb.server.admin import AT_ONCE, sql_literal
from restate_nb.server.http import UnknownInvocation
from restate_nb.service.received import received
from restate_nb.service.run_spec import share_of
from restate_nb.service.wire import (
    SHARD_HANDLER,
    Manifest,
    ShardRequest,
    encode,
    job_key,
    keys_of_job,
    lanes_service,
    output_decoder,
    shard_key,
)

SHARDS_A_LANE: Final = 8
MAX_SHARD_ITEMS: Final = 1_000
MAX_SHARD_BYTES: Final = 1024 * 1024
"""Small enough that outputs come often, and that little is lost where a lane waits for the last item of a shard."""

_SUBMIT_AT_ONCE: Final = 16
_CANCELLED_CODE: Final = 409
_LOOK: Final = 0.2  # seconds


class WorkersBackend:
    """The shards of one job on workers; see `work.Work`."""

    def __init__(self, connection: Connection, manifest: Manifest, encoded: Spool, ledger: Ledger) -> None:
        assert manifest.lanes is not None
        self._connection = connection
        self._manifest = manifest
        self._encoded = encoded
        self._ledger = ledger
        self._lanes = manifest.lanes
        self._service = lanes_service(connection.session)
        self._key = job_key(manifest.name, manifest.generation)
        self.prints = OutputCapture()
        self.roll = WorkerStats()
        self._concurrency = 0
        self._recipe = manifest.recipe
        self._rule: StopRule | None = None
        self._gave_up: str | None = None
        self._cancelled = False
        self._ending: asyncio.Task[None] | None = None
        self._told_unkept: OnUnkept | None = None
        self._holds_since = 0.0
        self._held = WorkerPause(
            connection, self._service, keys_of_job(manifest.name, manifest.generation, sql_literal)
        )

    @property
    def concurrency(self) -> int:
        return self._concurrency

    def set_concurrency(self, bounds: Range) -> None:
        raise InvalidInput(
            "What is sent to workers carries its concurrency with it. Cancel the job, and go on with another one: "
            "job.cancel(), then run its cell with the new concurrency=, then job.retry_failed()."
        )

    def running_positions(self) -> frozenset[int]:
        return frozenset()  # workers know

    def obstacles(self) -> list[str]:
        found = [] if self._gave_up is None else [f"It starts no further item. {self._gave_up}"]
        return [*found, "It is paused: job.resume() goes on."] if self._held.paused else found

    def running_items(self) -> list[RunningItem]:
        return []

    def provide(self, target: Function, policy: RunPolicy) -> None:
        if policy.bounds.high < self._lanes:
            raise InvalidInput(
                f"The job {self._manifest.name!r} was begun with more items at once, and {self._lanes} of its shards "
                f"run side by side: concurrency={self._lanes} is the least. With fresh=True it begins anew."
            )
        if policy.stop_rule is not None:
            _ = self._connection.admin  # there is no other way to end what runs
        self._concurrency = policy.bounds.high
        self._rule = policy.stop_rule
        self._recipe = self._manifest.recipe

    def listen(self) -> None:
        """Nothing to do: outcomes come with the outputs of shards."""

    def columns(self) -> Mapping[str, Sequence[Any]]:
        return {}

    @property
    def mismatched(self) -> int:
        return 0

    async def restart(self) -> int:
        return 0

    def pause(self) -> None:
        if not self._manifest.paused:
            _ = self._connection.admin  # there is no other way to do it
        self._held.pause()

    def resume(self) -> None:
        self._held.resume()

    def hold(self, told: OnUnkept | None) -> None:
        self._told_unkept, self._holds_since = told, time.time()

    def _look_at(self, attempts: Iterable[Attempt]) -> None:
        if self._told_unkept is None:
            return
        unkept = (each for each in attempts if each.failure is not None and is_unkept(each.failure))
        found = next((each for each in unkept if each.started >= self._holds_since), None)
        if found is not None:
            self._told_unkept(found)

    @property
    def busy(self) -> bool:
        return False

    def reopen(self) -> None:
        self._cancelled, self._gave_up = False, None

    def gives_up(self, round_: int) -> bool:
        if self._rule is not None and self._gave_up is None:
            self._gave_up = self._rule.broken(*self._ledger.tally(round_))
        return self._cancelled or self._gave_up is not None

    async def cancel(self) -> None:
        if self._manifest.cancelled and self._connection.admin_if_any is None:
            self._cancelled = True  # as was done where there was a way to do it
            return
        _ = self._connection.admin  # there is no other way
        self._cancelled = True
        self._held.resume()
        await end_shards(self._connection, self._manifest.name, self._manifest.generation)

    # ------------------------------------------------------------ on the session's loop

    async def finish(
        self,
        round_: int,
        positions: Sequence[int],
        submitted: Callable[[], Awaitable[None]] | None,
        first: int = 0,
    ) -> None:
        shards = list(enumerate(self._cut(positions), first))
        sent = [asyncio.get_running_loop().create_future() for _ in shards]
        looking = asyncio.Semaphore(2 * self._lanes)
        try:
            async with asyncio.TaskGroup() as group:
                if submitted is None:
                    for each in sent:
                        each.set_result(True)
                else:
                    group.create_task(self._submit_all(round_, shards, sent, submitted))
                for (shard, part), each in zip(shards, sent, strict=True):
                    await looking.acquire()  # lanes go forward side by side, so these are the ones that end next
                    task = group.create_task(self._follow(round_, shard, part, each))
                    task.add_done_callback(lambda _: looking.release())
        finally:
            if self._ending is not None:
                self._ending.cancel()
                self._ending = None
            self._held.close()

    def _cut(self, positions: Sequence[int]) -> list[Sequence[int]]:
        """The positions of each shard. They depend on nothing that may be another when the cell is run again."""
        most = min(max(-(-self._manifest.total // (self._lanes * SHARDS_A_LANE)), 1), MAX_SHARD_ITEMS)
        shards: list[Sequence[int]] = []
        begin = size = 0
        for at, position in enumerate(positions):
            length = self._encoded.size(position)
            if at > begin and (at - begin >= most or size + length > MAX_SHARD_BYTES):
                shards.append(positions[begin:at])
                begin, size = at, 0
            size += length
        if begin < len(positions):
            shards.append(positions[begin:])
        return shards

    def _lane(self, shard: int) -> str:
        return f"{self._key}/{shard % self._lanes}"

    async def _submit_all(
        self,
        round_: int,
        shards: Sequence[tuple[int, Sequence[int]]],
        sent: Sequence[asyncio.Future[bool]],
        submitted: Callable[[], Awaitable[None]],
    ) -> None:
        if self._recipe is None:
            raise InvalidInput(f"Not all items of {self._manifest.name!r} were submitted. Run its cell again.")
        slots = asyncio.Semaphore(_SUBMIT_AT_ONCE)
        recipes = [share_of(self._recipe, self._lanes, lane) for lane in range(self._lanes)]

        async def submit(shard: int, positions: Sequence[int], told: asyncio.Future[bool]) -> None:
            try:
                if not self.gives_up(round_):
                    await self._submit(round_, shard, positions, recipes[shard % self._lanes])
                told.set_result(not self.gives_up(round_))
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            for (shard, part), told in zip(shards, sent, strict=True):
                await self._held.until_resumed()
                await slots.acquire()
                group.create_task(submit(shard, part, told))
        await submitted()

    async def _submit(self, round_: int, shard: int, positions: Sequence[int], recipe: str) -> None:
        request = ShardRequest(
            job=self._manifest.name,
            generation=self._manifest.generation,
            round=round_,
            shard=shard,
            function=self._manifest.function,
            positions=list(positions),
            items=list(map(msgspec.Raw, self._encoded.take(positions))),
            recipe=recipe,
        )
        await self._connection.ingress.send(
            self._service,
            SHARD_HANDLER,
            encode(request),
            key=self._lane(shard),
            idempotency_key=request.key(),
            patience=None,
        )

    async def _follow(self, round_: int, shard: int, positions: Sequence[int], sent: asyncio.Future[bool]) -> None:
        there = await sent
        key: str | None = shard_key(self._manifest.name, self._manifest.generation, round_, shard)
        while key is not None:
            try:
                body = await self._connection.ingress.attach(self._service, SHARD_HANDLER, key, key=self._lane(shard))
            except UnknownInvocation as failure:
                # never sent, or cancelled in the queue of its lane; or purged
                self._end(round_, positions, failure if there and not self.gives_up(round_) else None)
                return
            except InvocationFailed as failure:
                self._end(round_, positions, failure)
                return
            output = received(output_decoder, body, "a shard's outcomes")
            self.roll.note(output)
            for group in output.groups:
                self._ledger.apply(round_, group, time.time())
                self._look_at(group)
            key = output.next
            if self._rule is not None and not self._cancelled and self.gives_up(round_) and self._ending is None:
                self._ending = asyncio.create_task(self._end_the_rest())

    async def _end_the_rest(self) -> None:
        while True:
            with suppress(ServerError):  # Restate is away, and runs nothing meanwhile
                await self.cancel()
            await asyncio.sleep(_LOOK)  # some may have been on their way

    def _end(self, round_: int, positions: Sequence[int], failure: InvocationFailed | UnknownInvocation | None) -> None:
        """The shard was not run, or not to its end: its open items will have no other outcome."""
        lost = [position for position in positions if not self._ledger.knows([position])]
        if isinstance(failure, UnknownInvocation):
            attempts = [cancelled(position, 1, reason=ended_outside(failure)) for position in lost]
        elif self._gave_up is not None and (failure is None or failure.code == _CANCELLED_CODE):
            attempts = [cancelled(position, 1, reason=self._gave_up, kind=FAIL_FAST) for position in lost]
        elif failure is None or (failure.code == _CANCELLED_CODE and self._cancelled):
            attempts = [cancelled(position, 1) for position in lost]
        elif failure.code == _CANCELLED_CODE:
            attempts = [cancelled(position, 1, reason=ended_outside(failure)) for position in lost]
        else:
            why = Failure(type(failure).__name__, failure.reason)
            attempts = [Attempt(position, 1, ERROR, time.time(), 0.0, failure=why) for position in lost]
        self._ledger.apply(round_, attempts, 0)


async def end_shards(connection: Connection, job: str, generation: int) -> None:
    """Cancel what a job has on workers, or in the queues of their lanes: the last first, so that nothing moves up.

    Args:
        connection: to the workers.
        job: its name.
        generation: of the job.

    Raises:
        InvalidInput: there is no admin API.
    """
    admin, service = connection.admin, lanes_service(connection.session)
    rows = await admin.query(
        "select id, status from sys_invocation where status <> 'completed' "
        f"and target_service_name = {sql_literal(service)} "
        f"and {keys_of_job(job, generation, sql_literal)} order by created_at desc"
    )
    slots = asyncio.Semaphore(AT_ONCE)

    async def end(invocation: str, paused: bool) -> None:
        async with slots:
            try:
                await admin.cancel(invocation)
                if paused:
                    await admin.resume(invocation)  # it has to run to be told
            except UnknownInvocation:
                return  # it has ended

    await asyncio.gather(*(end(str(row["id"]), row["status"] == "paused") for row in rows))
