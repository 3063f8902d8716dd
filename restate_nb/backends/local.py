"""Items of plain functions: thousands to an invocation, run by this process, recorded in groups."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from restate_nb.backends.base import Connection
from restate_nb.engine import nesting
from restate_nb.engine.adaptive import AdaptiveConcurrency
from restate_nb.engine.asking import refuse_in_items
from restate_nb.engine.function import Function
from restate_nb.engine.outbox import cancelled
from restate_nb.engine.output import OutputCapture
from restate_nb.engine.pool import OnUnkept
from restate_nb.engine.record import Attempt
from restate_nb.engine.stacks import RunningItem
from restate_nb.environment import in_notebook
from restate_nb.errors import InvocationFailed
from restate_nb.handle.diagnosis import obstacles_of, shortage_of
from restate_nb.limits import Range, StopRule
from restate_nb.policy import RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.results.spool import Spool
from restate_nb.server.http import UnknownInvocation
from restate_nb.service.received import received
from restate_nb.service.wire import (
    SHARD_HANDLER,
    Manifest,
    ShardRequest,
    encode,
    items_service,
    output_decoder,
    shard_key,
)

MAX_SHARD_ITEMS: Final = 10_000
MAX_SHARD_BYTES: Final = 8 * 1024 * 1024
"""Bounds of a shard's input: far from the 32 MiB of a message, and enough shards for many workers."""

MAX_UNFINISHED_BYTES: Final = 48 * 1024 * 1024
"""Input of shards that Restate has and that have not ended: restate-server hands all of them to this process at once,
and gives up on invocations for which its memory (128 MiB for this in a managed server) has no room."""

_SUBMIT_AT_ONCE: Final = 4


class LocalBackend:
    """The shards of one job; see `work.Work`."""

    def __init__(self, connection: Connection, manifest: Manifest, encoded: Spool, ledger: Ledger) -> None:
        self._connection = connection
        self._manifest = manifest
        self._encoded = encoded
        self._ledger = ledger
        self._service = items_service(connection.session)
        self._run = connection.runs.get(manifest.name, manifest.generation)
        self.prints = OutputCapture()
        self._slots = asyncio.Semaphore(_SUBMIT_AT_ONCE)
        self._unfinished = 0  # bytes
        self._room = asyncio.Condition()
        self._rule: StopRule | None = None
        self._latest = len(manifest.rounds) - 1  # round
        self._asked: Range | None = None  # what the pool has not taken up yet

    @property
    def concurrency(self) -> int:
        asked = self._asked
        return self._run.pool.concurrency if asked is None else AdaptiveConcurrency(asked).limit

    def set_concurrency(self, bounds: Range) -> None:
        self._run.pool.soon(self._run.pool.set_concurrency, bounds)
        self._ask(bounds)

    def _ask(self, bounds: Range) -> None:
        self._asked = bounds

        def taken() -> None:
            if self._asked is bounds:
                self._asked = None

        self._run.pool.soon(taken)

    def running_positions(self) -> frozenset[int]:
        return self._run.pool.running_positions()

    def obstacles(self) -> list[str]:
        return obstacles_of(self._run.pool, self._manifest.function)

    @property
    def shortage(self) -> str:
        """What the machine has too little of, in words; empty when it has enough."""
        return shortage_of(self._run.pool)

    def running_items(self) -> list[RunningItem]:
        return self._run.pool.running_items()

    def provide(self, target: Function, policy: RunPolicy) -> None:
        self._rule = policy.stop_rule
        refuse_in_items()
        context = self.prints.context(bounded=in_notebook())
        pool = weakref.ref(self._run.pool)
        context.run(nesting.enter, self.prints.job, lambda at: None if (it := pool()) is None else it.permit(at))
        self._run.provide(context.run(target.work, policy.retry), policy)
        self._ask(policy.bounds)

    def listen(self) -> None:
        def told(round_: int, attempts: Sequence[Attempt]) -> None:
            self._ledger.apply(round_, attempts, time.time())
            if self._rule is not None and round_ == self._latest and not self._run.pool.stopped:
                # the pool has counted too, but not what an earlier process recorded
                reason = self._rule.broken(*self._ledger.tally(round_))
                if reason is not None:
                    self._run.stop(reason)

        self._run.listen(told)

    def pause(self) -> None:
        self._run.pause()

    def resume(self) -> None:
        self._run.resume()

    def hold(self, told: OnUnkept | None) -> None:
        self._run.pause_on_unkept(told)

    @property
    def busy(self) -> bool:
        return self._run.busy

    async def cancel(self) -> None:
        self._run.cancel()

    def reopen(self) -> None:
        self._run.reopen()

    def columns(self) -> Mapping[str, Sequence[Any]]:
        return {}

    @property
    def mismatched(self) -> int:
        return 0  # the journal of a shard holds outcomes, whatever the function does

    async def restart(self) -> int:
        return 0

    def gives_up(self, round_: int) -> bool:
        if self._rule is not None and round_ == self._latest:
            reason = self._rule.broken(*self._ledger.tally(round_))  # what an earlier process recorded counts too
            if reason is not None:
                self._run.stop(reason)
                return True
        return self._run.is_stopping

    async def finish(
        self,
        round_: int,
        positions: Sequence[int],
        submitted: Callable[[], Awaitable[None]] | None,
        first: int = 0,
    ) -> None:
        self._latest = max(self._latest, round_)
        shards = self._numbered(positions, first)
        async with asyncio.TaskGroup() as group:
            sending: dict[int, asyncio.Task[None]] = {}
            if submitted is not None:
                sending = {shard: group.create_task(self._submit(round_, shard, each)) for shard, each in shards}
                group.create_task(_after(list(sending.values()), submitted))
            for shard, each in shards:
                group.create_task(self._follow(round_, shard, each, sending.get(shard)))

    def _numbered(self, positions: Sequence[int], first: int) -> list[tuple[int, Sequence[int]]]:
        """The positions of each shard, and its number. A batch has shards of its own, numbered from where it begins
        among the items, so that they have the same numbers whoever cuts them, and whenever."""
        size = self._manifest.batch or len(positions) or 1
        return [
            (first + start + number, shard)
            for start in range(0, len(positions), size)
            for number, shard in enumerate(self._cut(positions[start : start + size]))
        ]

    def _cut(self, positions: Sequence[int]) -> list[Sequence[int]]:
        """The positions of each shard."""
        shards: list[Sequence[int]] = []
        begin = size = 0
        for at, position in enumerate(positions):
            length = self._encoded.size(position)
            if at > begin and (at - begin >= MAX_SHARD_ITEMS or size + length > MAX_SHARD_BYTES):
                shards.append(positions[begin:at])
                begin, size = at, 0
            size += length
        if begin < len(positions):
            shards.append(positions[begin:])
        return shards

    async def _submit(self, round_: int, shard: int, positions: Sequence[int]) -> None:
        await self._wait_for_room(sum(map(self._encoded.size, positions)))
        try:
            async with self._slots:  # so that few requests are in memory
                request = ShardRequest(
                    job=self._manifest.name,
                    generation=self._manifest.generation,
                    round=round_,
                    shard=shard,
                    function=self._manifest.function,
                    positions=list(positions),
                    items=list(map(msgspec.Raw, self._encoded.take(positions))),
                )
                await self._connection.ingress.send(
                    self._service, SHARD_HANDLER, encode(request), idempotency_key=request.key(), patience=None
                )
        except BaseException:
            self._unfinished -= sum(map(self._encoded.size, positions))  # it is not there; the job may be followed anew
            raise

    async def _wait_for_room(self, size: int) -> None:
        async with self._room:
            while self._unfinished and self._unfinished + size > MAX_UNFINISHED_BYTES:
                await self._room.wait()
            self._unfinished += size

    async def _make_room(self, size: int) -> None:
        async with self._room:
            self._unfinished -= size
            self._room.notify_all()

    async def _follow(
        self, round_: int, shard: int, positions: Sequence[int], sending: asyncio.Task[None] | None
    ) -> None:
        if sending is not None:
            await sending
        try:
            await self._see_through(round_, shard, positions)
        finally:
            if sending is not None:
                await self._make_room(sum(map(self._encoded.size, positions)))

    async def _see_through(self, round_: int, shard: int, positions: Sequence[int]) -> None:
        key: str | None = shard_key(self._manifest.name, self._manifest.generation, round_, shard)
        while key is not None:
            try:
                body = await self._connection.ingress.attach(self._service, SHARD_HANDLER, key)
            except (InvocationFailed, UnknownInvocation) as failure:
                self._run.drop((round_, shard))
                self._give_up(round_, positions, failure)
                return
            key = received(_next_decoder, body, "a shard's outcomes").next
            if not self._ledger.knows(positions):
                for group in received(output_decoder, body, "a shard's outcomes").groups:
                    self._ledger.apply(round_, group, 0)

    def _give_up(self, round_: int, positions: Sequence[int], failure: InvocationFailed | UnknownInvocation) -> None:
        """The shard was ended or purged from outside, in the Restate UI or CLI: its open items will have no outcome."""
        lost = [position for position in positions if not self._ledger.knows([position])]
        reason = ended_outside(failure)
        self._ledger.apply(round_, [cancelled(position, 1, reason=reason) for position in lost], 0)


def ended_outside(failure: InvocationFailed | UnknownInvocation) -> str:
    """Why items have no outcome whose invocation was ended, or purged, in the Restate UI or CLI."""
    if isinstance(failure, UnknownInvocation):
        return f"Restate keeps this part of the job no longer: {failure} job.retry_failed() runs its items again."
    return f"Restate ended this part of the job: {failure}"


async def _after(tasks: list[asyncio.Task[None]], then: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*tasks)
    await then()


class _Next(msgspec.Struct):
    next: str | None = None


_next_decoder = msgspec.json.Decoder(_Next)
